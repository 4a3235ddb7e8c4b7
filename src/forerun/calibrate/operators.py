"""Fit a family of operators to measured tables: coefficients first, then what is left of them.

    1. each (device, runtime, key): coefficients of the physics, bounded, in logarithms, robust
    2. each (device, runtime) with rows enough: trees on log(measured / physics)
    3. the same over all devices at once, on dimensionless features, for devices nobody measured

Intervals and errors come from rows that a fit did not see: shapes held out for a measured device,
whole devices left out in turn for the others.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from forerun import catalog
from forerun.calibrate.data import Data, balance, machine_of, ranges, thinned
from forerun.calibrate.intervals import (
    HELD,
    bounds,
    errors_of,
    median,
    quantile,
    spread_of,
    widened,
)
from forerun.calibrate.solve import GENERAL, OWN, across_devices, fit_coefs, learn, predicted
from forerun.calibrate.split import held_out, parts_of
from forerun.cost import choose, operators
from forerun.cost.calibration import FEW_ROWS, Calibration, Errors
from forerun.cost.chosen import OTHER, Chosen, launch_key, starting, takes_residual
from forerun.cost.families import shared

#: rows below which a device has coefficients and no residual
LEAST_ROWS = FEW_ROWS
#: parts of such a device's rows, each predicted from the others
FIFTHS = 5
#: how many devices' worth of doubt stand against moving a starting value for all: devices left out
#: are predicted worse with fewer (GEMM 12.0 to 11.4 %, prefill 26 to 24 %) and with far more
SHRINK = 8.0
#: experts are predicted better with few (31.0 and 78.8 % against 31.5 and 82.0 %)
SHRINK_OF = {"moe": 2.0}
#: and against an engine's own launch: it is the engine's software that starts a kernel
SHRINK_LAUNCH = 0.5
#: an engine on fewer devices has no say whether a residual helps it elsewhere: each would be
#: predicted from one other.  A family needs one more: that of experts, learnt from two devices and
#: right for the third, made 70 runs of several pools on GB200 worse (TPOT off by 26, not 16 %)
LEAST_DEVICES = 3
#: a start below this, or below this share of what is expected, is not of a kernel that anything
#: waited for: estimates
ALONE_S, ALONE = 1.2e-6, 0.2

#: of a function and lists of its arguments, as `map` is
Each = Callable[..., Iterable[Any]]
#: of `_other_runtimes`
OtherRuntime = tuple[bool, np.ndarray, np.ndarray]


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


def fit(
    data: Data, *, date: str | None = None, with_errors: bool = True, each: Each = map
) -> Fitted:
    """Calibrations of one family: a general one, and one a (device, runtime).

    with_errors : also fit on parts, to state errors and intervals on the rest (three times the
    time).  Without, spreads and errors are those of the rows used, and say so.
    each : `map`, or one that shares its calls out among processes.
    """
    date = date or datetime.date.today().isoformat()
    groups = operators.groups(data.x, data.s)
    own = partial(fit_own, date=date, with_errors=with_errors)
    done = list(each(own, [data.take(group.at) for group in groups], groups))
    found, scored = [own for own, _ in done], [rest for _, rest in done if rest]
    general, across = fit_general(data, found, date=date, with_errors=with_errors, each=each)
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
            origins=part.origins(marked=part is mine), date=date,
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
    data: Data, owns: Sequence[Calibration], *, date: str, with_errors: bool = True,
    each: Each = map,
) -> tuple[Calibration, Scored | None]:  # fmt: skip
    """What the devices have in common, and each device predicted from the others.

    A residual over all devices is kept only for engines whose devices, left out in turn, are
    predicted better with it: with few devices it may learn who they are instead of what they do.
    """
    used = data.take(thinned(data))
    machine = used.machine
    devices = np.unique(machine.astype(str))
    if not with_errors or len(devices) < 2:
        whole = _general(used, owns, date)
        return replace(whole, trees=None, notes=("its error on other devices is not known",)), None
    without = partial(_without, used, owns, date)
    (whole, *_), *left_out = each(without, ["", *devices])
    weight = balance(used)
    learnt, plain = np.empty(used.x.n), np.empty(used.x.n)
    scaled = np.zeros(used.x.n, dtype=bool)  # from another device of the same architecture
    elsewhere: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}  # from another runtime of it
    for device, (_, *said, others) in zip(devices, left_out, strict=True):
        mine = np.flatnonzero(machine == device)
        learnt[mine], plain[mine], scaled[mine] = said
        for halves, at, off in others:
            elsewhere.setdefault(OTHER[halves], []).append((mine[at], off))
    takes = _residual_of(used, learnt, plain, weight)
    whole = replace(whole, residual_of=takes)
    said = np.where(takes_residual(whole, used.s), learnt, plain)
    if all(one.startswith("not ") for one in takes):
        whole = replace(whole, trees=None)
    off = np.log(used.time_s / said)
    low, high = np.empty(used.x.n), np.empty(used.x.n)
    for device in devices:
        out = machine == device
        spread = spread_of(used.take(~out), off[~out], weights=weight[~out])
        low[out], high[out] = bounds(used.take(out), spread, said[out])
    # devices differ by more than the rows of those known do: so much wider an interval has to be
    middle, half = np.log(low * high) / 2 - np.log(said), np.log(high / low) / 2
    need = np.abs(off - middle) / half
    for device in devices:
        out = machine == device
        wider = max(1.0, quantile(need[~out], weight[~out], HELD))
        low[out] = said[out] * np.exp(middle[out] - wider * half[out])
        high[out] = said[out] * np.exp(middle[out] + wider * half[out])
    spread = spread_of(used, off, weights=weight)
    if scaled.any():
        near = spread_of(used.take(scaled), off[scaled], weights=weight[scaled])
        spread |= {f"sibling: {name}": pair for name, pair in near.items()}
    wider = max(1.0, quantile(need, weight, HELD))
    spread = widened(spread, wider)
    for prefix, found in elsewhere.items():
        at, apart = (np.concatenate(parts) for parts in zip(*found, strict=True))
        of = spread_of(used.take(at), apart, weights=weight[at])
        spread |= {f"{prefix}{name}": pair for name, pair in of.items()}
    whole = replace(
        whole, spread=spread,
        errors=errors_of(off, "each device left out in turn"),
    )  # fmt: skip
    return whole, Scored(used, False, said, low, high)


def _without(
    used: Data, owns: Sequence[Calibration], date: str, device: str
) -> tuple[Calibration, np.ndarray, np.ndarray, np.ndarray, list[OtherRuntime]]:
    """What all devices but one have in common, and of that one's rows: seconds with the residual,
    seconds without, whether a device of the same architecture told both, and `_other_runtimes`."""
    out = used.machine == device
    others = [own for own in owns if machine_of(own.device) != device]
    general, rest = _general(used.take(~out), others, date), used.take(out)
    sibling, known = from_siblings(rest, others, general)
    learnt, plain = (
        np.where(known, sibling, across_devices(rest, g))
        for g in (general, replace(general, trees=None))
    )
    of_it = [own for own in owns if machine_of(own.device) == device]
    return general, learnt, plain, known, list(_other_runtimes(rest, of_it, general))


def _residual_of(
    used: Data, learnt: np.ndarray, plain: np.ndarray, weight: np.ndarray
) -> tuple[str, ...]:
    """Engines whose rows are predicted better with a residual on devices left out, the others as
    "not <engine>"; "*" stands for all that were measured on fewer than LEAST_DEVICES.  For no
    engine where all devices are so few."""
    engine, machine = used.s.engine.astype(str), used.machine.astype(str)
    if len(np.unique(machine)) <= LEAST_DEVICES:
        return ("not *",)
    off = [np.abs(np.log(used.time_s / said)) for said in (learnt, plain)]
    several = [
        e for e in np.unique(engine) if len(np.unique(machine[engine == e])) >= LEAST_DEVICES
    ]
    found = []
    for name in (*several, "*"):
        mine = ~np.isin(engine, several) if name == "*" else engine == name
        if not mine.any():
            mine[:] = True
        apart = [median(one[mine], weight[mine]) for one in off]
        found.append(name if apart[0] < apart[1] else f"not {name}")
    return tuple(found)


def from_siblings(
    rest: Data, others: Sequence[Calibration], general: Calibration
) -> tuple[np.ndarray, np.ndarray]:
    """(seconds, bool [N] known) of rows by calibrations of other devices of their architecture."""
    said, known = np.full(rest.x.n, np.nan), np.zeros(rest.x.n, dtype=bool)
    keys = operators.keys_of(rest.x, rest.module)
    for group in operators.groups(rest.x, rest.s):
        device = catalog.device(group.device)
        for key in set(keys[group.at]):
            at = group.at[keys[group.at] == key]
            found = choose.sibling_of(others, device, group.engine, key)
            if found is None:
                continue
            part = rest.take(at)
            chosen = choose.from_sibling(rest.module, *found, general, group.engine)
            x = chosen.rows(part.x)
            said[at] = chosen.seconds(x, part.s)
            known[at] = True
    return said, known


def _general(used: Data, owns: Sequence[Calibration], date: str) -> Calibration:
    names = tuple(c.name for c in used.module.COEFS)
    keys, factors = _common_factors(used, owns)
    general = Calibration(
        family=used.name, device="", engine="", version="", keys=keys, names=names,
        coefs=factors, ranges=ranges(used.x), spread={},
        errors=Errors(0, 0.0, 0.0, ""), origins=used.origins(), date=date,
    )  # fmt: skip
    used = used.take(shared(used.module, used.x, used.s))
    left = np.log(used.time_s / across_devices(used, general))
    features = used.module.features(used.x, used.s)
    settings = {**GENERAL, **getattr(used.module, "GENERAL", {})}
    return replace(general, trees=learn(features, left, settings=settings, weights=balance(used)))


def _common_factors(used: Data, owns: Sequence[Calibration]) -> tuple[tuple[str, ...], np.ndarray]:
    """(keys, by what devices' coefficients differ from their starting values, [keys, names]).

        log factor = sum over devices of log(own / start) / (devices + shrink)

    Every device counts once, by the mean of its runtimes and keys.  A start far below what any
    kernel has is of a profiler that times kernels alone: it says nothing of others' starts.

    The first key, "", is for every engine.  One an engine and format has the launch of that
    engine's kernels: the median over devices, as software starts them alike on all.
    """
    by_device: dict[str, list[np.ndarray]] = {}
    launches: dict[str, dict[str, list[float]]] = {}
    names = [c.name for c in used.module.COEFS]
    launch = names.index("launch_s") if "launch_s" in names else None
    for device, engine, key, ratio in _ratios(used, owns):
        by_device.setdefault(device, []).append(ratio)
        if launch is not None and engine and np.isfinite(ratio[launch]):
            place = launches.setdefault(launch_key(engine, key), {})
            place.setdefault(device, []).append(float(ratio[launch]))
    if not by_device:
        return ("",), np.ones((1, len(names)))
    total, count = np.zeros(len(names)), np.zeros(len(names))
    for ratios in map(np.array, by_device.values()):
        here = np.isfinite(ratios)
        n = here.sum(axis=0)
        total += np.where(n > 0, np.nansum(ratios, axis=0) / np.maximum(n, 1), 0.0)
        count += n > 0
    common = total / (count + SHRINK_OF.get(used.name, SHRINK))
    rows = [common]
    for key in sorted(launches):
        each = [float(np.mean(values)) for values in launches[key].values()]
        own = common.copy()
        own[launch] += (np.median(each) - own[launch]) * len(each) / (len(each) + SHRINK_LAUNCH)
        rows.append(own)
    return ("", *sorted(launches)), np.exp(np.array(rows))


def _ratios(used: Data, owns: Sequence[Calibration]) -> Iterator[tuple[str, str, str, np.ndarray]]:
    """(device, engine, key, logarithms of fitted coefficients over their starting values)."""
    names = [c.name for c in used.module.COEFS]
    for group in operators.groups(used.x, used.s):
        own = next(
            (o for o in owns if (o.device, o.engine, o.version)
             == (group.device, group.engine, group.version)), None,
        )  # fmt: skip
        if own is None:
            continue
        part = used.take(group.at)
        start = starting(part.x, part.s, part.module)
        keys = operators.keys_of(part.x, part.module)
        for key in sorted(set(keys) & set(own.keys)):
            found = own.coefs[own.keys.index(key)]
            ratio = np.log(found / [np.median(start[n][keys == key]) for n in names])
            launch = names.index("launch_s") if "launch_s" in names else None
            if launch is not None and (found[launch] < ALONE_S or ratio[launch] < np.log(ALONE)):
                ratio[launch] = np.nan
            yield group.device, group.engine, key, ratio


def _other_runtimes(
    rest: Data, owns: Sequence[Calibration], general: Calibration
) -> Iterator[OtherRuntime]:
    """What a device's calibrations say of rows of other runtimes of it: (whether their kernels may
    be others, indices into the rows, log(measured / said)).

    general : fitted without the device.
    """
    keys = operators.keys_of(rest.x, rest.module)
    for group in operators.groups(rest.x, rest.s):
        for own in owns:
            if own.device != group.device or own.engine == group.engine:
                continue
            for key in sorted(set(keys[group.at])):
                known = own.closest_key(choose.any_kernel(rest.module, key))
                if known is None:
                    continue
                chosen = Chosen(rest.module, own, known, general, True, "")
                at = group.at[keys[group.at] == key]
                part = rest.take(at)
                x = chosen.rows(part.x)
                said = chosen.seconds(x, part.s)
                yield chosen.halves, at, np.log(part.time_s / said)
