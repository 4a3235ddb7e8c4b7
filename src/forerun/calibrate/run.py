"""Fit all families to tables, several at once, and write what was fitted."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

from forerun.calibrate.accuracy import Judged, judge
from forerun.calibrate.operators import Data, Fitted, fit, gathered
from forerun.cost.calibration import save
from forerun.errors import SpecError
from forerun.measure.tables import read_tables


@dataclass(frozen=True, eq=False)
class Calibrated:
    """What a run fitted, and how it did on rows held out."""

    fits: tuple[Fitted, ...]
    judged: tuple[Judged, ...]


def calibrate(
    paths: Sequence[str | Path], *, only: str | None = None, form: str | None = None,
    workers: int = 1, say: Callable[[str], None] = lambda _: None,
) -> Calibrated:  # fmt: skip
    """Fits every family that the tables at `paths` have rows of.

    only : one family; form : the tables' format, else recognised; workers : processes.
    Raises SpecError where a path is no table, or no row is of an operator with a family.
    """
    tables = [table for path in paths for table in read_tables(path, form)]
    dropped = sum(sum(table.n_dropped.values()) for table in tables)
    say(f"{sum(t.rows.n for t in tables):,} rows of {len(tables)} tables; {dropped:,} left out")
    data = gathered(tables, only=only)
    if not data:
        what = f"no row is of {'the family ' + only if only else 'an operator with a family'}"
        raise SpecError.one(str(paths[0]), what, "see the ops of `forerun predict ops`")
    return fitted(data, workers=workers)


def fitted(data: Sequence[Data], *, workers: int = 1) -> Calibrated:
    """Fits every family's rows, the largest first, so many families at once."""
    date = datetime.date.today().isoformat()
    data = sorted(data, key=lambda d: -d.x.n)
    if workers > 1 and len(data) > 1:
        with ProcessPoolExecutor(min(workers, len(data)), get_context("spawn")) as pool:
            found = list(pool.map(_one, data, [date] * len(data)))
    else:
        found = [_one(d, date) for d in data]
    return Calibrated(tuple(f for f, _ in found), tuple(j for _, js in found for j in js))


def _one(data: Data, date: str) -> tuple[Fitted, list[Judged]]:
    found = fit(data, date=date)
    return found, [judge(data, scored) for scored in found.scored]


def write(calibrated: Calibrated, folder: Path) -> list[Path]:
    """Every calibration into `<folder>/<family>/`."""
    return [save(c, folder) for found in calibrated.fits for c in found.calibrations]
