"""Checks on measured rows: what cannot be is refused, what is missing or twice is counted."""

from __future__ import annotations

import numpy as np

from forerun.cost.families import family, family_of_op
from forerun.cost.rows import NUMBERS, TEXTS, Rows
from forerun.cost.sheet import sheet
from forerun.errors import SpecError
from forerun.measure.tables._table import Table

#: rows of one key this far apart contradict each other
APART = 3.0
#: a rate above the peak by this is not a boost clock but another unit or another device
ABOVE = 1.25
#: share of rows above the peak at which the device is not the one that is named
SHARE_ABOVE = 0.01
#: largest rows slower than the data sheet by this were not measured in the unit that is claimed
BELOW = 300.0


def checked(
    rows: Rows, time_s: np.ndarray, *, name: str, origin: str, licence: str,
    dropped: dict[str, int] | None = None,
) -> Table:  # fmt: skip
    """The table of rows that can be; repeated rows become their median.

    Counted and left out: no time, a time of 0 (how collectors mark a failed run), a negative one.
    Raises SpecError, with the row, where times cannot be those of the device: units off by a
    thousand, or rates above its peak in more than SHARE_ABOVE of the rows.
    """
    count = dict(dropped or {})
    time_s = np.asarray(time_s, dtype=float)
    bad = {
        "no time": np.isnan(time_s),
        "time of 0": time_s == 0,
        "negative or endless time": (time_s < 0) | np.isinf(time_s),
    }
    for reason, which in bad.items():
        if which.any():
            count[reason] = count.get(reason, 0) + int(which.sum())
    good = ~np.logical_or.reduce(list(bad.values()))
    line = np.flatnonzero(good) + 2  # of the file: a header, and lines count from 1
    rows, time_s = rows.take(good), time_s[good]
    if not rows.n:
        raise SpecError.one(name, "holds no row with a time", "see the columns it should have")
    _check_physics(rows, time_s, line, name)
    rows, time_s, repeated, contrary = _medians(rows, time_s)
    if repeated:
        count["repeated, median taken"] = repeated
    if contrary:
        count[f"of these, repeats more than {APART:g} times apart"] = contrary
    return Table(rows, time_s, name, origin, licence, count)


def _check_physics(rows: Rows, time_s: np.ndarray, line: np.ndarray, name: str) -> None:
    """Raises SpecError where the arithmetic would exceed the peak, or nothing comes near it."""
    ops = rows.words("op")
    for op in sorted(set(ops)):
        known = family_of_op(op)
        if known is None:
            continue
        at = np.flatnonzero(ops == op)
        x = rows.take(at).filled(family(known).DEFAULTS)
        s = sheet(x)
        if s.problems:
            first = min(s.problems)
            raise SpecError.one(f"{name}:{line[at[first]]}", s.problems[first])
        counts = family(known).counts(x)
        took = time_s[at]
        least = np.maximum(counts.flop / s.flop_per_s, 0.0)
        over = least / took
        traffic = np.maximum(least, counts.hbm_bytes / s.hbm_bytes_per_s)
        large = traffic >= np.quantile(traffic, 0.9)
        slow = float(np.median(took[large] / traffic[large]))
        if slow > BELOW:
            i = at[np.flatnonzero(large)[0]]
            what = f"{op} takes {slow:.0f} times what the data sheet says, {time_s[i]:.3g} s"
            raise SpecError.one(f"{name}:{line[i]}", what, "the unit may be off by 1,000")
        if np.mean(over > ABOVE) > SHARE_ABOVE:
            i = int(np.argmax(over))
            what = (
                f"{op} would run at {over[i]:.3g} times the peak of {s.device[i]}; so do "
                f"{int((over > ABOVE).sum())} of {len(over)} rows"
            )
            off = float(np.median(over[large]))
            fix = "the unit may be off by 1,000" if off > 30 else "another device, or its dtype"
            raise SpecError.one(f"{name}:{line[at[i]]}", what, fix)


def _medians(rows: Rows, time_s: np.ndarray) -> tuple[Rows, np.ndarray, int, int]:
    """(distinct rows, median seconds, rows folded into others, keys that contradict themselves)."""
    key = np.zeros(rows.n, dtype=np.uint64)
    with np.errstate(over="ignore"):
        for column in NUMBERS:
            if column in rows.number:
                bits = np.nan_to_num(rows.get(column), nan=-1.0).view(np.uint64)
                key = (key ^ bits) * np.uint64(0xBF58476D1CE4E5B9)
                key ^= key >> np.uint64(29)
        for word in TEXTS:
            if word in rows.text:
                column_of = rows.words(word)
                number = {w: i for i, w in enumerate(sorted(set(column_of)))}
                codes = np.array([number[w] for w in column_of], dtype=np.uint64)
                key = (key ^ (codes + np.uint64(1))) * np.uint64(0x94D049BB133111EB)
                key ^= key >> np.uint64(31)
    distinct, first, inverse, n = np.unique(
        key, return_index=True, return_inverse=True, return_counts=True
    )
    if len(distinct) == rows.n:
        return rows, time_s, 0, 0
    order = np.lexsort((time_s, inverse))
    ends = np.cumsum(n)
    begins = ends - n
    ordered = time_s[order]
    middle = (ordered[begins + (n - 1) // 2] + ordered[begins + n // 2]) / 2
    contrary = int(np.count_nonzero(ordered[ends - 1] > APART * ordered[begins]))
    place = np.argsort(first, kind="stable")
    return rows.take(first[place]), middle[place], rows.n - len(distinct), contrary
