"""Tables of measured operators, one reader a format; each becomes `Rows` and seconds.

A reader is a file here with

    recognises(path) -> bool       cheap: names and headers, not whole files
    read(path) -> list[Table]      rows checked by `_checks.checked`
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import numpy as np

from forerun.errors import Problem, SpecError, nearest
from forerun.measure.tables._table import Table

__all__ = ["Table", "formats", "read_all", "read_tables", "reader"]


#: of files that may be tables
ENDINGS = (".csv", ".csv.gz", ".parquet")


@functools.cache
def formats() -> tuple[str, ...]:
    """Names of the formats that are read, sorted; `plain` is a user's own table."""
    found = (info.name for info in pkgutil.iter_modules(__path__))
    return tuple(sorted(name for name in found if not name.startswith("_")))


def reader(name: str) -> ModuleType:
    """The reader of a format.  Raises SpecError with the nearest names."""
    if name not in formats():
        raise SpecError.one(f"format {name!r}", "is not known", nearest(name, formats()))
    return importlib.import_module(f"{__name__}.{name}")


def read_tables(path: str | Path, form: str | None = None) -> list[Table]:
    """All tables of a file or folder; a folder of several sets is searched two levels down.

    Raises SpecError for a path that is missing or that no format recognises, and what the readers
    raise for rows that cannot be.
    """
    path = Path(path)
    if not path.exists():
        raise SpecError.one(str(path), "there is no such file or folder", "a table or a folder")
    if form is not None:
        found = _all(reader(form), path)
        if not found:
            what = f"holds no table of the format {form}"
            raise SpecError.one(str(path), what, "see the reference page of measured tables")
        return found
    places = _places(path)
    if path.is_file() and not places:
        places = [path]  # taken for a table of one's own, whose reader says what it lacks
    found = [table for place in places for table in _read(place)]
    if not found:
        known = ", ".join(formats())
        raise SpecError.one(str(path), "holds no table of a known format", f"one of {known}")
    return found


def read_all(paths: Sequence[str | Path], form: str | None = None) -> list[Table]:
    """The tables of all paths.  Raises SpecError with the problems of all of them."""
    found: list[Table] = []
    problems: list[Problem] = []
    for path in paths:
        try:
            found += read_tables(path, form)
        except SpecError as error:
            problems += error.problems
    if problems:
        raise SpecError(*problems)
    return found


def _read(place: Path) -> list[Table]:
    for name in formats():
        if reader(name).recognises(place):
            return _all(reader(name), place)
    return _all(reader("plain"), place) if place.is_file() else []


def _all(module: ModuleType, path: Path) -> list[Table]:
    """What a reader gives.  Widths divided by a zero are endless, which the checks refuse."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        return list(module.read(path))


def _places(path: Path) -> list[Path]:
    """The path itself where a format knows it, else the folders and files in it that one knows."""
    if any(reader(name).recognises(path) for name in formats()):
        return [path]
    if not path.is_dir():
        return []
    inside = sorted(p for p in path.iterdir() if p.is_dir() or p.name.endswith(ENDINGS))
    known = [p for p in inside if any(reader(name).recognises(p) for name in formats())]
    return known or [q for p in inside if p.is_dir() for q in _places(p)]
