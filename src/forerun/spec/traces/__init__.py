"""Traces of real traffic: read any known format, write some, and say which it is.

A format is a file beside this one with `NAME`, `detect(head)`, `read(path, ...)` and, where others
can read it back, `write(requests, path)`.  Formats are told by content, not by file name.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from forerun.errors import TraceError, nearest
from forerun.spec.requests import Requests
from forerun.spec.traces._source import Head, head_of

__all__ = ["Head", "convert", "detect", "draws", "formats", "read", "writable"]


@cache
def _modules() -> dict[str, ModuleType]:
    names = [m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_")]
    modules = [importlib.import_module(f"{__name__}.{name}") for name in names]
    return {module.NAME: module for module in modules if hasattr(module, "NAME")}


def formats() -> tuple[str, ...]:
    """Names of the formats that can be read."""
    return tuple(sorted(_modules()))


def writable() -> tuple[str, ...]:
    """Names of the formats that `convert` can write."""
    return tuple(sorted(name for name, module in _modules().items() if hasattr(module, "write")))


def detect(path: str | Path) -> str:
    """The format of a file.  Raises TraceError when none, or more than one, fits."""
    head = head_of(path)
    scores = {name: float(module.detect(head)) for name, module in _modules().items()}
    best = max(scores.values())
    fits = sorted(name for name, score in scores.items() if score == best)
    if best == 0:
        raise TraceError.one(str(path), _unknown(head), "--format " + ", ".join(formats()))
    if len(fits) > 1:
        raise TraceError.one(str(path), f"may be {' or '.join(fits)}", f"--format {fits[0]}")
    return fits[0]


def _unknown(head: Head) -> str:
    if head.kind == "folder":
        names = sorted(p.name for p in head.path.iterdir())[:6]
        holds = f" (it holds {', '.join(names)})" if names else " (it is empty)"
        return f"is a folder without one ServeGen pair{holds}; name a file"
    if head.kind == "prefix":
        return "there is no such file"
    if head.record is not None:
        return f"no known trace format has records with {', '.join(list(head.record)[:8])}"
    if head.columns:
        return f"no known trace format has the columns {', '.join(head.columns[:8])}"
    return "begins like JSON, but its first record cannot be read"


def draws(format: str) -> bool:
    """Does reading this format draw requests at random (and so take a seed)?"""
    return "seed" in inspect.signature(_module(format).read).parameters


def read(
    path: str | Path,
    *,
    format: str | None = None,
    skip_bad: bool = False,
    sort: bool = False,
    **options: Any,
) -> Requests:
    """The requests of a trace file, whatever its format, gzip or not.

    skip_bad: leave out rows that cannot be used and count them by reason in `meta["skipped"]`;
              also sorts, as `sort` does.  Without it one bad row refuses the file.
    sort    : put rows in order of arrival; `meta["sorted"]` counts those that were not.
    options : for formats that draw (servegen): seed, start_s, duration_s.
    Raises TraceError with the line and the reason of the first 20 bad rows and a count of all.
    """
    name = format or detect(path)
    module = _module(name)
    known = set(inspect.signature(module.read).parameters)
    foreign = sorted(set(options) - known)
    if foreign:
        raise TraceError.one(str(path), f"{name} traces take no {', '.join(foreign)}")
    if format:
        head = head_of(path)  # says what is wrong with a missing or empty file
        if head.kind in ("folder", "prefix") and name != "servegen":
            what = "is a folder" if head.kind == "folder" else "there is no such file"
            raise TraceError.one(str(path), f"{what}, so no {name} trace")
    return module.read(path, skip_bad=skip_bad, sort=sort, **options)


def convert(requests: Requests, path: str | Path, format: str) -> tuple[str, ...]:
    """Writes requests in a format.  Returns sentences: what the format could not hold."""
    module = _module(format)
    if not hasattr(module, "write"):
        what = f"{format} traces can be read, not written"
        raise TraceError.one("format", what, "one of: " + ", ".join(writable()))
    return module.write(requests, path)


def _module(name: str) -> ModuleType:
    if name not in _modules():
        what = f"no trace format is called {name!r}"
        raise TraceError.one("format", what, nearest(name, formats()))
    return _modules()[name]
