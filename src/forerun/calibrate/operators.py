"""Fit a family of operators to measured tables: coefficients first, then what is left of them.

    1. each (device, runtime, key): coefficients of the physics, bounded, in logarithms, robust
    2. each (device, runtime) with rows enough: trees on log(measured / physics)
    3. the same over all devices at once, on dimensionless features, for devices nobody measured

Intervals and errors come from rows that a fit did not see: shapes held out for a measured device,
whole devices left out in turn for the others.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

import numpy as np

from forerun import catalog
from forerun.calibrate.split import held_out, parts_of
from forerun.cost import operators
from forerun.cost.calibration import REGIMES, Calibration, Errors, Origin
from forerun.cost.families import family, family_of_op
from forerun.cost.rows import NUMBERS, Rows, joined
from forerun.cost.sheet import Sheet, sheet
from forerun.cost.trees import Trees, trees_of_booster
from forerun.errors import SpecError
from forerun.measure.tables import Table

#: rows below which a device has coefficients and no residual
LEAST_ROWS = 60
#: parts of such a device's rows, each predicted from the others
FIFTHS = 5
#: rows a (device, runtime) adds to the fit over all devices, so that no table drowns the others
MOST_ROWS = 6_000
#: rows of each that coefficients are solved on: they are few, and the physics is slow
SOLVED_ROWS = 1_500
#: share of rows an interval is to hold
HELD = 0.8
#: how many devices' worth of doubt stand against moving a starting value for all
SHRINK = 2.0
#: weight of a coefficient's starting value: this many rows that agree with it
PRIOR_ROWS = 2.0

#: learning on one device: shapes are known, so trees may be fine
OWN = dict(num_leaves=63, learning_rate=0.08, min_data_in_leaf=8, lambda_l2=1.0, n_trees=400)
#: learning across devices: coarse, so that a new device is not taken for one of the known
GENERAL = dict(num_leaves=15, learning_rate=0.05, min_data_in_leaf=200, lambda_l2=10.0, n_trees=150)
#: settings of LightGBM that are not about accuracy: same rows, same trees
FIXED = dict(
    objective="l1", max_bin=254, verbose=-1, num_threads=2, deterministic=True,
    force_row_wise=True, seed=0, feature_pre_filter=False,
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Data:
    """Measured rows of one family, their data sheets, and the table each came from."""

    name: str
    x: Rows
    s: Sheet
    time_s: np.ndarray
    table: np.ndarray  # int [N], index into `tables`
    tables: tuple[Origin, ...]

    def take(self, which: np.ndarray) -> Data:
        return replace(
            self, x=self.x.take(which), s=self.s.take(which), time_s=self.time_s[which],
            table=self.table[which],
        )  # fmt: skip

    @property
    def module(self) -> ModuleType:
        return family(self.name)

    def origins(self) -> tuple[Origin, ...]:
        found = []
        for j in np.unique(self.table):
            rows = int(np.count_nonzero(self.table == j))
            found.append(replace(self.tables[j], rows=rows))
        return tuple(found)


def gathered(tables: Sequence[Table], *, only: str | None = None) -> list[Data]:
    """The rows of all tables by family, with defaults filled in, each family's rows at once.

    Rows of ops that no family answers and of devices that no data sheet describes are left out.
    """
    parts: dict[str, list[tuple[Rows, np.ndarray, np.ndarray]]] = {}
    for j, table in enumerate(tables):
        ops = table.rows.words("op")
        for op in sorted(set(ops)):
            name = family_of_op(op)
            if name is None or only not in (None, name):
                continue
            at = np.flatnonzero(ops == op)
            x = table.rows.take(at).filled(family(name).DEFAULTS)
            parts.setdefault(name, []).append((x, table.time_s[at], np.full(len(at), j)))
    origins = tuple(Origin(t.name, t.origin, t.licence, t.rows.n) for t in tables)
    found = []
    for name, pieces in sorted(parts.items()):
        x = joined([piece[0] for piece in pieces])
        time_s, table_of = (np.concatenate([piece[k] for piece in pieces]) for k in (1, 2))
        s = sheet(x)
        good = (
            np.array([i not in s.problems for i in range(x.n)])
            if s.problems
            else np.ones(x.n, dtype=bool)
        )
        found.append(Data(name, x.take(good), s.take(good), time_s[good], table_of[good], origins))
    return found


@dataclass(frozen=True, eq=False)
class Scored:
    """Rows that a fit did not see, and what it said about them."""

    data: Data
    seen: bool  # other shapes of their device and runtime were used
    predicted_s: np.ndarray
    low_s: np.ndarray
    high_s: np.ndarray


@dataclass(frozen=True, eq=False)
class Fitted:
    """Calibrations of one family, the general one first, and how they did on rows held out."""

    calibrations: tuple[Calibration, ...]
    scored: tuple[Scored, ...] = ()


def fit(data: Data, *, date: str | None = None, with_errors: bool = True) -> Fitted:
    """Calibrations of one family: a general one, and one a (device, runtime).

    with_errors : also fit on parts, to state errors and intervals on the rest (three times the
    time).  Without, spreads and errors are those of the rows used, and say so.
    """
    date = date or datetime.date.today().isoformat()
    found: list[Calibration] = []
    scored: list[Scored] = []
    for group in operators.groups(data.x, data.s):
        own, rest = fit_own(data.take(group.at), group, date=date, with_errors=with_errors)
        found.append(own)
        scored += [rest] if rest else []
    general, across = fit_general(data, found, date=date, with_errors=with_errors)
    return Fitted((general, *found), (*([across] if across else []), *scored))


def fit_own(
    mine: Data, group: operators.Group, *, date: str, with_errors: bool = True
) -> tuple[Calibration, Scored | None]:
    """The calibration of one device and runtime from its rows, and a fifth of them predicted from
    the other shapes; of a few rows each fifth in turn."""

    def fitted(part: Data) -> Calibration:
        keys, coefs = fit_coefs(part)
        own = Calibration(
            family=mine.name, device=group.device, engine=group.engine, version=group.version,
            keys=keys, names=tuple(c.name for c in mine.module.COEFS), coefs=coefs,
            ranges=ranges(part.x), spread={}, errors=Errors(0, 0.0, 0.0, ""),
            origins=part.origins(), date=date,
        )  # fmt: skip
        if part.x.n < LEAST_ROWS:
            return own
        left = np.log(part.time_s / predicted(part, own, None))
        features = {
            **part.module.features(part.x, part.s), **part.module.own_features(part.x, part.s)
        }  # fmt: skip
        settings = {**OWN, **getattr(part.module, "OWN", {})}
        return replace(own, trees=learn(features, left, settings=settings))

    own = fitted(mine)
    test = held_out(mine.x)
    said, rest, split = None, mine, "each fifth of the shapes held out in turn"
    if with_errors and mine.x.n < LEAST_ROWS:
        said = crossed(mine, fitted)
    elif with_errors and 3 <= np.count_nonzero(test) < mine.x.n:
        rest, split = mine.take(test), "a fifth of the shapes held out"
        said = predicted(rest, fitted(mine.take(~test)), None)
    if said is None:
        off = np.log(mine.time_s / predicted(mine, own, None))
        stated = errors_of(off, "rows used for fitting")
        return replace(own, spread=spread_of(mine, off), errors=stated), None
    off = np.log(rest.time_s / said)
    # the interval that is scored comes from one half of these rows and is tried on the other
    half = held_out(rest.x, share=0.5, salt=1)
    low, high = np.ones(rest.x.n), np.ones(rest.x.n)
    for a, b in ((half, ~half), (~half, half)):
        if a.any() and b.any():
            spread = spread_of(rest.take(a), off[a])
            low[b], high[b] = bounds(rest.take(b), spread, said[b])
    own = replace(own, spread=spread_of(rest, off), errors=errors_of(off, split))
    return own, Scored(rest, True, said, low, high)


def crossed(mine: Data, fitted: Callable[[Data], Calibration]) -> np.ndarray | None:
    """Seconds of every row by a fit to the other four fifths of the shapes, float64 [N]; None where
    a fifth has all of them.

    A fifth of a few rows is too few to say how far a fit is off.
    """
    fifth = parts_of(mine.x, FIFTHS)
    said = np.empty(mine.x.n)
    for k in np.unique(fifth):
        out = fifth == k
        if out.all():
            return None
        said[out] = predicted(mine.take(out), fitted(mine.take(~out)), None)
    return said


def fit_general(
    data: Data, owns: Sequence[Calibration], *, date: str, with_errors: bool = True
) -> tuple[Calibration, Scored | None]:
    """What the devices have in common, and each device predicted from the others.

    A residual over all devices is kept only if devices left out in turn are predicted better with
    it: with few devices it may learn who they are instead of what they do.
    """
    used = data.take(thinned(data))
    whole = _general(used, owns, date)
    devices = np.unique(used.s.device.astype(str))
    if not with_errors or len(devices) < 2:
        return replace(whole, trees=None, notes=("its error on other devices is not known",)), None
    weight = balance(used)
    plain, learnt = np.empty(used.x.n), np.empty(used.x.n)
    scaled = np.zeros(used.x.n, dtype=bool)  # from another device of the same architecture
    for device in devices:
        out = used.s.device == device
        others = [own for own in owns if own.device != device]
        general, rest = _general(used.take(~out), others, date), used.take(out)
        learnt[out] = across_devices(rest, general)
        plain[out] = across_devices(rest, replace(general, trees=None))
        sibling, known = from_siblings(rest, others)
        learnt[out] = np.where(known, sibling, learnt[out])
        plain[out] = np.where(known, sibling, plain[out])
        scaled[out] = known
    apart = [_median(np.abs(np.log(used.time_s / said)), weight) for said in (learnt, plain)]
    said = learnt if apart[0] < apart[1] else plain
    if apart[0] >= apart[1]:
        whole = replace(whole, trees=None)
    off = np.log(used.time_s / said)
    low, high = np.empty(used.x.n), np.empty(used.x.n)
    for device in devices:
        out = used.s.device == device
        spread = spread_of(used.take(~out), off[~out], weights=weight[~out])
        low[out], high[out] = bounds(used.take(out), spread, said[out])
    # devices differ by more than the rows of those known do: so much wider an interval has to be
    middle, half = np.log(low * high) / 2 - np.log(said), np.log(high / low) / 2
    need = np.abs(off - middle) / half
    for device in devices:
        out = used.s.device == device
        wider = max(1.0, _quantile(need[~out], weight[~out], HELD))
        low[out] = said[out] * np.exp(middle[out] - wider * half[out])
        high[out] = said[out] * np.exp(middle[out] + wider * half[out])
    spread = spread_of(used, off, weights=weight)
    if scaled.any():
        near = spread_of(used.take(scaled), off[scaled], weights=weight[scaled])
        spread |= {f"sibling: {name}": pair for name, pair in near.items()}
    wider = max(1.0, _quantile(need, weight, HELD))
    whole = replace(
        whole, spread={**_widened(spread, wider), **_other_runtime(used, owns)},
        errors=errors_of(off, "each device left out in turn"),
    )  # fmt: skip
    return whole, Scored(used, False, said, low, high)


def _widened(
    spread: Mapping[str, tuple[float, float]], factor: float
) -> dict[str, tuple[float, float]]:
    """Intervals so many times as wide about their middle."""
    out = {}
    for name, (low, high) in spread.items():
        middle, half = (low + high) / 2, factor * (high - low) / 2
        out[name] = (middle - half, middle + half)
    return out


def from_siblings(rest: Data, others: Sequence[Calibration]) -> tuple[np.ndarray, np.ndarray]:
    """(seconds, bool [N] known) of rows by calibrations of other devices of their architecture."""
    said, known = np.full(rest.x.n, np.nan), np.zeros(rest.x.n, dtype=bool)
    keys = operators.keys_of(rest.x, rest.module)
    for group in operators.groups(rest.x, rest.s):
        device = catalog.device(group.device)
        for key in set(keys[group.at]):
            at = group.at[keys[group.at] == key]
            found = operators.sibling_of(others, device, group.engine, key)
            if found is None:
                continue
            own, measured = found
            part = rest.take(at)
            chosen = operators.Chosen(rest.module, own, measured, None, False, "")
            x = chosen.rows(part.x)
            said[at] = chosen.physics(x, part.s) * np.exp(chosen.residual(x, part.s))
            known[at] = True
    return said, known


def _median(values: np.ndarray, weights: np.ndarray) -> float:
    return _quantile(values, weights, 0.5)


def _general(used: Data, owns: Sequence[Calibration], date: str) -> Calibration:
    names = tuple(c.name for c in used.module.COEFS)
    general = Calibration(
        family=used.name, device="", engine="", version="", keys=("",), names=names,
        coefs=_common_factors(used, owns)[None, :], ranges={}, spread={},
        errors=Errors(0, 0.0, 0.0, ""), origins=used.origins(), date=date,
    )  # fmt: skip
    left = np.log(used.time_s / across_devices(used, general))
    features = used.module.features(used.x, used.s)
    settings = {**GENERAL, **getattr(used.module, "GENERAL", {})}
    return replace(general, trees=learn(features, left, settings=settings, weights=balance(used)))


def _common_factors(used: Data, owns: Sequence[Calibration]) -> np.ndarray:
    """By what devices' coefficients differ from their starting values, float64 [names].

        log factor = sum over devices of log(own / start) / (devices + SHRINK)

    Every device counts once, by the mean of its runtimes and keys.
    """
    by_device: dict[str, list[np.ndarray]] = {}
    names = [c.name for c in used.module.COEFS]
    for group in operators.groups(used.x, used.s):
        own = next(
            (o for o in owns if (o.device, o.engine, o.version)
             == (group.device, group.engine, group.version)), None,
        )  # fmt: skip
        if own is None:
            continue
        part = used.take(group.at)
        start = operators.starting(part.x, part.s, part.module)
        keys = operators.keys_of(part.x, part.module)
        for key in set(keys) & set(own.keys):
            first = [np.median(start[n][keys == key]) for n in names]
            ratio = np.log(own.coefs[own.keys.index(key)] / first)
            by_device.setdefault(group.device, []).append(ratio)
    if not by_device:
        return np.ones(len(names))
    means = np.array([np.mean(ratios, axis=0) for ratios in by_device.values()])
    return np.exp(means.sum(axis=0) / (len(means) + SHRINK))


def _other_runtime(used: Data, owns: Sequence[Calibration]) -> dict[str, tuple[float, float]]:
    """How far a device's calibration is off for another runtime of the same device."""
    off: list[np.ndarray] = []
    for group in operators.groups(used.x, used.s):
        rest = used.take(group.at)
        keys = operators.keys_of(rest.x, rest.module)
        for own in owns:
            if own.device != group.device or own.engine == group.engine:
                continue
            known = np.array([own.closest_key(k) is not None for k in keys])
            if known.any():
                part = rest.take(known)
                off.append(np.log(part.time_s / predicted(part, own, None)))
    if not off:
        return {}
    low, high = np.quantile(np.concatenate(off), [0.1, 0.9])
    return {f"other runtime: {name}": (float(low), float(high)) for name in REGIMES}


def predicted(data: Data, own: Calibration, general: Calibration | None) -> np.ndarray:
    """Seconds of rows of one device and runtime by a calibration of it; keys it lacks get the
    general answer."""
    out = np.empty(data.x.n)
    keys = operators.keys_of(data.x, data.module)
    for key in set(keys):
        at = np.flatnonzero(keys == key)
        part, known = data.take(at), own.closest_key(key)
        chosen = operators.Chosen(
            data.module, own if known is not None else None, known or key, general, False, ""
        )
        x = chosen.rows(part.x)
        out[at] = chosen.physics(x, part.s) * np.exp(chosen.residual(x, part.s))
    return out


def across_devices(data: Data, general: Calibration) -> np.ndarray:
    """Seconds of rows as if their devices were known by their data sheets alone."""
    chosen = operators.Chosen(data.module, None, "", general, False, "")
    return chosen.physics(data.x, data.s) * np.exp(chosen.residual(data.x, data.s))


# ---------------------------------------------------------------------------- coefficients


def fit_coefs(part: Data) -> tuple[tuple[str, ...], np.ndarray]:
    """(keys, coefficients float64 [keys, names]) of one device and runtime, most rows first."""
    keys = operators.keys_of(part.x, part.module)
    found, counts = np.unique(keys.astype(str), return_counts=True)
    order = np.lexsort((found, -counts))
    rows = []
    for key in found[order]:
        mine = part.take(np.flatnonzero(keys == key))
        start = operators.starting(mine.x, mine.s, mine.module)
        prior = {name: float(np.median(value)) for name, value in start.items()}
        rows.append(_solve(mine.take(thinned(mine, most=SOLVED_ROWS)), prior))
    return tuple(found[order]), np.array(rows).reshape(len(found), len(part.module.COEFS))


def _solve(part: Data, prior: Mapping[str, float]) -> np.ndarray:
    """Coefficients that bring the physics closest, float64 [names].

    min sum soft_l1(log(physics / measured)) + PRIOR_ROWS * sum (0.3 log(c / prior))**2
    """
    from scipy.optimize import least_squares

    module = part.module
    names = [c.name for c in module.COEFS]
    low, high = (np.log([getattr(c, end) for c in module.COEFS]) for end in ("low", "high"))
    first = np.clip(np.log([prior[n] for n in names]), low + 1e-6, high - 1e-6)
    target = np.log(part.time_s)
    pull = np.sqrt(PRIOR_ROWS) * 0.3

    def off(z: np.ndarray) -> np.ndarray:
        c: dict[str, Any] = dict(zip(names, np.exp(z), strict=True))
        left = np.log(module.physics(part.x, part.s, c)) - target
        return np.concatenate([left, pull * (z - first)])

    solved = least_squares(off, first, bounds=(low, high), loss="soft_l1", f_scale=0.1, max_nfev=30)
    return np.exp(solved.x)


# ---------------------------------------------------------------------------- residuals


def learn(
    features: Mapping[str, np.ndarray], left: np.ndarray, *, settings: Mapping[str, Any],
    weights: np.ndarray | None = None,
) -> Trees | None:  # fmt: skip
    """Trees on what the physics leaves, log(measured / physics).

    Raises SpecError for a feature that is not finite.
    """
    import lightgbm

    columns = {name: np.asarray(value, dtype=np.float32) for name, value in features.items()}
    bad = [name for name, value in columns.items() if not np.isfinite(value).all()]
    if bad:
        raise SpecError.one(bad[0], "is not finite in some rows", "mend the family's features")
    if not columns:
        return None
    matrix = np.stack(list(columns.values()), axis=1)
    own = {k: v for k, v in settings.items() if k != "n_trees"}
    data = lightgbm.Dataset(matrix, left, weight=weights, feature_name=list(columns))
    booster = lightgbm.train({**FIXED, **own}, data, settings["n_trees"])
    return trees_of_booster(booster)


def thinned(data: Data, *, most: int = MOST_ROWS) -> np.ndarray:
    """Indices of at most `most` rows of each (device, runtime), evenly over its rows."""
    picked = [
        group.at[np.unique(np.linspace(0, len(group.at) - 1, most).astype(int))]
        if len(group.at) > most else group.at
        for group in operators.groups(data.x, data.s)
    ]  # fmt: skip
    return np.sort(np.concatenate(picked))


def balance(data: Data) -> np.ndarray:
    """Weights under which every device counts by the root of its rows."""
    _, inverse, counts = np.unique(
        data.s.device.astype(str), return_inverse=True, return_counts=True
    )
    return (1.0 / np.sqrt(counts))[inverse]


# ---------------------------------------------------------------------------- what is stated


def ranges(x: Rows) -> dict[str, tuple[float, float]]:
    """Least and greatest of every shape column that is given in all rows."""
    found = {}
    for name in NUMBERS:
        value = x.get(name)
        if name not in ("graphs", "causal", "gated") and not np.isnan(value).any():
            found[name] = (float(value.min()), float(value.max()))
    return found


def spread_of(
    data: Data, off: np.ndarray, *, weights: np.ndarray | None = None
) -> dict[str, tuple[float, float]]:
    """10 % and 90 % quantiles of log(measured / predicted) by regime; of all rows where a regime
    has too few."""
    regime = regimes(data, data.time_s)
    weights = np.ones(len(off)) if weights is None else weights
    out = {}
    for j, name in enumerate(REGIMES):
        mine = regime == j
        if np.count_nonzero(mine) < 30:
            mine = np.ones(len(off), dtype=bool)
        out[name] = (
            _quantile(off[mine], weights[mine], 0.1), _quantile(off[mine], weights[mine], 0.9)
        )  # fmt: skip
    return out


def regimes(data: Data, time_s: np.ndarray) -> np.ndarray:
    """Index into REGIMES of rows that take `time_s`, int [N]."""
    busy = operators.is_compute_bound(data.s, data.module.counts(data.x))
    return operators.regime_of(busy, np.log(time_s))


def bounds(
    data: Data, spread: Mapping[str, tuple[float, float]], said: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Both ends of the 80 % interval of predictions, seconds [N]."""
    regime = regimes(data, said)
    table = np.array([spread[name] for name in REGIMES])[regime]
    return said * np.exp(table[:, 0]), said * np.exp(table[:, 1])


def _quantile(values: np.ndarray, weights: np.ndarray, q: float) -> float:
    order = np.argsort(values, kind="stable")
    total = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(total, q * total[-1])])


def errors_of(off: np.ndarray, split: str) -> Errors:
    """Absolute percentage errors from log(measured / predicted)."""
    ape = np.abs(np.expm1(-off))
    return Errors(len(off), float(np.median(ape)), float(np.quantile(ape, 0.9)), split)
