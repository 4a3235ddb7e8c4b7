"""Seconds of operators: the best source there is for each row (`choose`), with an 80 % interval.

Everything here is vectorised over rows; a row that cannot be answered is refused with a sentence.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from types import ModuleType

import numpy as np

from forerun import catalog
from forerun.cost import asked
from forerun.cost.calibration import SHORT_S, Store, store
from forerun.cost.choose import choose
from forerun.cost.families import collective, family, family_of_op
from forerun.cost.rows import Rows
from forerun.cost.sheet import Sheet, sheet, split_runtime
from forerun.ops.counts import Counts


@dataclass(frozen=True, eq=False)
class Answers:
    """One prediction a row; NaN where `refused` says why there is none."""

    time_s: np.ndarray  # float64 [N]
    low_s: np.ndarray  # 10 % and 90 % quantiles
    high_s: np.ndarray
    flop: np.ndarray
    hbm_bytes: np.ndarray
    source: np.ndarray  # str [N], as Calibration.label
    outside: np.ndarray  # bool [N], a shape lies outside the range that was measured
    assumed: np.ndarray  # str [N], sentences joined by "; "
    refused: np.ndarray  # str [N], "" where answered


def predict(x: Rows, calibrations: Store | None = None) -> Answers:
    """Seconds of every row.  Columns as in `Rows`; calibrations default to what is installed."""
    calibrations = calibrations or store()
    out = _empty(x.n)
    ops = x.words("op")
    for op in sorted(set(ops)):
        at = np.flatnonzero(ops == op)
        name = family_of_op(op)
        if name is None:
            out.refused[at] = asked.unknown_op(op)
            continue
        _answer(out, at, x.take(at), name, calibrations)
    return out


def _empty(n: int) -> Answers:
    def nan() -> np.ndarray:
        return np.full(n, np.nan)

    def text() -> np.ndarray:
        return np.full(n, "", dtype=object)

    return Answers(
        nan(), nan(), nan(), nan(), nan(), text(), np.zeros(n, dtype=bool), text(), text()
    )


def _answer(out: Answers, at: np.ndarray, x: Rows, name: str, calibrations: Store) -> None:
    """Fill the rows `at`, all of one op."""
    module = family(name)
    x, by_length = asked.with_context(x, name)
    missing = asked.lacking(x, name)
    out.refused[at] = missing
    keep = missing == ""
    at, x = at[keep], x.take(keep)
    if not x.n:
        return
    notes = _defaults_named(x, module)
    for k in np.flatnonzero(by_length[keep]):
        notes[k] += ("; " if notes[k] else "") + "past = isl: the query of a step is one token"
    x = asked.without_windows(x.filled(module.DEFAULTS))
    s = sheet(x)
    for i, problem in s.problems.items():
        out.refused[at[i]] = problem
    if s.problems:
        keep = np.array([i not in s.problems for i in range(x.n)])
        at, x, notes = at[keep], x.take(keep), notes[keep]
        if not x.n:
            return
        s = sheet(x)
    with np.errstate(over="ignore", invalid="ignore"):  # sizes beyond all floats are refused below
        counts = module.counts(x)
        timed = time_rows(x, s, name, calibrations, counts)
    finite = np.isfinite(timed.time_s) & np.isfinite(counts.flop) & np.isfinite(counts.hbm_bytes)
    for row in np.flatnonzero(~finite):
        out.refused[at[row]] = _endless(x, s, int(row), name)
    out.time_s[at], out.low_s[at], out.high_s[at] = timed.time_s, timed.low_s, timed.high_s
    out.flop[at], out.hbm_bytes[at] = counts.flop, counts.hbm_bytes
    out.source[at], out.outside[at] = timed.source, timed.outside
    said = [*s.notes.items(), *timed.notes.items()]
    for i, note in said:
        notes[i] = f"{notes[i]}; {note}" if notes[i] else note
    out.assumed[at] = notes


@dataclass(frozen=True, eq=False)
class Timed:
    """Seconds of rows of one family with their interval and source."""

    time_s: np.ndarray
    low_s: np.ndarray
    high_s: np.ndarray
    source: np.ndarray
    outside: np.ndarray
    notes: dict[int, str] = field(default_factory=dict)


def time_rows(
    x: Rows, s: Sheet, name: str, calibrations: Store, counts: Counts | None = None
) -> Timed:
    """Seconds of rows of one family, defaults filled in and every device known."""
    module = family(name)
    counts = module.counts(x) if counts is None else counts
    log_time, low, high = np.empty(x.n), np.empty(x.n), np.empty(x.n)
    source = np.full(x.n, "", dtype=object)
    outside = np.zeros(x.n, dtype=bool)
    notes: dict[int, str] = {}
    busy = is_compute_bound(s, counts)
    for group in groups(x, s):
        keys = keys_of(x.take(group.at), module)
        for key in sorted(set(keys)):
            at = group.at[keys == key]
            device = catalog.device(group.device)
            chosen = choose(name, device, group.engine, group.version, key, calibrations)
            part, sheet_part = chosen.rows(x.take(at)), s.take(at)
            log_time[at] = np.log(chosen.physics(part, sheet_part))
            log_time[at] += chosen.residual(part, sheet_part)
            outside[at] = chosen.outside(part)
            regime = regime_of(busy[at], log_time[at])
            low[at], high[at] = chosen.interval(regime, outside[at])
            source[at] = chosen.label
            if chosen.told:
                notes |= dict.fromkeys(at.tolist(), chosen.told)
    time_s = np.exp(log_time)
    # no row is done before its arithmetic at the full peak; boost clocks vary by some percent
    least = 0.95 * np.nan_to_num(counts.flop / s.flop_per_s)
    time_s = np.maximum(time_s, np.where(s.is_gpu > 0, least, 0.0))
    return Timed(time_s, time_s * np.exp(low), time_s * np.exp(high), source, outside, notes)


@dataclass(frozen=True, eq=False)
class Group:
    """Rows of one device and runtime."""

    device: str
    engine: str
    version: str
    at: np.ndarray


def groups(x: Rows, s: Sheet) -> list[Group]:
    """The rows by device and runtime."""
    pairs = list(zip(s.device, x.words("runtime"), strict=True))
    number = {pair: j for j, pair in enumerate(sorted(set(pairs)))}
    of = np.array([number[pair] for pair in pairs], dtype=int)
    return [
        Group(device, *split_runtime(asked), np.flatnonzero(of == j))
        for (device, asked), j in number.items()
    ]


def keys_of(x: Rows, module: ModuleType) -> np.ndarray:
    """Each row's values of KEYS joined by "|", str [N]."""
    columns = [x.words(name) for name in module.KEYS]
    # a bar in a word would be read as two words
    columns = [
        np.array([w.replace("|", "/") for w in c], dtype=object) if any("|" in w for w in set(c))
        else c for c in columns
    ]  # fmt: skip
    return np.array(["|".join(map(str, row)) for row in zip(*columns, strict=True)], dtype=object)


def is_compute_bound(s: Sheet, counts: Counts) -> np.ndarray:
    """Rows whose arithmetic at the peak takes longer than their traffic, bool [N]."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return counts.flop / s.flop_per_s > counts.hbm_bytes / s.hbm_bytes_per_s


def regime_of(busy: np.ndarray, log_time: np.ndarray) -> np.ndarray:
    """Index into REGIMES, int [N]."""
    return np.where(log_time < np.log(SHORT_S), 0, np.where(busy, 2, 1))


def _endless(x: Rows, s: Sheet, i: int, name: str) -> str:
    """Why no finite time follows for a row."""
    if name == "collective" and np.isnan(collective.link(x, s)[0][i]):
        beyond = " but that of its pair" if s.link_bytes_per_s[i] > 0 else ""
        return f"{s.device[i]} has no link to another device on its data sheet{beyond}"
    if name == "collective" and np.isnan(s.network_bytes_per_s[i]):
        return f"{s.device[i]} has no network between nodes on its data sheet"
    return "no finite time follows from these sizes"


def _defaults_named(x: Rows, module: ModuleType) -> np.ndarray:
    """Which defaults apply, as "dtype = bf16, batch = 1", str [N]."""
    out = np.full(x.n, "", dtype=object)
    for name, value in module.DEFAULTS.items():
        if value == "":
            continue
        given = x.words(name) != "" if isinstance(value, str) else ~np.isnan(x.get(name))
        shown = value if isinstance(value, str) else f"{value:g}"
        lacking = ~given
        if lacking.any():
            said = np.where(out[lacking] == "", "", out[lacking] + ", ")
            out[lacking] = said + f"{name} = {shown}"
    return out
