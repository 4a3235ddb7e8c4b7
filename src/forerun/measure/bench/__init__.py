"""Results of load generators, one reader a format; which one is told by the content.

A reader `<format>.py` has TOOL, detect(document) and read(document, path) -> runs; a document is
what `documents` gives.  Unknown keys are left alone, missing ones are named.
"""

from __future__ import annotations

import importlib
from pathlib import Path

from forerun.errors import SpecError
from forerun.measure.bench._bench import Bench, check_run, rebuild
from forerun.measure.bench._document import documents
from forerun.measure.bench._export import vllm_result

#: the order in which formats are tried
FORMATS = ("vllm_serve", "sglang_serve", "guidellm", "aiperf", "prometheus")

#: what Python says of a list where a number belongs, and its like
WRONG_KIND = (
    TypeError, ValueError, AttributeError, KeyError, IndexError, ArithmeticError,
)  # fmt: skip

__all__ = ["FORMATS", "Bench", "read", "rebuild", "vllm_result"]


def read(path: str | Path) -> tuple[Bench, ...]:
    """Every run in a file, in its order.

    Raises SpecError for a file that cannot be read, is damaged, is of no known format, lacks what
    its format must have, or holds values that no run has.
    """
    path = Path(path)
    found = documents(path)
    for name in FORMATS:
        module = importlib.import_module(f"{__name__}.{name}")
        try:
            if not module.detect(found):
                continue
            runs: tuple[Bench, ...] = module.read(found, path)
        except WRONG_KIND as error:  # any value of foreign JSON may be of another kind
            first = str(error).splitlines()[0] if str(error) else type(error).__name__
            what = f"has a value of a kind that {module.TOOL} does not write ({first[:100]})"
            raise SpecError.one(str(path), what, "the file as it was saved") from error
        problems = [problem for run in runs for problem in check_run(run)]
        if problems:
            raise SpecError(*problems)
        return runs
    what = "is no result of a load generator that is known here"
    raise SpecError.one(str(path), what, "one of: vllm bench serve, sglang.bench_serving, "
                        "guidellm, aiperf, a Prometheus range query")  # fmt: skip
