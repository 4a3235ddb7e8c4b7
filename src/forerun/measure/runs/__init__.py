"""Measured serving runs of others, as questions and the latencies that were seen.

One file a format: `recognises(path)` and `read(path) -> Runs`.
"""

from __future__ import annotations

import importlib
import pkgutil
from pathlib import Path

from forerun.errors import SpecError
from forerun.measure.runs._runs import Runs, joined

__all__ = ["Runs", "formats", "joined", "read_runs"]


def formats() -> tuple[str, ...]:
    """Names of the formats that are read, sorted; `plain` is a table of one's own."""
    found = (info.name for info in pkgutil.iter_modules(__path__))
    return tuple(sorted(name for name in found if not name.startswith("_")))


def read_runs(path: str | Path) -> Runs | None:
    """The runs in a file or in the one file of a folder; None where no format knows it.

    Raises SpecError for a path that does not exist, and what a reader raises.
    """
    path = Path(path)
    if not path.exists():
        raise SpecError.one(str(path), "there is no such file or folder", "a table or a folder")
    for place in [path] if path.is_file() else sorted(p for p in path.iterdir() if p.is_file()):
        for name in formats():
            module = importlib.import_module(f"{__name__}.{name}")
            if module.recognises(place):
                return module.read(place)
    return None
