"""A table of one's own: the columns of `forerun predict ops` and `time_s`, CSV or Parquet.

`time_ms`, `time_us`, `latency_ms` and `latency_us` serve as well.  What `forerun measure` writes is
such a table.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from forerun.cost.rows import NUMBERS, TEXTS, Rows
from forerun.errors import Problem, SpecError
from forerun.measure.tables._checks import checked
from forerun.measure.tables._table import Table
from forerun.spec.columns import Columns, read_columns

#: columns that may hold the time, and seconds of their unit
TIMES = {
    "time_s": 1.0, "latency_s": 1.0, "time_ms": 1e-3, "latency_ms": 1e-3, "time_us": 1e-6,
    "latency_us": 1e-6,
}  # fmt: skip
NEEDED = ("device", "op")


def recognises(path: Path) -> bool:
    """A CSV or Parquet file with the columns `op` and `device` and a time."""
    if not path.is_file() or not (path.name.endswith((".csv", ".csv.gz", ".parquet"))):
        return False
    try:
        names = set(read_columns(path).names)
    except SpecError:
        return False
    return set(NEEDED) <= names and bool(names & set(TIMES))


def read(path: Path) -> Iterator[Table]:
    """The one table of the file.

    Raises SpecError with every missing column, and every cell that should be a number, at once.
    """
    table = read_columns(path)
    time = next((name for name in TIMES if name in table.cells), None)
    lacking = [name for name in NEEDED if name not in table.cells]
    if time is None:
        lacking.append("time_s")
    if lacking:
        have = ", ".join(table.names[:12])
        what = f"lacks the column{'s' * (len(lacking) > 1)} {', '.join(lacking)}"
        raise SpecError.one(str(path), what, f"it has {have}")
    assert time is not None
    number = {name: _numbers(table, name, path) for name in NUMBERS if name in table.cells}
    text = {name: table.text(name) for name in TEXTS if name in table.cells}
    time_s = _numbers(table, time, path) * TIMES[time]
    yield checked(
        Rows(table.n, number, text), time_s, name=str(path), origin=f"own table {path.name}",
        licence="own",
    )  # fmt: skip


def _numbers(table: Columns, name: str, path: Path) -> np.ndarray:
    values, bad = table.number(name)
    if bad.any():
        raise SpecError(*(
            Problem(f"{path}:{i + 2} {name}", f"{table.cells[name][i]!r} is not a number",
                    "a number, or an empty cell for not given")
            for i in np.flatnonzero(bad)[:20]
        ))  # fmt: skip
    return values
