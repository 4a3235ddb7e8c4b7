"""A table of one's own: the columns of `forerun predict ops` and `time_s`, CSV or Parquet.

`time_ms`, `time_us`, `latency_ms` and `latency_us` serve as well.  What `forerun measure` writes is
such a table.
"""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from forerun.cost.rows import NUMBERS, TEXTS, Rows
from forerun.errors import Problem, SpecError
from forerun.measure.tables._checks import TOLD, checked
from forerun.measure.tables._table import Table
from forerun.spec.columns import Columns, read_columns

#: columns that may hold the time, and seconds of their unit
TIMES = {
    "time_s": 1.0, "latency_s": 1.0, "time_ms": 1e-3, "latency_ms": 1e-3, "time_us": 1e-6,
    "latency_us": 1e-6,
}  # fmt: skip
NEEDED = ("device", "op")
#: columns of words that are the same in capitals
LOWERED = ("op", "dtype", "kv_dtype", "impl")


def recognises(path: Path) -> bool:
    """A CSV or Parquet file with the columns `op` and `device` and a time."""
    if not path.is_file() or not path.name.endswith((".csv", ".csv.gz", ".parquet")):
        return False
    try:
        names = set(_header(path))
    except (SpecError, OSError, EOFError, UnicodeDecodeError):
        return False
    return set(NEEDED) <= names and bool(names & set(TIMES))


def _header(path: Path) -> tuple[str, ...]:
    """The names of the columns, of a text file by its first line alone."""
    if path.suffix == ".parquet":
        return read_columns(path).names
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rt", encoding="utf-8-sig") as file:
        first = file.readline()
    return tuple(name.strip().strip('"') for name in first.split(max(",;\t", key=first.count)))


def read(path: Path) -> Iterator[Table]:
    """The one table of the file.

    Raises SpecError with every missing column, every cell that should be a number, and every row
    that cannot be, at once.
    """
    table = read_columns(path)
    times = [name for name in TIMES if name in table.cells]
    problems = []
    lacking = [name for name in NEEDED if name not in table.cells]
    if not times:
        lacking.append("time_s")
    if lacking:
        have = ", ".join(table.names[:12])
        what = f"lacks the column{'s' * (len(lacking) > 1)} {', '.join(lacking)}"
        problems.append(Problem(str(path), what, f"it has {have}"))
    if len(times) > 1:
        what = f"holds more than one time: {', '.join(times)}"
        problems.append(Problem(str(path), what, "one of them"))
    number = {}
    for name in (n for n in (*NUMBERS, *times[:1]) if n in table.cells):
        number[name], bad = table.number(name)
        problems += _not_numbers(table, name, np.flatnonzero(bad), path)
    if problems:
        raise SpecError(*problems)
    text = {n: table.words(n, lower=n in LOWERED) for n in TEXTS if n in table.cells}
    time_s = number.pop(times[0]) * TIMES[times[0]]
    found = checked(
        Rows(table.n, number, text), time_s, name=str(path), origin=f"own table {path.name}",
        licence="own", strict=True, file=path, where=lambda i: f"{path}{table.place(i)}",
    )  # fmt: skip
    # the name tells a measurement again that a calibration was fitted to, wherever its file lies
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
    yield replace(found, name=f"{path.name}#{digest}")


def _not_numbers(table: Columns, name: str, at: np.ndarray, path: Path) -> list[Problem]:
    found = [
        Problem(f"{path}{table.place(i)} {name}", f"{table.cells[name][i]!r} is not a number",
                "a number, or an empty cell for not given")
        for i in at[:TOLD]
    ]  # fmt: skip
    if len(at) > TOLD:
        what = f"and {len(at) - TOLD:,} more cells like these"
        found.append(Problem(f"{path}{table.place(at[TOLD])} {name}", what))
    return found
