"""Seconds of operators: the best source there is for each row, with an 80 % interval.

    fitted          the device and runtime were measured: own coefficients, own residual
    other runtime   the device was measured under another runtime
    across devices  the data sheet alone: coefficients and residual of other devices
    roofline        no calibration of this family at all

Everything here is vectorised over rows; a row that cannot be answered is refused with a sentence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import ModuleType

import numpy as np

from forerun import catalog
from forerun.cost import asked
from forerun.cost.calibration import REGIMES, SHORT_S, Calibration, Store, mismatch, store
from forerun.cost.families import family, family_of_op
from forerun.cost.rows import Rows
from forerun.cost.sheet import Sheet, sheet, split_runtime
from forerun.errors import SpecError
from forerun.ops.counts import Counts
from forerun.spec.device import Device
from forerun.version import __version__

#: devices of one architecture stand for each other when their arithmetic for a byte of memory
#: differs by no more than this, as a logarithm; further apart, other parts of a kernel bind
ALIKE = 0.5
#: what engines call for collectives: under any engine they are the same
LIBRARIES = ("nccl", "rccl", "oneccl")
#: interval of a roofline with estimated efficiencies, as logarithms: a factor 2 either way
UNCALIBRATED = (-0.7, 0.7)
AGAIN = "fit it anew with `forerun calibrate ops`, or delete it to go without"
ROOFLINE = "roofline with estimated efficiencies"


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
    missing = asked.lacking(x, name)
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
class Chosen:
    """The best calibration for one family, device, runtime and key."""

    module: ModuleType
    own: Calibration | None  # of the device, or of one of its architecture; it knows the key
    key: str  # as it was measured, or as asked
    general: Calibration | None
    other: bool  # measured under another runtime
    told: str  # what to say about that
    scaled: bool = False  # measured on another device of the architecture
    #: most an empty call may take: eager calls hold the host's time, replayed graphs do not
    most_launch_s: float = np.inf

    @property
    def label(self) -> str:
        if self.own:
            return self.own.label.replace("fitted", "scaled") if self.scaled else self.own.label
        return self.general.label if self.general else ROOFLINE

    @property
    def kind(self) -> str:
        """The label without its number of rows, which many operators share."""
        return self.label.partition(", ")[0]

    def rows(self, x: Rows) -> Rows:
        """The rows with the KEYS of what was measured written in."""
        return with_key(x, self.module, self.key) if self.own else x

    def physics(self, x: Rows, s: Sheet) -> np.ndarray:
        """Seconds by the closed form, float64 [N]."""
        return self.module.physics(x, s, self.coefs(x, s))

    def coefs(self, x: Rows, s: Sheet) -> Mapping[str, np.ndarray | float]:
        """Coefficients of the closed form."""
        c: Mapping[str, np.ndarray | float]
        if self.own:
            c = coefs_of(self.own, self.key)
        else:
            c = coefs_across(x, s, self.module, self.general)
        if "launch_s" in c and np.isfinite(self.most_launch_s):
            c = {**c, "launch_s": np.minimum(c["launch_s"], self.most_launch_s)}
        return c

    def residual(self, x: Rows, s: Sheet) -> np.ndarray:
        """log(seconds / physics), float64 [N]: the device's own; what others taught where no
        device of the architecture was measured."""
        features = self.module.features(x, s)
        used = self.own or self.general
        if self.own and self.own.trees:
            features |= self.module.own_features(x, s)
        # a device of few rows has coefficients that were fitted to be right without a residual:
        # with that of others on top, errors on the rest of its rows were twice as large
        if used is None or used.trees is None:
            return np.zeros(x.n)
        lacking = set(used.trees.names) - set(features)
        if lacking:
            raise SpecError.one(
                f"calibration {used.family}/{used.file_name}",
                f"was fitted by forerun {used.written_by} to features that {__version__} lacks: "
                f"{', '.join(sorted(lacking))}", AGAIN,
            )  # fmt: skip
        return used.trees(features)

    def outside(self, x: Rows) -> np.ndarray:
        """Rows with a shape beyond what was measured, bool [N]."""
        out = np.zeros(x.n, dtype=bool)
        if self.own:
            for name, (low, high) in self.own.ranges.items():
                value = x.get(name)
                out |= (value < low) | (value > high)
        return out

    def interval(self, regime: np.ndarray, outside: np.ndarray) -> np.ndarray:
        """Logarithms of low and high over the prediction, float64 [2, N]."""
        across = _spread(self.general, regime)
        if self.own is None:
            return across
        own = _spread(self.own, regime)
        if self.scaled or self.other:
            across = _spread(
                self.general, regime, "sibling: " if self.scaled else "other runtime: "
            )
        wide = np.array([np.minimum(own[0], across[0]), np.maximum(own[1], across[1])])
        return np.where(outside | self.other | self.scaled, wide, own)


def choose(
    name: str, device: Device, engine: str, version: str, key: str, calibrations: Store
) -> Chosen:
    """Which calibration answers; see the module's list."""
    # nothing but GPUs has been measured, and other kinds do not behave like them
    known_kind = device.kind == "gpu"
    general = calibrations.general(name) if known_kind else None
    found = calibrations.measured(name, device.name, engine, version, key)
    if found is None:
        near = sibling_of(calibrations.all(name), device, engine, key) if known_kind else None
        if near is None:
            return Chosen(family(name), None, key, general, False, "")
        return Chosen(family(name), *near, general, False, _told(near[0], engine, ""), True)
    own, known = found
    other = bool(engine) and own.engine not in (engine, *LIBRARIES)
    return Chosen(family(name), own, known, general, other, _told(own, engine, version))


def sibling_of(
    others: Sequence[Calibration], device: Device, engine: str, key: str
) -> tuple[Calibration, str] | None:
    """A calibration of another device of the same architecture and engine that knows the key, the
    closest in arithmetic for a byte; None where there is none.

    Coefficients are shares and times that an architecture's kernels have in common; rates are the
    asked device's own.
    """
    found = []
    for own in others:
        if not own.device or own.device == device.name or own.engine != engine:
            continue
        other = catalog.device(own.device)
        known = own.closest_key(key)
        apart = abs(np.log(_balance(other) / _balance(device)))
        if known is not None and _line(other) == _line(device) and apart < ALIKE:
            found.append((apart, own.device, own.version, own, known))
    if not found:
        return None
    return min(found, key=lambda f: f[:3])[3:]


def _line(device: Device) -> str:
    return device.architecture.lower().replace(" ", "").replace("-", "")


def _balance(device: Device) -> float:
    return max(device.peak_flop_per_s.values()) / device.hbm_bytes_per_s


def _told(own: Calibration, engine: str, version: str) -> str:
    known = f"{own.engine} {own.version}".rstrip()
    if not engine:
        return f"runtime {known}"
    if own.engine in LIBRARIES:
        return f"library {known}"
    if engine != own.engine:
        return f"{own.device} was measured with {known}, not {engine}"
    if version and version != own.version:
        return f"measured with {known}, not version {version}"
    return ""


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
    # a bar in a word would be read as two words
    columns = [
        np.array([w.replace("|", "/") for w in c], dtype=object) if any("|" in w for w in set(c))
        else c for c in columns
    ]  # fmt: skip
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


def coefs_across(
    x: Rows, s: Sheet, module: ModuleType, general: Calibration | None
) -> dict[str, np.ndarray]:
    """Coefficients from the data sheet, and by what factors other devices moved them."""
    c = starting(x, s, module)
    if general is None:
        return c
    check_names(general)
    factor = dict(zip(general.names, general.coefs[0], strict=True))
    return {name: factor[name] * c[name] for name in c}


def coefs_of(own: Calibration, key: str) -> dict[str, float]:
    """The coefficients of a key that was measured."""
    check_names(own)
    return dict(zip(own.names, own.coefs[own.keys.index(key)].tolist(), strict=True))


def check_names(own: Calibration) -> None:
    """Raises SpecError for a calibration whose family has changed since it was fitted."""
    other = mismatch(own)
    if other:
        raise SpecError.one(
            f"calibration {own.family}/{own.file_name}",
            f"was written by forerun {own.written_by} {other}", AGAIN,
        )  # fmt: skip


def is_compute_bound(s: Sheet, counts: Counts) -> np.ndarray:
    """Rows whose arithmetic at the peak takes longer than their traffic, bool [N]."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return counts.flop / s.flop_per_s > counts.hbm_bytes / s.hbm_bytes_per_s


def regime_of(busy: np.ndarray, log_time: np.ndarray) -> np.ndarray:
    """Index into REGIMES, int [N]."""
    return np.where(log_time < np.log(SHORT_S), 0, np.where(busy, 2, 1))


def _spread(own: Calibration | None, regime: np.ndarray, prefix: str = "") -> np.ndarray:
    """Log quantiles by regime, float64 [2, N]."""
    known = own.spread if own else {}
    table = [known.get(prefix + n, known.get(n, UNCALIBRATED)) for n in REGIMES]
    return np.array(table)[regime].T


def _endless(x: Rows, s: Sheet, i: int, name: str) -> str:
    """Why no finite time follows for a row."""
    if name == "collective" and np.isnan(s.link_bytes_per_s[i]):
        return f"{s.device[i]} has no link to another device on its data sheet"
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
