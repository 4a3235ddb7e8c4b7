"""`Costs`: seconds of a model's operators on one device, from the best calibration of each.

A cost table asks for thousands of batch sizes of one shape.  The closed form is evaluated at all of
them, so that tiles and waves keep their steps; the learned residual only at knots, with straight
lines in the logarithm between them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import ModuleType

import numpy as np

from forerun.cost import shapes
from forerun.cost.calibration import Store, store
from forerun.cost.choose import choose
from forerun.cost.chosen import ROOFLINE, UNCALIBRATED, Chosen, coefs_of
from forerun.cost.collectives import Wires, collective_time
from forerun.cost.efficiency import Efficiency, efficiency
from forerun.cost.families import family, family_of_op
from forerun.cost.generic import convolved, generic_decode, generic_prefill
from forerun.cost.operators import is_compute_bound, keys_of, regime_of
from forerun.cost.rows import Rows, rows
from forerun.cost.sheet import Sheet, sheet, split_runtime
from forerun.cost.table import DENSE
from forerun.errors import SpecError
from forerun.ops.attention import Attention
from forerun.ops.collectives import Collective
from forerun.ops.conv import Conv
from forerun.ops.elementwise import Elementwise
from forerun.ops.graph import Shape
from forerun.ops.sampling import Sampling
from forerun.spec.device import Device, Link

#: knots of the residual in an octave of tokens or contexts
PER_OCTAVE = 6
#: share of the memory rate below which a measured kernel is a slow path that engines avoid
FALLBACK = 0.3
SLOW = "the kernel that was measured in that format is a fallback"
#: whose collectives engines call, by vendor in lower case; NCCL's for all others
LIBRARY_OF = {"amd": "rccl", "intel": "oneccl"}
#: instructions of a vector unit that turn an element of few bits and its group's scale into one to
#: multiply: shift, mask, convert, scale (an estimate)
DEQUANTISE = 4.0


@dataclass(frozen=True)
class Point:
    """One operator at one size: seconds, the ends of its 80 % interval, and the source."""

    time_s: float
    low_s: float
    high_s: float
    source: str
    outside: bool = False


@dataclass(frozen=True, eq=False)
class Costs:
    """A device under a runtime."""

    device: Device
    wires: Wires
    links: Mapping[str, Link] | None = None  # before those of the catalog
    runtime: str = "vllm"
    store: Store = field(default_factory=store)
    cached: bool = False  # all weights of the device fit in its last-level cache
    said: list[str] = field(default_factory=list)  # what stood in for what
    _known: dict[tuple[str, str], Chosen] = field(default_factory=dict)
    _sheets: dict[str, Sheet] = field(default_factory=dict)  # of one row, by number format

    @property
    def eff(self) -> Efficiency:
        """Shares of the data sheet before any calibration."""
        return efficiency(self.device)

    def by_tokens(self, shape: Shape, n: np.ndarray) -> np.ndarray:
        """Seconds of one instance at n tokens or sequences, float64 [N]; 0 where n is 0."""
        n = np.asarray(n, dtype=float)
        out = np.zeros(len(n))
        at = np.flatnonzero(n > 0)
        if not len(at):
            return out
        if isinstance(shape, Collective):
            out[at] = self._message(shape, n[at])
            return np.maximum.accumulate(out)
        if isinstance(shape, Conv):
            out[at] = convolved(shape, n[at], self.device, self.eff)
            return np.maximum.accumulate(out)
        sizes = _steps(n[at])
        time = self._curve(shapes.rows_by_tokens(shape, sizes), sizes, n[at])
        out[at] = self._in_a_model(shape, n[at], time)
        # a kernel of more rows never ends before the same kernel of fewer
        return np.maximum.accumulate(out)

    def _in_a_model(self, shape: Shape, n: np.ndarray, time: np.ndarray) -> np.ndarray:
        """Seconds in a model [N], from those of a kernel that a table repeats alone."""
        if not self.cached:
            # tables repeat one product, whose weights stay on chip; a model's come from memory
            counts = shape.counts(n)  # type: ignore[union-attr]
            time = np.maximum(time, counts.weight_bytes / self.device.hbm_bytes_per_s)
        return time + self.extra_launches(shape)

    def _curve(self, x: Rows, sizes: np.ndarray, n: np.ndarray) -> np.ndarray:
        """Seconds at n [N] from rows at `sizes`: the closed form at each of those, the residual at
        knots among them."""
        picked = np.unique(np.searchsorted(sizes, _knots(sizes[-1])).clip(max=len(sizes) - 1))
        log_n = np.log(sizes)

        def spread(values: np.ndarray) -> np.ndarray:
            return np.interp(log_n, log_n[picked], values)

        return np.interp(n, sizes, self._seconds(x, picked, spread))

    def _message(self, shape: Collective, n: np.ndarray) -> np.ndarray:
        """Seconds of a collective: inside one node as its family says, else by its wires."""
        if not self._in_family(shape):
            return collective_time(shape, n, self.wires)
        sizes = _knots(n.max(), 4 * PER_OCTAVE)
        by, out = self._kernels(shape, sizes), np.empty(len(n))
        asked = self._kernels(shape, n)
        for impl in sorted(set(by)):
            x = shapes.rows_of_message(shape, sizes[by == impl], by[by == impl])
            at = asked == impl
            out[at] = self._curve(x, sizes[by == impl], n[at])
        return out

    def _in_family(self, shape: Collective) -> bool:
        """Whether measured collectives, of this device or of others, speak for this one."""
        if shape.stride > 1 or not 1 < shape.n <= self.wires.domain:
            return False
        chosen = self._chosen(self._message_of(shape, np.ones(1)))[0]
        return chosen.own is not None or chosen.general is not None

    def _message_of(self, shape: Collective, n: np.ndarray) -> Rows:
        return shapes.rows_of_message(shape, n, self._kernels(shape, n))

    def _kernels(self, shape: Collective, n: np.ndarray) -> np.ndarray:
        """What carries each message, str [N]: kernels that share memory where every pair of devices
        talks at once (vLLM switches its own off for three and more over a host's bus) or where
        they were measured, else the vendor's library."""
        level, library = (
            self.wires.level(shape.n),
            LIBRARY_OF.get(self.device.vendor.lower(), "nccl"),
        )
        direct = shapes.is_direct(shape, n)
        if shape.n > 2 and not (level and level.direct) and direct.any():
            x = shapes.rows_of_message(shape, n[:1], np.array(["custom"], dtype=object))
            chosen = self._chosen(x)[0]
            direct &= chosen.own is not None and not chosen.scaled
        return np.where(direct, "custom", library).astype(object)

    def extra_launches(self, shape: Shape) -> float:
        """Seconds of the kernels beyond the first of an operator that is several."""
        if isinstance(shape, Elementwise | Sampling):
            return max(0, shape.kernels - 1) * self.eff.launch_s
        return 0.0

    def launch(self, shape: Shape) -> float:
        """Seconds of an empty call of attention, which a step pays once for all its requests."""
        kernels = shapes.kernels_of(shape)
        if len(kernels) > 1:
            return sum(self.launch(kernel) for kernel in kernels)
        shape = kernels[0]
        x = shapes.rows_of_decode(shape, np.ones(1), np.ones(1))
        if x is None:
            return getattr(shape, "kernels", 1) * self.eff.launch_s
        chosen, x, s = self._chosen(x)
        return float(np.ravel(chosen.coefs(x, s).get("launch_s", 0.0))[0])

    def decode(self, shape: Shape, n_seqs: np.ndarray, ctx: np.ndarray) -> np.ndarray:
        """Seconds of one decode step, float64 [B, K], of n_seqs [B, 1] requests with ctx [K] cached
        tokens each; 0 where there are none."""
        if isinstance(shape, Attention) and shape.old_k_bytes is not None:
            return self._dequantised(shape, n_seqs, np.asarray(ctx, dtype=float))
        planes = [
            self._plane(kernel, n_seqs, ctx, shapes.rows_of_decode, generic_decode, least=1.0)
            for kernel in shapes.kernels_of(shape)
        ]
        return np.sum(planes, axis=0)

    def _dequantised(self, shape: Attention, n_seqs: np.ndarray, ctx: np.ndarray) -> np.ndarray:
        """Attention over a cache whose older tokens are in fewer bits, in one kernel.

            time = max(time of as many bytes in the cache's own format,
                       elements dequantised * DEQUANTISE / (fp32 peak / 2))

        Dequantising runs on the vector units beside the loads: whichever takes longer bounds.
        """
        whole = replace(shape, old_k_bytes=None, old_v_bytes=None)
        equal = shape.whole_tokens(ctx)
        if len(ctx) == 1:
            memory = self.decode(whole, n_seqs, equal)
        else:  # between the contexts asked for, as tables have it: fewer bytes never take longer
            memory = np.stack(
                [np.interp(equal, ctx, row) for row in self.decode(whole, n_seqs, ctx)]
            )
        peak = self.device.peak_flop_per_s.get("fp32")
        if peak is None:
            what = "has no fp32 rate, which KV in fewer bits is dequantised at"
            raise SpecError.one(f"device.{self.device.name}", what, "drop kv_precision")
        elements = n_seqs * shape.old_tokens(ctx) * shape.kv_width / shape.split
        return np.maximum(memory, elements * DEQUANTISE / (peak / 2))

    def prefill(self, shape: Shape, n_new: np.ndarray, n_past: np.ndarray) -> np.ndarray:
        """Seconds of one chunk, float64 [T, K], of n_new [T, 1] tokens after n_past [K]."""
        planes = [
            self._plane(kernel, n_new, n_past, shapes.rows_of_prefill, generic_prefill, least=0.0)
            for kernel in shapes.kernels_of(shape)
        ]
        return np.sum(planes, axis=0)

    def point(
        self, shape: Shape, n: float, ctx: float | None = None, *, whole: bool = False
    ) -> Point:
        """One instance at n tokens, or n sequences of ctx cached tokens, with its interval.

        whole : n tokens that attend to each other, with none before them.
        """
        if isinstance(shape, Attention) and ctx is not None:
            ctx = float(shape.whole_tokens(ctx))
        kernels = shapes.kernels_of(shape)
        if len(kernels) > 1:
            return _together([self.point(kernel, n, ctx) for kernel in kernels])
        shape, one = kernels[0], np.array([float(n)])
        x: Rows | None
        if isinstance(shape, Collective):
            x = self._message_of(shape, one) if self._in_family(shape) else None
        elif isinstance(shape, Conv):
            x = None
        elif whole and isinstance(shape, Attention):
            x = shapes.rows_of_prefill(shape, one, np.zeros(1))
        elif ctx is None:
            x = shapes.rows_by_tokens(shape, one)
        else:
            x = shapes.rows_of_decode(shape, one, np.array([float(ctx)]))
        if x is None:
            at = (
                self.prefill(shape, one[:, None], np.zeros(1))
                if whole and isinstance(shape, Attention)
                else self.by_tokens(shape, one)
                if ctx is None
                else self.decode(shape, one[:, None], np.array([float(ctx)]))
            )
            time = float(np.ravel(at)[0])
            low, high = time * np.exp(UNCALIBRATED)
            return Point(time, float(low), float(high), ROOFLINE)
        chosen, x, s = self._chosen(x)
        time_s = chosen.seconds(x, s)
        busy = is_compute_bound(s, chosen.module.counts(x))
        outside = chosen.outside(x)
        low, high = np.exp(chosen.interval(regime_of(busy, np.log(time_s)), outside))
        if ctx is None and not isinstance(shape, Collective | Attention):
            time_s = self._in_a_model(shape, one, time_s)
        t = float(time_s[0])
        return Point(t, t * float(low[0]), t * float(high[0]), chosen.kind, bool(outside[0]))

    def _plane(
        self, shape: Shape, rows_n: np.ndarray, columns_n: np.ndarray,
        as_rows: Callable[..., Rows | None], generic: Callable[..., np.ndarray], *, least: float,
    ) -> np.ndarray:  # fmt: skip
        first = np.asarray(rows_n, dtype=float)[:, 0]
        second = np.maximum(np.asarray(columns_n, dtype=float), least)
        out = np.zeros((len(first), len(second)))
        at = np.flatnonzero(first > 0)
        if not len(at):
            return out
        a, b = np.repeat(first[at], len(second)), np.tile(second, len(at))
        x = as_rows(shape, a, b)
        if x is None:
            out[at] = generic(shape, first[at][:, None], second, self.device, self.eff)
            return out
        wanted = np.searchsorted(first[at], _knots(first[at].max(), PER_OCTAVE // 2))
        picked = np.unique(np.clip(wanted, 0, len(at) - 1))
        log_n, K = np.log(first[at]), len(second)
        cells = (picked[:, None] * K + np.arange(K)).ravel()

        def spread(values: np.ndarray) -> np.ndarray:
            table = values.reshape(len(picked), K)
            columns = [np.interp(log_n, log_n[picked], table[:, j]) for j in range(K)]
            return np.stack(columns, axis=1).ravel()

        time = self._seconds(x, cells, spread) - self._launch_in(x)
        out[at] = np.maximum(time, 0.0).reshape(len(at), K)
        return np.maximum.accumulate(np.maximum.accumulate(out, axis=0), axis=1)

    def _launch_in(self, x: Rows) -> float:
        """What a family's seconds hold for starting the call."""
        chosen, x, s = self._chosen(x.take(np.array([0])))
        return float(np.ravel(chosen.coefs(x, s).get("launch_s", 0.0))[0])

    def _seconds(
        self, x: Rows, picked: np.ndarray, spread: Callable[[np.ndarray], np.ndarray]
    ) -> np.ndarray:
        chosen, x, s = self._chosen(x)
        residual = chosen.residual(x.take(picked), s.take(picked))
        return chosen.physics(x, s) * np.exp(spread(residual))

    def _chosen(self, x: Rows) -> tuple[Chosen, Rows, Sheet]:
        """The calibration for rows that differ in numbers alone, the rows with what it was measured
        under written in, and their data sheet."""
        name = family_of_op(str(x.words("op")[0]))
        assert name is not None
        x = x.filled(family(name).DEFAULTS)
        one = x.take(np.array([0]))
        key = str(keys_of(one, family(name))[0])
        if (name, key) not in self._known:
            engine, version = split_runtime(self.runtime)
            found = choose(name, self.device, engine, version, key, self.store)
            for other in stand_ins(family(name), found, key):
                better = choose(name, self.device, engine, version, other, self.store)
                if better.own is not None and not is_fallback(better):
                    asked, used = (k.partition("|")[0] for k in (key, better.key))
                    self.said.append(f"{name} in {asked} takes the times of {used}: {SLOW}")
                    found = better
                    break
            most = getattr(family(name), "GRAPH_S", np.inf)
            self._known[name, key] = replace(found, most_launch_s=most)
        chosen = self._known[name, key]
        dtype = str(x.words("dtype")[0])
        return chosen, chosen.rows(x), self._sheet(dtype).take(np.zeros(x.n, dtype=int))

    def _sheet(self, dtype: str) -> Sheet:
        if dtype not in self._sheets:
            name = self.device.name
            one = rows(1, device=name, dtype=dtype, runtime=self.runtime)
            found = sheet(one, {name: self.device}, self.links)
            if found.problems:
                raise SpecError.one(f"device.{name}", found.problems[0])
            self._sheets[dtype] = found
        return self._sheets[dtype]


def _together(points: list[Point]) -> Point:
    """Kernels that follow each other; the source is that of the longest."""
    longest = max(points, key=lambda p: p.time_s)
    return Point(
        sum(p.time_s for p in points), sum(p.low_s for p in points),
        sum(p.high_s for p in points), longest.source, any(p.outside for p in points),
    )  # fmt: skip


def is_fallback(chosen: Chosen) -> bool:
    """Whether the kernel that was measured moves its weights far slower than memory could."""
    if chosen.own is None:
        return False
    return coefs_of(chosen.own, chosen.key).get("stream", 1.0) < FALLBACK


def stand_ins(module: ModuleType, chosen: Chosen, key: str) -> Iterator[str]:
    """Keys of other formats that an engine would run in place of a fallback."""
    known: dict[str, tuple[str, ...]] = getattr(module, "STANDS_IN", {})
    if is_fallback(chosen):
        parts = key.split("|")
        at = module.KEYS.index("dtype")
        for dtype in known.get(parts[at], ()):
            yield "|".join([*parts[:at], dtype, *parts[at + 1 :]])


def _steps(n: np.ndarray) -> np.ndarray:
    """Sizes at which a closed form is evaluated, ascending: all up to 64, then both sides of every
    16th row, between which tiles do not change and time is a straight line."""
    most = int(n.max())
    edges = np.arange(64, most + 16, 16)
    wanted = np.unique(np.concatenate([np.arange(1, 65), edges, edges + 1, n[n > DENSE], [most]]))
    return wanted[wanted <= most].astype(float)


def _knots(most: float, per_octave: int = PER_OCTAVE) -> np.ndarray:
    """Sizes at which a residual is evaluated: all up to 8, then so many an octave."""
    octaves = np.arange(3 * per_octave, int(np.ceil(np.log2(max(most, 8)) * per_octave)) + 1)
    return np.unique(np.concatenate([np.arange(1, 9), np.round(2 ** (octaves / per_octave))]))
