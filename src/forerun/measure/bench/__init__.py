"""Results of load generators, one reader a format; which one is told by the content.

A reader `<format>.py` has TOOL, detect(document) and read(document, path) -> runs; a document is
what `documents` gives.  Unknown keys are left alone, missing ones are named.
"""

from __future__ import annotations

import importlib
from pathlib import Path

from forerun.errors import SpecError
from forerun.measure.bench._bench import Bench, rebuild
from forerun.measure.bench._document import documents
from forerun.measure.bench._export import vllm_result

#: the order in which formats are tried
FORMATS = ("vllm_serve", "sglang_serve", "guidellm", "aiperf", "prometheus")

__all__ = ["FORMATS", "Bench", "read", "rebuild", "vllm_result"]


def read(path: str | Path) -> tuple[Bench, ...]:
    """Every run in a file, in its order.

    Raises SpecError for a file that cannot be read, is damaged, is of no known format, or lacks
    what its format must have.
    """
    found = documents(Path(path))
    for name in FORMATS:
        module = importlib.import_module(f"{__name__}.{name}")
        if module.detect(found):
            return module.read(found, Path(path))
    what = "is no result of a load generator that is known here"
    raise SpecError.one(str(path), what, "one of: vllm bench serve, sglang.bench_serving, "
                        "guidellm, aiperf, a Prometheus range query")  # fmt: skip
