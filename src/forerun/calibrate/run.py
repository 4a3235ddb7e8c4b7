"""Fit all families to tables, several at once, and write what was fitted."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

from forerun.calibrate.data import Data, gathered, unanswered
from forerun.calibrate.judged import Judged, judge
from forerun.calibrate.operators import Each, Fitted, fit
from forerun.cost.calibration import save
from forerun.cost.families import families
from forerun.errors import SpecError, nearest
from forerun.measure.tables import Table, read_all
from forerun.measure.threads import pin


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
    check_family(only)
    tables = read_all(paths, form)
    say(f"{sum(t.rows.n for t in tables):,} rows of {counted(len(tables), 'table')}")
    for line in left_out(tables):
        say(line)
    data = gathered(tables, only=only)
    if not data:
        what = f"no row is of {'the family ' + only if only else 'an operator with a family'}"
        raise SpecError.one(str(paths[0]), what, "see the ops of `forerun predict ops`")
    return fitted(data, workers=workers)


def check_family(name: str | None) -> None:
    """Raises SpecError for a name that is no family's."""
    if name is not None and name not in families():
        raise SpecError.one(f"--family {name}", "is not known", nearest(name, families()))


def counted(n: int, word: str) -> str:
    """ "1 table", "2 tables"."""
    return f"{n:,} {word}{'s' * (n != 1)}"


def left_out(tables: Sequence[Table]) -> list[str]:
    """What is to be said about rows that were not taken as they stand, a line a reason."""
    total: dict[str, int] = {}
    for table in tables:
        for reason, n in table.n_dropped.items():
            total[reason] = total.get(reason, 0) + n
    for op, n in unanswered(tables).items():
        total[f"of {op}, which no family of operators answers"] = n
    return [f"  {n:,} {reason}" for reason, n in total.items()]


def fitted(data: Sequence[Data], *, workers: int = 1) -> Calibrated:
    """Fits every family's rows, the largest first, in so many processes."""
    one = partial(_one, date=datetime.date.today().isoformat())
    data = sorted(data, key=lambda d: -d.x.n)
    n_devices = sum(len(set(d.s.device)) for d in data)
    if min(workers, n_devices) > 1:
        # devices are shared out, not families: products alone are half of the work.  One thread
        # each: the libraries' own would wait for each other, and take four times the work
        with (
            ProcessPoolExecutor(min(workers, n_devices), get_context("spawn"), pin, (1,)) as pool,
            ThreadPoolExecutor(len(data)) as families,
        ):
            found = list(families.map(partial(one, each=pool.map), data))
    else:
        found = [one(d) for d in data]
    return Calibrated(tuple(f for f, _ in found), tuple(j for _, js in found for j in js))


def _one(data: Data, date: str, each: Each = map) -> tuple[Fitted, list[Judged]]:
    found = fit(data, date=date, each=each)
    return found, [judge(data, scored) for scored in found.scored]


def write(calibrated: Calibrated, folder: Path) -> list[Path]:
    """Every calibration into `<folder>/<family>/`."""
    return [save(c, folder) for found in calibrated.fits for c in found.calibrations]
