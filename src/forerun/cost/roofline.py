"""Roofline times of operators: max(flop at rate, bytes at rate) and the launch of a kernel.

All times are of one device and without the launch of kernels, which `launch_time` gives, except
where said.  Every function is vectorised and non-decreasing in the amount of work.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from forerun.cost.collectives import Wires, collective_time
from forerun.cost.efficiency import (
    CACHE_SPEEDUP,
    EXPANDING,
    GROUPED,
    KEY_TILE,
    SCAN,
    SPLIT_TOKENS,
    Efficiency,
    efficiency,
)
from forerun.errors import SpecError
from forerun.ops.attention import Attention
from forerun.ops.check import math_format
from forerun.ops.collectives import Collective
from forerun.ops.counts import Array, Counts
from forerun.ops.elementwise import Elementwise
from forerun.ops.embedding import Embedding
from forerun.ops.graph import Shape
from forerun.ops.matmul import Matmul
from forerun.ops.moe import Experts, tile_rows
from forerun.ops.sampling import Sampling
from forerun.spec.device import Device
from forerun.spec.dtype import MATH

#: (rows, columns) of the output tiles kernels choose from
TILES = np.array(
    [(256, 128), (128, 256), (128, 128), (64, 256), (128, 64), (64, 128), (64, 64), (32, 128),
     (16, 128), (16, 64)], dtype=float,
)  # fmt: skip
SPLITS = np.array([1.0, 2.0, 4.0, 8.0])  # of K, when there are few tiles
SPLIT_S = 1.5e-6  # adding up the parts of a split product: a second pass, estimate
#: flop a byte of tile operands at which a tile no longer starves the matrix unit; a 128 x 128 tile
#: has 2*128*128/(128+128) = 128.  Smaller ones lose in proportion: estimate.
FULL_TILE = 110.0
DECODE_ATTENTION = 0.7  # share of the prefill efficiency that decode kernels reach, estimate


@dataclass(frozen=True)
class Machine:
    """A device with its efficiencies and wires, ready to price operators."""

    device: Device
    eff: Efficiency
    wires: Wires
    cached: bool = False  # all weights of the device fit in its last-level cache

    def rate(self, dtype: str) -> float:
        """Sustained flop/s of large products with weights in this format."""
        peak, kept = self.peak(dtype)
        return peak * kept * self.eff.gemm

    def peak(self, dtype: str) -> tuple[float, float]:
        """(peak flop/s, share kept) of the format the device multiplies this one in."""
        used = math_format(self.device, dtype)
        if used is None:
            raise SpecError.one(
                f"device.{self.device.name}", f"has no arithmetic for {dtype} nor a wider format",
                f"one of: {', '.join(self.device.peak_flop_per_s)}",
            )  # fmt: skip
        expands = used != MATH.get(dtype, dtype) and dtype not in ("bf16", "fp16", "fp32", "tf32")
        expands = expands or dtype.endswith("_wo")
        return self.device.peak_flop_per_s[used], EXPANDING if expands else 1.0  # type: ignore[index]

    @property
    def stream(self) -> float:
        """Sustained bytes/s of weights."""
        rate = self.device.hbm_bytes_per_s * self.eff.stream
        return rate * CACHE_SPEEDUP if self.cached else rate

    @property
    def gather(self) -> float:
        """Sustained bytes/s of paged and element-wise traffic."""
        return self.device.hbm_bytes_per_s * self.eff.gather


def machine(
    device: Device, wires: Wires | None = None, *, weights_bytes: float = np.inf
) -> Machine:
    """The machine for a device; `weights_bytes` of a step decide whether they stay in its cache."""
    cached = device.l2_bytes is not None and weights_bytes < 0.5 * device.l2_bytes
    return Machine(device, efficiency(device), wires or Wires(1, None, None), cached)


def step_shape_time(shape: Shape, n: Array, m: Machine) -> Array:
    """Seconds of one instance for n units (tokens or sequences); 0 where n is 0."""
    n = np.asarray(n, float)
    if isinstance(shape, Matmul):
        return gemm_time(n, shape, m)
    if isinstance(shape, Experts):
        return experts_time(n, shape, m)
    if isinstance(shape, Collective):
        return collective_time(shape, n, m.wires)
    if isinstance(shape, Elementwise | Embedding | Sampling):
        return shape.counts(n).hbm_bytes / m.gather
    raise TypeError(f"{type(shape).__name__} has no cost by tokens")


def gemm_time(rows: Array, shape: Matmul, m: Machine) -> Array:
    """A product with a weight: max(waves of tiles, traffic).

        tile time = 2 tm tn (k/s) / (rate_of_one_SM * tile share)
        waves     = ceil(ceil(m/tm) * ceil(n/tn) * batch * s / n_SM)
        compute   = min over tiles and splits s of  waves * tile time (+ the adding up when s > 1)

    Splits stand for stream-K schedules too, which smooth a last partial wave: allowing them only
    where tiles are few came out worse against measured H100 products (9.2 % for 8.3 %).
    Each term is non-decreasing in m, hence their minimum is.  Devices that are not GPUs have no
    waves: whole matrix-unit rows at the sustained rate.
    """
    rows = np.asarray(rows, float)
    counts = shape.counts(rows)
    memory = counts.weight_bytes / m.stream + counts.activation_bytes / m.gather
    return np.maximum(_gemm_compute(rows, shape, m), memory)


def _gemm_compute(rows: Array, shape: Matmul, m: Machine) -> Array:
    rate, n_sm = m.rate(shape.dtype), m.device.n_sm
    if m.device.kind != "gpu" or not n_sm:
        padded = np.ceil(rows / m.eff.rows) * m.eff.rows
        return 2.0 * padded * shape.n * shape.k * shape.batch / rate
    tm, tn, split = _CHOICES
    share = np.minimum(1.0, 2 * tm * tn / (tm + tn) / FULL_TILE)
    one_tile = 2 * tm * tn * (shape.k / split) / (rate / n_sm * share)
    flat = rows.reshape(-1)
    tiles = np.ceil(flat[:, None] / tm) * (np.ceil(shape.n / tn) * shape.batch * split)
    time = np.ceil(tiles / n_sm) * one_tile + SPLIT_S * (split > 1)
    return (time.min(axis=1) * (flat > 0)).reshape(rows.shape)


_CHOICES = tuple(
    np.concatenate([np.full(len(TILES), s) if i == 2 else TILES[:, i] for s in SPLITS])
    for i in range(3)
)


def experts_time(n_tokens: Array, shape: Experts, m: Machine) -> Array:
    """Grouped products: rows of every woken expert fill tiles of 16 to 128; best of them.

    compute = 2 * padded rows * D * F * (3 | 2) / (rate * GROUPED * tile share)
    """
    n_tokens = np.asarray(n_tokens, float)
    counts = shape.counts(n_tokens)
    memory = counts.weight_bytes / m.stream + counts.activation_bytes / m.gather
    per_row = 2.0 * shape.hidden * shape.inter * (3 if shape.gated else 2)
    rate = m.rate(shape.dtype) * GROUPED
    best: Array = np.inf
    for tile in (16, 32, 64, 128):
        rows = tile_rows(
            n_tokens, n_experts=shape.n_experts, topk=shape.topk, n_local=shape.n_local, tile=tile
        )
        share = min(1.0, 2 * tile * 128 / (tile + 128) / FULL_TILE)
        best = np.minimum(best, rows * per_row / (rate * share))
    return np.maximum(best, memory)


def decode_time(shape: Shape, n_seqs: Array, ctx: Array, m: Machine) -> Array:
    """Attention (or scan) of one decode step: max(cache traffic, padded flop) and filling the chip.

        c'      = max(c, KEY_TILE)                # a kernel takes a whole tile of keys at least
        traffic = kv(c') / gather
        flop    = flop(c') * max(1, rows / group)      # a head's queries fill at least `rows` rows
        fill    = n_SM * bytes of min(c', SPLIT_TOKENS) tokens of one head / gather / 2

    `fill` is the time in which too few blocks are in flight: it grows with c to one split, then
    stays, so long contexts are affine in c.
    """
    if not isinstance(shape, Attention):
        return shape.decode(n_seqs, ctx).hbm_bytes / m.gather  # type: ignore[union-attr]
    ctx = np.maximum(ctx, KEY_TILE)
    counts = shape.decode(n_seqs, ctx)
    heads = 1 if shape.latent_dim else shape.n_kv_heads
    group = shape.n_heads / heads
    peak, _ = m.peak(shape.math)
    rate = peak * m.eff.attention * DECODE_ATTENTION
    padded = counts.flop * max(1.0, m.eff.rows / group)
    time = np.maximum(counts.hbm_bytes / m.gather, padded / rate)
    if m.device.kind == "gpu" and m.device.n_sm:
        block = shape.kv_width / heads * shape.kv_bytes
        far = np.inf if shape.reach is None else shape.reach
        seen = np.minimum(np.minimum(ctx, SPLIT_TOKENS), far)
        time = time + (np.asarray(n_seqs) > 0) * m.device.n_sm * block * seen / m.gather / 2
    return time


def prefill_time(shape: Shape, n_new: Array, n_past: Array, m: Machine) -> Array:
    """Attention (or scan) of one chunk: padded flop, then traffic.

        flop = flop of the pairs * q'/q + edges + the rest ;  q' = max(q, rows / group)
        edges = 2 N (H_qk + H_v) * q' * KEY_TILE/2 * (2 with a window, else 1)
        rate = 16-bit peak * attention efficiency * min(1, H_qk / 128)**0.5
        time = flop / rate + traffic / gather

    Half of a tile of keys is masked at the diagonal, and at the far edge of a window.  A block
    loads its queries before and stores its outputs after it computes, so the two add up.  Short
    chunks run at low efficiency, long ones at the table's.  Other chunks of the step run in the
    same kernel, hence no launch here.
    """
    n_new = np.asarray(n_new, float)
    counts: Counts = shape.prefill(n_new, n_past)  # type: ignore[union-attr]
    memory = counts.hbm_bytes / m.gather
    peak, _ = m.peak(shape.math)  # type: ignore[union-attr]
    if not isinstance(shape, Attention):
        return np.maximum(memory, counts.flop / (peak * SCAN))
    least = max(1.0, m.eff.rows * shape.n_kv_heads / shape.n_heads)
    padded = np.maximum(n_new, least) * (n_new > 0)
    ratio = padded / np.where(n_new > 0, n_new, 1.0)
    narrow = min(1.0, shape.qk_dim / 128) ** 0.5
    edges = KEY_TILE / 2 * (1 if shape.reach is None else 2) * padded / shape.split
    edges = edges * 2.0 * shape.n_heads * (shape.qk_dim + shape.v_dim)
    padding = shape.pair_flop(n_new, n_past) * (ratio - 1)
    compute = (counts.flop + padding + edges) / (peak * m.eff.attention * narrow)
    return compute + memory


def launch_time(shape: Shape, m: Machine) -> float:
    """Seconds between kernels for one instance; collectives carry their own start."""
    if isinstance(shape, Collective):
        return 0.0
    return getattr(shape, "kernels", 1) * m.eff.launch_s
