"""What follows from a calibration that was chosen: coefficients, residual, seconds, interval.

fitted          the device and runtime were measured: own coefficients, own residual
half fitted     the device was measured under another runtime: halfway, on a logarithmic scale,
                between its own answer with the start of the asked runtime's kernels, and that of
                the data sheet; wholly its own for products that engines leave to a library
scaled          a device of its architecture was measured: that one's coefficients and residual;
                half scaled where it was under another runtime
across devices  the data sheet alone: coefficients and residual of other devices
roofline        no calibration of this family at all
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType

import numpy as np

from forerun.cost.calibration import REGIMES, Calibration, mismatch
from forerun.cost.families import shared
from forerun.cost.rows import Rows
from forerun.cost.sheet import Sheet, sheet
from forerun.errors import SpecError
from forerun.version import __version__

#: which errors of a general calibration are those of a device measured under another runtime, by
#: whether its kernels may be others
OTHER = {True: "other runtime: ", False: "same library: "}
#: interval of a roofline with estimated efficiencies, as logarithms: a factor 2 either way
UNCALIBRATED = (-0.7, 0.7)
#: an interval across devices, as logarithms, is this much wider for a shape beyond all that was
#: measured; nothing measured says by how much (an estimate)
BEYOND = 2.0
AGAIN = "fit it anew with `forerun calibrate ops`, or delete it to go without"
ROOFLINE = "roofline with estimated efficiencies"


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
    def halves(self) -> bool:
        """Whether the kernels may be others than those that were measured.

        On one H100, an engine's kernels predicted from the other's, in this way, from the device's
        measured ones alone, and from the data sheet, were off by (median / 90 %): decoding 8 to 21
        / 23 to 74, 16 to 41 / 34 to 126, 10 to 21 / 28 to 59 %; fp8 products 15 and 16 / 41 and 49,
        24 and 25 / 59 and 105, 18 and 23 / 39 and 54 % (docs/background/costs.md has them all).
        """
        if self.own is None or self.general is None or not self.other:
            return False
        return not is_library(self.module, self.key)

    @property
    def label(self) -> str:
        if self.own:
            said = self.own.label.replace("fitted", "scaled") if self.scaled else self.own.label
            return f"half {said}" if self.halves else said
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
        own = self.module.physics(x, s, self.coefs(x, s))
        if not self.halves:
            return own
        return np.sqrt(own * self.module.physics(x, s, self._across(x, s)))

    def seconds(self, x: Rows, s: Sheet) -> np.ndarray:
        """Seconds of rows that have been through `rows`, float64 [N]."""
        return self.physics(x, s) * np.exp(self.residual(x, s))

    def coefs(self, x: Rows, s: Sheet) -> Mapping[str, np.ndarray | float]:
        """Coefficients of the closed form."""
        if self.own is None:
            return self._across(x, s)
        c: Mapping[str, np.ndarray | float] = coefs_of(self.own, self.key)
        if self.scaled:
            c = coefs_scaled(x, s, self.module, self.own, self.key)
        if self.halves and "launch_s" in c:  # software starts a kernel, and it is another
            return {**c, "launch_s": self._across(x, s)["launch_s"]}
        return self._capped(c)

    def _across(self, x: Rows, s: Sheet) -> Mapping[str, np.ndarray | float]:
        return self._capped(coefs_across(x, s, self.module, self.general))

    def _capped(self, c: Mapping[str, np.ndarray | float]) -> Mapping[str, np.ndarray | float]:
        if "launch_s" in c and np.isfinite(self.most_launch_s):
            return {**c, "launch_s": np.minimum(c["launch_s"], self.most_launch_s)}
        return c

    def residual(self, x: Rows, s: Sheet) -> np.ndarray:
        """log(seconds / physics), float64 [N]: the device's own; what others taught where no
        device of the architecture was measured."""
        if self.own is None:
            return self._of_others(x, s)
        own = _learnt(self.own, self.module, x, s)
        return (own + self._of_others(x, s)) / 2 if self.halves else own

    def _of_others(self, x: Rows, s: Sheet) -> np.ndarray:
        if self.general is None or self.general.trees is None:
            return np.zeros(x.n)
        learnt = _learnt(self.general, self.module, x, s)
        takes = takes_residual(self.general, s) & shared(self.module, x, s)
        return np.where(takes, learnt, 0.0)

    def outside(self, x: Rows) -> np.ndarray:
        """Rows with a shape beyond what was measured, bool [N]."""
        out = np.zeros(x.n, dtype=bool)
        used = self.own or self.general
        for name, (low, high) in used.ranges.items() if used else ():
            value = x.get(name)
            out |= (value < low) | (value > high)
        return out

    def interval(self, regime: np.ndarray, outside: np.ndarray) -> np.ndarray:
        """Logarithms of low and high over the prediction, float64 [2, N]."""
        across = _spread(self.general, regime)
        if self.own is None:
            return across * np.where(outside, BEYOND, 1.0)
        own = _spread(self.own, regime)
        if self.scaled or self.other:
            near = [_spread(self.general, regime, "sibling: ")] if self.scaled else []
            near += [_spread(self.general, regime, OTHER[self.halves])] if self.other else []
            across = np.array([np.min([n[0] for n in near], 0), np.max([n[1] for n in near], 0)])
        wide = np.array([np.minimum(own[0], across[0]), np.maximum(own[1], across[1])])
        return np.where(outside | self.other | self.scaled, wide, own)


def is_library(module: ModuleType, key: str) -> bool:
    """Whether every engine leaves the kernels of a key to the same library."""
    return key.partition("|")[0] in getattr(module, "LIBRARY", ())


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
    """Coefficients from the data sheet, and by what factors other devices moved them: those of the
    row's engine and kind where they are known."""
    c = starting(x, s, module)
    if general is None:
        return c
    check_names(general)
    row = _rows_of_keys(x, s, module.KEYS[0], general.keys)
    return {name: general.coefs[row, j] * c[name] for j, name in enumerate(general.names)}


def _learnt(own: Calibration, module: ModuleType, x: Rows, s: Sheet) -> np.ndarray:
    """What the trees of a calibration say, float64 [N]; 0 where it has none.

    A device of few rows has coefficients that were fitted to be right without a residual: with that
    of others on top, errors on the rest of its rows were twice as large.
    """
    if own.trees is None:
        return np.zeros(x.n)
    features = module.features(x, s)
    if own.device:
        features |= module.own_features(x, s)
    lacking = set(own.trees.names) - set(features)
    if lacking:
        raise SpecError.one(
            f"calibration {own.family}/{own.file_name}",
            f"was fitted by forerun {own.written_by} to features that {__version__} lacks: "
            f"{', '.join(sorted(lacking))}", AGAIN,
        )  # fmt: skip
    return own.trees(features)


def takes_residual(general: Calibration, s: Sheet) -> np.ndarray:
    """Rows of engines for which a residual over all devices was found to be right, bool [N]."""
    told, all_others = set(general.residual_of), "*" in general.residual_of
    known = {one.removeprefix("not ") for one in told}
    yes = [e for e in set(s.told["engine"]) if e in told or (all_others and e not in known)]
    return s.by(*yes)


def launch_key(engine: str, key: str) -> str:
    """Under which a general calibration has the launch of an engine's kernels: the engine and the
    first of the family's KEYS, a number format or an operator."""
    return f"{engine}|{key.split('|')[0]}"


def _rows_of_keys(x: Rows, s: Sheet, first: str, keys: tuple[str, ...]) -> np.ndarray:
    """Row of a general calibration's coefficients for each row, int [N]; 0 is every engine's."""
    at = {key: j for j, key in enumerate(keys)}
    if len(at) == 1:
        return np.zeros(x.n, dtype=int)
    pairs = list(zip(s.engine, x.words(first), strict=True))
    row = {pair: at.get(launch_key(*pair), 0) for pair in set(pairs)}
    return np.array([row[pair] for pair in pairs], dtype=int)


def coefs_of(own: Calibration, key: str) -> dict[str, float]:
    """The coefficients of a key that was measured."""
    check_names(own)
    return dict(zip(own.names, own.coefs[own.keys.index(key)].tolist(), strict=True))


def coefs_scaled(
    x: Rows, s: Sheet, module: ModuleType, own: Calibration, key: str
) -> dict[str, np.ndarray]:
    """Coefficients of a key that was measured on another device of the architecture, moved by what
    the data sheets say of both: a card whose limit leaves it its clock sustains more of its peak.
    """
    here, there = starting(x, s, module), _started_on(own.device, x, module)
    of = coefs_of(own, key)
    ends = {c.name: (c.low, c.high) for c in module.COEFS}
    return {n: np.clip(of[n] * here[n] / there[n], *ends[n]) for n in of}


def _started_on(device: str, x: Rows, module: ModuleType) -> dict[str, np.ndarray]:
    moved = Rows(x.n, x.number, {**x.text, "device": np.full(x.n, device, dtype=object)})
    return starting(moved, sheet(moved), module)


def check_names(own: Calibration) -> None:
    """Raises SpecError for a calibration whose family has changed since it was fitted."""
    other = mismatch(own)
    if other:
        raise SpecError.one(
            f"calibration {own.family}/{own.file_name}",
            f"was written by forerun {own.written_by} {other}", AGAIN,
        )  # fmt: skip


def _spread(own: Calibration | None, regime: np.ndarray, prefix: str = "") -> np.ndarray:
    """Log quantiles by regime, float64 [2, N]."""
    known = own.spread if own else {}
    table = [known.get(prefix + n, known.get(n, UNCALIBRATED)) for n in REGIMES]
    return np.array(table)[regime].T
