"""A table of one's own: the columns of `forerun predict serving` with `ttft_s` and `tpot_s`.

`ttft_ms` and `tpot_ms` serve as well.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from forerun.errors import SpecError
from forerun.measure.runs._runs import Runs, without_repeats
from forerun.spec.columns import Columns, read_columns

NEEDED = ("model", "device", "isl", "osl")
UNITS = {"_s": 1.0, "_ms": 1e-3}


def recognises(path: Path) -> bool:
    """A CSV or Parquet file of configurations with both latencies."""
    if not path.name.endswith((".csv", ".csv.gz", ".parquet")):
        return False
    try:
        names = set(read_columns(path).names)
    except SpecError:
        return False
    return set(NEEDED) <= names and all(_unit(names, f) is not None for f in ("ttft", "tpot"))


def read(path: Path) -> Runs:
    """The runs of a file.  Raises SpecError for latencies that are no positive numbers."""
    table = read_columns(path)
    seconds = {}
    for figure in ("ttft", "tpot"):
        unit = _unit(set(table.names), figure)
        values, _ = table.number(f"{figure}{unit}")
        seconds[figure] = values * UNITS[unit or "_s"]
    bad = ~((seconds["ttft"] > 0) & (seconds["tpot"] > 0))
    if bad.all():
        raise SpecError.one(str(path), "has no row with both latencies", "ttft_s and tpot_s")
    measured = {f"{f}{u}" for f in ("ttft", "tpot") for u in UNITS}
    names = tuple(name for name in table.names if name not in measured)
    asked = Columns(names, {name: table.cells[name] for name in names}, table.n)
    note = np.full(table.n, "", dtype=object)
    found = Runs(asked, seconds["ttft"], seconds["tpot"], note, path.stem, str(path), "one's own")
    return without_repeats(found.take(~bad))


def _unit(names: set[str], figure: str) -> str | None:
    return next((unit for unit in UNITS if f"{figure}{unit}" in names), None)
