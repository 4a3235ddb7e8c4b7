"""Seconds of operators: the best source there is for each row, with an 80 % interval.

    fitted          the device and runtime were measured: own coefficients, own residual
    other runtime   the device was measured under another runtime
    across devices  the data sheet alone: coefficients and residual of other devices
    roofline        no calibration of this family at all

Everything here is vectorised over rows; a row that cannot be answered is refused with a sentence.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from types import ModuleType

import numpy as np

from forerun.cost.calibration import REGIMES, SHORT_S, Calibration, Store, store
from forerun.cost.families import family, family_of_op
from forerun.cost.rows import Rows
from forerun.cost.sheet import Sheet, sheet, split_runtime
from forerun.ops.counts import Counts

#: interval of a roofline with estimated efficiencies, as logarithms: a factor 2 either way
UNCALIBRATED = (-0.7, 0.7)


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
            out.refused[at] = f"op {op!r} is not known; see the columns of `forerun predict ops`"
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
    missing = _missing(x, module)
    out.refused[at] = missing
    keep = missing == ""
    at, x = at[keep], x.take(keep)
    if not x.n:
        return
    notes = _defaults_named(x, module)
    x = x.filled(module.DEFAULTS)
    s = sheet(x)
    for i, problem in s.problems.items():
        out.refused[at[i]] = problem
    if s.problems:
        keep = np.array([i not in s.problems for i in range(x.n)])
        at, x, notes = at[keep], x.take(keep), notes[keep]
        if not x.n:
            return
        s = sheet(x)
    counts = module.counts(x)
    timed = time_rows(x, s, name, calibrations, counts)
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
    general = calibrations.general(name)
    log_time, low, high = np.empty(x.n), np.empty(x.n), np.empty(x.n)
    source = np.full(x.n, "", dtype=object)
    outside = np.zeros(x.n, dtype=bool)
    notes: dict[int, str] = {}
    regime_of = _Regimes(s, counts)
    for group in groups(x, s):
        own = calibrations.measured(name, group.device, group.engine, group.version)
        other = own is None and bool(group.engine)
        if other:  # the device under any other runtime
            own = calibrations.measured(name, group.device, "", "")
        keys = keys_of(x.take(group.at), module)
        for key in sorted(set(keys)):
            at = group.at[keys == key]
            known = own.closest_key(key) if own else None
            part, sheet_part = x.take(at), s.take(at)
            if own is None or known is None:
                log_time[at] = np.log(across_devices(part, sheet_part, module, general))
                spread = _spread(general, regime_of(at, log_time[at]))
                source[at] = general.label if general else "roofline with estimated efficiencies"
            else:
                part = with_key(part, module, known)
                log_time[at] = np.log(on_device(part, sheet_part, module, own, known, general))
                regime = regime_of(at, log_time[at])
                beyond = outside_of(part, own)
                spread = _spread(own, regime)
                wide = _spread(general, regime, "other runtime" if other else "")
                spread = np.where(beyond | other, _union(spread, wide), spread)
                source[at], outside[at] = own.label, beyond
                told = _told(group, own, other=other)
                if told:
                    notes |= dict.fromkeys(at.tolist(), told)
            low[at], high[at] = spread
    time_s = np.exp(log_time)
    # no row is done before its arithmetic at the full peak
    least = np.nan_to_num(counts.flop / s.flop_per_s)
    time_s = np.maximum(time_s, np.where(s.is_gpu > 0, 0.95 * least, 0.0))
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
    runtime = x.words("runtime")
    keys = np.array([f"{d}\t{r}" for d, r in zip(s.device, runtime, strict=True)], dtype=str)
    distinct, inverse = np.unique(keys, return_inverse=True)
    found = []
    for j, key in enumerate(distinct):
        device, asked = key.split("\t")
        found.append(Group(device, *split_runtime(asked), np.flatnonzero(inverse == j)))
    return found


def keys_of(x: Rows, module: ModuleType) -> np.ndarray:
    """Each row's values of KEYS joined by "|", str [N]."""
    columns = [x.words(name) for name in module.KEYS]
    return np.array(["|".join(map(str, row)) for row in zip(*columns, strict=True)], dtype=object)


def with_key(x: Rows, module: ModuleType, key: str) -> Rows:
    """The same rows with the KEYS of what was measured written in."""
    parts = dict(zip(module.KEYS, key.split("|"), strict=True))
    text = {n: np.full(x.n, value, dtype=object) for n, value in parts.items()}
    return Rows(x.n, x.number, {**x.text, **text})


def starting(x: Rows, s: Sheet, module: ModuleType) -> dict[str, np.ndarray]:
    """Coefficients before any measurement, float64 [N] each."""
    given = module.start(x, s)
    return {
        c.name: np.broadcast_to(np.asarray(given.get(c.name, c.start), dtype=float), (x.n,))
        for c in module.COEFS
    }


def across_devices(
    x: Rows, s: Sheet, module: ModuleType, general: Calibration | None
) -> np.ndarray:
    """Seconds from the data sheet, and what other devices taught where anything did."""
    c = starting(x, s, module)
    if general is None:
        return module.physics(x, s, c)
    c = {name: c[name] * general.coefs[0, general.names.index(name)] for name in c}
    time = module.physics(x, s, c)
    return time * np.exp(general.trees(module.features(x, s))) if general.trees else time


def on_device(
    x: Rows, s: Sheet, module: ModuleType, own: Calibration, key: str, general: Calibration | None
) -> np.ndarray:
    """Seconds from coefficients of this device; its residual, or the general one before it has
    rows enough for one."""
    row = own.coefs[own.keys.index(key)]
    c = {name: np.broadcast_to(row[j], (x.n,)) for j, name in enumerate(own.names)}
    time = module.physics(x, s, c)
    if own.trees is not None:
        return time * np.exp(own.trees({**module.features(x, s), **module.own_features(x, s)}))
    if general is not None and general.trees is not None:
        return time * np.exp(general.trees(module.features(x, s)))
    return time


def outside_of(x: Rows, own: Calibration) -> np.ndarray:
    """Rows with a shape beyond what was measured, bool [N]."""
    out = np.zeros(x.n, dtype=bool)
    for name, (low, high) in own.ranges.items():
        value = x.get(name)
        out |= (value < low) | (value > high)
    return out


class _Regimes:
    """Which of REGIMES a row is in, given its logarithmic time."""

    def __init__(self, s: Sheet, counts: Counts) -> None:
        with np.errstate(divide="ignore", invalid="ignore"):
            self.busy = counts.flop / s.flop_per_s > counts.hbm_bytes / s.hbm_bytes_per_s

    def __call__(self, at: np.ndarray, log_time: np.ndarray) -> np.ndarray:
        short = log_time < np.log(SHORT_S)
        return np.where(short, 0, np.where(self.busy[at], 2, 1))


def regimes(x: Rows, s: Sheet, counts: Counts, time_s: np.ndarray) -> np.ndarray:
    """Index into REGIMES of rows that take `time_s`, int [N]."""
    return _Regimes(s, counts)(np.arange(x.n), np.log(time_s))


def _spread(own: Calibration | None, regime: np.ndarray, prefix: str = "") -> np.ndarray:
    """Log quantiles by regime, float64 [2, N]."""
    if own is None:
        return np.broadcast_to(np.array(UNCALIBRATED)[:, None], (2, len(regime)))
    names = [f"{prefix}: {name}" if prefix else name for name in REGIMES]
    table = np.array([own.spread.get(n, own.spread.get(n.split(": ")[-1], UNCALIBRATED))
                      for n in names])  # fmt: skip
    return table[regime].T


def _union(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.array([np.minimum(a[0], b[0]), np.maximum(a[1], b[1])])


def _told(group: Group, own: Calibration, *, other: bool) -> str:
    known = f"{own.engine} {own.version}".rstrip()
    if other:
        return f"{own.device} was measured with {known}, not {group.engine}"
    if not group.engine:
        return f"runtime {known}"
    if group.version and group.version != own.version:
        return f"measured with {known}, not version {group.version}"
    return ""


def _missing(x: Rows, module: ModuleType) -> np.ndarray:
    """A sentence for rows that lack a column the family needs, str [N]."""
    out = np.full(x.n, "", dtype=object)
    lacking = {name: ~(x.get(name) > 0) for name in module.NEEDS}
    bad = np.logical_or.reduce(list(lacking.values())) if lacking else np.zeros(x.n, bool)
    for i in np.flatnonzero(bad):
        names = [name for name, mask in lacking.items() if mask[i]]
        out[i] = f"{', '.join(names)} must be given and positive for {x.words('op')[i]}"
    return out


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
