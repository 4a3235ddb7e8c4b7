"""Checks on measured rows: what cannot be is refused, what is missing or twice is counted."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np

from forerun.cost import asked
from forerun.cost.families import collective, family, family_of_op
from forerun.cost.rows import NUMBERS, TEXTS, Rows
from forerun.cost.sheet import Sheet, sheet
from forerun.errors import Problem, SpecError
from forerun.measure.tables._table import Table
from forerun.ops.counts import Counts

#: rows of one key this far apart contradict each other
APART = 3.0
#: a rate above the peak by this is not a boost clock but another unit or another device
ABOVE = 1.25
#: share of rows above the peak at which the device is not the one that is named
SHARE_ABOVE = 0.01
#: traffic above the memory's rate by this is not held in a cache but of another unit
CACHED = 30.0
#: largest rows slower than the data sheet by this were not measured in the unit that is claimed
BELOW = 300.0
#: what a call takes at least to start, beside which a small row's traffic is nothing
CALL_S = 10e-6
#: no kernel of a GPU starts and ends in less
KERNEL_S = 0.2e-6
#: problems of one kind that are told one by one
TOLD = 20

Where = Callable[[int], str]


def checked(
    rows: Rows, time_s: np.ndarray, *, name: str, origin: str, licence: str,
    where: Where | None = None, strict: bool = False,
    passed_over: Mapping[str, int] | None = None, file: Path | None = None,
) -> Table:  # fmt: skip
    """The table of rows that can be; repeated rows become their median.

    file : what messages about the whole table begin with; else the name.
    where : what row i is called in messages; else the name and a line of the file, under a header.
    strict : a table of one's own.  Operators, devices and formats that are not known, and sizes
    that are missing or cannot be, are refused one by one; of tables that others published, whom
    nobody here can mend, they are left out and counted.

    passed_over : rows that the reader left out before, by reason; they are counted with the others.

    Counted and left out: no time, a time of 0 (how collectors mark a failed run), a negative one.
    Raises SpecError, with the rows and all at once, for columns that are not there; then for times
    that cannot be those of the device: units off by a thousand, or rates above its peak in more
    than SHARE_ABOVE of the rows.
    """
    place = str(file or name)
    called = where or (lambda i: f"{name}:{i + 2}")
    count: dict[str, int] = {reason: n for reason, n in (passed_over or {}).items() if n}
    time_s = np.asarray(time_s, dtype=float)
    if not rows.n:
        raise SpecError.one(place, "has a header and no row below it", "a row for each operator")
    bad = {
        "no time": np.isnan(time_s),
        "time of 0": time_s == 0,
        "negative or endless time": (time_s < 0) | np.isinf(time_s),
    }
    lacking, problems = _sizes(rows, place, called, strict)
    unknown, said = _devices(rows, called)
    if strict:
        problems += said
    else:
        bad["a size that is missing or cannot be"] = lacking
        bad["a device or format without a data sheet"] = unknown
    if problems:
        raise SpecError(*problems)
    good = _kept(bad, count)
    if unknown.all() and not strict:  # the other tables of the set are still good
        return Table(rows.take(good), time_s[good], name, origin, licence, count)
    if not len(good):
        why = ", ".join(f"{n} {reason}" for reason, n in count.items())
        raise SpecError.one(place, f"holds no row that can be used ({why})", "measure them again")
    rows, time_s = rows.take(good), time_s[good]
    problems = list(_physics(rows, time_s, lambda i: called(int(good[i]))))
    if problems:
        raise SpecError(*problems)
    rows, time_s, repeated, contrary = _medians(rows, time_s)
    if repeated:
        count["repeated, median taken"] = repeated
    if contrary:
        count[f"of these, repeats more than {APART:g} times apart"] = contrary
    return Table(rows, time_s, name, origin, licence, count)


def _kept(bad: Mapping[str, np.ndarray], count: dict[str, int]) -> np.ndarray:
    """Indices of rows with nothing against them; the others are counted, each under one reason."""
    kept = np.ones(len(next(iter(bad.values()))), dtype=bool)
    for reason, which in bad.items():
        if n := int((which & kept).sum()):
            count[reason] = count.get(reason, 0) + n
        kept &= ~which
    return np.flatnonzero(kept)


def _some(at: np.ndarray, called: Where) -> str:
    """The first row, and how many more."""
    more = f" and {len(at) - 1:,} more" if len(at) > 1 else ""
    return called(int(at[0])) + more


def _sizes(rows: Rows, place: str, called: Where, strict: bool) -> tuple[np.ndarray, list[Problem]]:
    """Rows whose sizes are missing or cannot be, bool [N], and what is wrong with the table."""
    out = np.zeros(rows.n, dtype=bool)
    problems: list[Problem] = []
    ops = rows.words("op")
    for op in sorted(set(ops)):
        at = np.flatnonzero(ops == op)
        found = family_of_op(op)
        if found is None:
            if strict:
                what, _, fix = asked.unknown_op(op).partition("; ")
                problems.append(Problem(_some(at, called), what, fix))
            continue
        x, needs = rows.take(at), family(found).NEEDS
        absent = [column for column in needs if np.isnan(x.get(column)).all()]
        if absent:
            what = f"lacks {', '.join(absent)} of every row of {op}"
            problems.append(Problem(place, what, f"{op} needs {', '.join(needs)}"))
            continue
        said = asked.lacking(x, found)
        out[at] = said != ""
        if strict:
            problems += _each(at[said != ""], said[said != ""], called)
    return out, problems


def _each(at: np.ndarray, said: np.ndarray, called: Where) -> Iterable[Problem]:
    for i, sentence in list(zip(at, said, strict=True))[:TOLD]:
        yield Problem(called(int(i)), str(sentence), "mend the row, or leave it out")
    if len(at) > TOLD:
        yield Problem(called(int(at[TOLD])), f"and {len(at) - TOLD:,} more rows like these")


def _devices(rows: Rows, called: Where) -> tuple[np.ndarray, list[Problem]]:
    """Rows whose device or format no data sheet describes, bool [N], and each of them in a
    sentence."""
    out = np.zeros(rows.n, dtype=bool)
    at = np.flatnonzero([family_of_op(op) is not None for op in rows.words("op")])
    by_sentence: dict[str, list[int]] = {}
    for i, sentence in sheet(rows.take(at)).problems.items():
        out[at[i]] = True
        by_sentence.setdefault(sentence, []).append(int(at[i]))
    found = []
    for sentence, mine in sorted(by_sentence.items(), key=lambda item: item[1][0]):
        what, _, fix = sentence.partition("; try ")
        found.append(Problem(_some(np.sort(mine), called), what, fix or "another dtype"))
    return out, found


def _physics(rows: Rows, time_s: np.ndarray, called: Where) -> Iterable[Problem]:
    """What cannot be: arithmetic or traffic beyond the data sheet, or nothing near it."""
    ops = rows.words("op")
    for op in sorted(set(ops)):
        known = family_of_op(op)
        if known is None:
            continue
        at = np.flatnonzero(ops == op)
        x = rows.take(at).filled(family(known).DEFAULTS)
        s = sheet(x)
        with np.errstate(over="ignore"):
            counts = family(known).counts(x)
        took = time_s[at]
        busy, traffic = _least(x, s, counts, known)
        with np.errstate(over="ignore"):
            over = busy / took
        least = np.maximum(busy, traffic)
        endless = np.flatnonzero(~np.isfinite(least))
        if len(endless):
            what = f"{op} has sizes from which no finite time follows"
            yield Problem(_some(at[endless], called), what, "the sizes of an operator that ran")
            continue
        large = least >= np.quantile(least, 0.9)
        first = int(np.flatnonzero(large)[0])
        gpu = bool((s.is_gpu > 0).all())
        slow = float(np.median(took[large] / np.maximum(least[large], CALL_S)))
        fast = float(np.median((traffic / took)[large]))
        unit = "the unit may be off by 1,000"
        if slow > BELOW:
            what = f"{op} takes {slow:.0f} times what the data sheet says, {took[first]:.3g} s"
            yield Problem(called(int(at[first])), what, unit)
        elif np.mean(over > ABOVE) > SHARE_ABOVE:
            i = int(np.argmax(over))
            what = (
                f"{op} would run at {over[i]:.3g} times the peak of {s.device[i]}; so do "
                f"{int((over > ABOVE).sum())} of {len(over)} rows"
            )
            off = float(np.median(over[large])) > CACHED or fast > CACHED
            yield Problem(called(int(at[i])), what, unit if off else "another device, or its dtype")
        elif gpu and fast > CACHED:
            rate = "links" if known == "collective" else "memory"
            what = f"{op} would move {fast:.0f} times what the {rate} of {s.device[first]} can"
            yield Problem(called(int(at[first])), what, unit)
        elif gpu and np.median(took) < KERNEL_S:
            what = f"{op} takes {took[first]:.3g} s, less than any kernel takes to start"
            yield Problem(called(int(at[first])), what, unit)


def _least(x: Rows, s: Sheet, counts: Counts, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Seconds of the arithmetic at the peak, and of the traffic at the rate of memory or, of a
    collective, of the link it crosses."""
    busy = np.nan_to_num(counts.flop / s.flop_per_s)
    traffic = counts.hbm_bytes / s.hbm_bytes_per_s
    if name == "collective":
        far = x.get("n_nodes", 1.0) > 1
        rate = np.where(far, s.network_bytes_per_s, collective.link(x, s)[0])
        traffic = np.fmax(traffic, collective.wire(x) / rate)
    return busy, traffic


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
