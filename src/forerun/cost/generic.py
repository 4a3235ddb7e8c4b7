"""Seconds of attention no family has columns for: sparse, compressed, keys that are values too.

A roofline with the architecture's efficiencies, from the flop and bytes that `ops` counts.
"""

from __future__ import annotations

import numpy as np

from forerun.cost.efficiency import KEY_TILE, SPLIT_TOKENS, Efficiency
from forerun.ops.attention import Attention
from forerun.ops.check import math_format
from forerun.ops.conv import Conv
from forerun.ops.counts import Array
from forerun.spec.device import Device

DECODE_ATTENTION = 0.7  # share of the prefill efficiency that decode kernels reach, estimate


def peak_flop_per_s(device: Device, dtype: str) -> float:
    """Peak of the format the device multiplies this one in; the best it has where none fits."""
    used = math_format(device, dtype)
    rates = device.peak_flop_per_s
    return rates[used] if used else max(rates.values())  # type: ignore[index]


def generic_decode(
    shape: Attention, n_seqs: Array, ctx: Array, device: Device, eff: Efficiency
) -> Array:
    """One decode step: max(cache traffic, padded flop) and filling the chip, [B, K].

        c'      = max(c, KEY_TILE)                   # a kernel takes a whole tile of keys at least
        traffic = kv(c') / gather
        flop    = flop(c') * max(1, rows / group)      # a head's queries fill at least `rows` rows
        fill    = n_SM * bytes of min(c', SPLIT_TOKENS) tokens of one head / gather / 2

    `fill` is the time in which too few blocks are in flight.
    """
    gather = device.hbm_bytes_per_s * eff.gather
    ctx = np.maximum(ctx, KEY_TILE)
    counts = shape.decode(n_seqs, ctx)
    heads = 1 if shape.latent_dim else shape.n_kv_heads
    group = shape.n_heads / heads
    rate = peak_flop_per_s(device, shape.math) * eff.attention * DECODE_ATTENTION
    padded = counts.flop * max(1.0, eff.rows / group)
    time = np.maximum(counts.hbm_bytes / gather, padded / rate)
    if device.kind == "gpu" and device.n_sm:
        block = shape.kv_width / heads * shape.kv_bytes
        far = np.inf if shape.reach is None else shape.reach
        seen = np.minimum(np.minimum(ctx, SPLIT_TOKENS), far)
        time = time + (np.asarray(n_seqs) > 0) * device.n_sm * block * seen / gather / 2
    return time


def generic_prefill(
    shape: Attention, n_new: Array, n_past: Array, device: Device, eff: Efficiency
) -> Array:
    """One chunk: padded flop, then traffic, [T, K].

        flop = flop of the pairs * q'/q + edges + the rest ;  q' = max(q, rows / group)
        edges = 2 N (H_qk + H_v) * q' * KEY_TILE/2 * (2 with a window, else 1)
        rate = 16-bit peak * attention efficiency * min(1, H_qk / 128)**0.5
        time = flop / rate + traffic / gather

    Half of a tile of keys is masked at the diagonal, and at the far edge of a window.  A block
    loads its queries before and stores its outputs after it computes, so the two add up.
    """
    n_new = np.asarray(n_new, float)
    counts = shape.prefill(n_new, n_past)
    memory = counts.hbm_bytes / (device.hbm_bytes_per_s * eff.gather)
    peak = peak_flop_per_s(device, shape.math)
    least = max(1.0, eff.rows * shape.n_kv_heads / shape.n_heads)
    padded = np.maximum(n_new, least) * (n_new > 0)
    ratio = padded / np.where(n_new > 0, n_new, 1.0)
    narrow = min(1.0, shape.qk_dim / 128) ** 0.5
    edges = KEY_TILE / 2 * (1 if shape.reach is None else 2) * padded / shape.split
    edges = edges * 2.0 * shape.n_heads * (shape.qk_dim + shape.v_dim)
    padding = shape.pair_flop(n_new, n_past) * (ratio - 1)
    compute = (counts.flop + padding + edges) / (peak * eff.attention * narrow)
    return compute + memory


def convolved(shape: Conv, units: Array, device: Device, eff: Efficiency) -> Array:
    """Seconds of a convolution at so many units, no calibration having seen one.

    max(flop / (peak * gemm), bytes / (bandwidth * gather)) + launch
    """
    counts = shape.counts(units)
    flop_s = counts.flop / (peak_flop_per_s(device, shape.dtype) * eff.gemm)
    return np.maximum(flop_s, counts.hbm_bytes / (device.hbm_bytes_per_s * eff.gather)) + (
        eff.launch_s
    )
