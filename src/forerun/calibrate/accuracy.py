"""How far predictions are from tables: of what is installed, or of a fit without what is judged."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from forerun.calibrate.data import Data, gathered
from forerun.calibrate.judged import Judged, judge
from forerun.calibrate.operators import Scored
from forerun.calibrate.run import check_family, counted, fitted, left_out
from forerun.calibrate.split import n_marked
from forerun.cost import operators
from forerun.cost.calibration import Store, store
from forerun.errors import SpecError
from forerun.measure.tables import Table, read_all

#: rows of a table that a calibration remembers, from which on the table is known
TOLD = 3


def accuracy(
    paths: Sequence[str | Path], *, only: str | None = None, form: str | None = None,
    workers: int = 1, calibrations: Store | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> list[Judged]:  # fmt: skip
    """Errors on rows no fit has seen, of all operators in the tables at `paths`.

    Tables that no calibration was fitted to are predicted with what is installed.  The others are
    fitted anew with rows held out.
    """
    check_family(only)
    calibrations = calibrations or store()
    tables = read_all(paths, form)
    for line in left_out(tables):
        say(line)
    used = {part for name in calibrations.origins() for part in _identities(name)}
    marked = calibrations.marks()
    known = [t for t in tables if used & _identities(t.name) or _has_rows_of(t, marked)]
    fresh = [t for t in tables if not any(t is other for other in known)]
    were = "was" if len(fresh) == 1 else "were"
    say(
        f"{counted(len(fresh), 'table')} {were} never fitted to, {len(known)} held out and refitted"
    )
    judged = [
        j for data in gathered(fresh, only=only) for j in _as_installed(data, calibrations, say)
    ]
    if known:
        judged += fitted(gathered(known, only=only), workers=workers).judged
    if not judged:
        what = f"hold no row of {'the family ' + only if only else 'an operator with a family'}"
        raise SpecError.one("the tables", what, "see the ops of `forerun predict ops`")
    return judged


def _identities(name: str) -> set[str]:
    """What tells a table again: its name, or of one's own, its file's name and what is in it."""
    return set(name.split("#")) if "#" in name else {name}


def _has_rows_of(table: Table, marked: set[str]) -> bool:
    """Whether rows of a table were fitted to under another name, as a copy, a part or a whole that
    was added to.  One shape may take the same time twice by chance; TOLD of them do not."""
    if not marked:
        return False
    ours = [d for d in gathered([table]) if d.x.n]
    found = sum(n_marked(d.x, d.time_s, marked) for d in ours)
    return found >= min(TOLD, sum(d.x.n for d in ours)) and found > 0


def _as_installed(data: Data, calibrations: Store, say: Callable[[str], None]) -> list[Judged]:
    """Rows predicted by calibrations that were fitted to others, measured devices first."""
    got = operators.predict(data.x, calibrations)
    for sentence in sorted(set(got.refused) - {""}):
        say(f"  {np.count_nonzero(got.refused == sentence):,} rows refused: {sentence}")
    measured = {own.device for own in calibrations.all(data.name)}
    seen = np.isin(data.s.device.astype(str), sorted(measured))
    found = []
    for flag in (True, False):
        at = np.flatnonzero((seen == flag) & (got.refused == ""))
        if len(at):
            scored = Scored(data.take(at), flag, got.time_s[at], got.low_s[at], got.high_s[at])
            found.append(judge(data.take(at[:0]), scored))
    return found
