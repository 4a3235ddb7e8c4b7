"""Latent attention of one new token a request over its cache, on the latents themselves.

time = launch + parts as in `_attention`, one kv head of all query heads,
       + the products around it where `hidden` is given (see `_mla`)
"""

from __future__ import annotations

import numpy as np

from forerun.cost.families import Coefs
from forerun.cost.families._codes import code
from forerun.cost.families._decode import Decode, decode_features
from forerun.cost.families._mla import (
    BLOCK_COEFS,
    LATENT_COEFS,
    around_start,
    decode_seconds,
    latent_decode,
    latent_of,
    of_kernel,
)
from forerun.cost.rows import Rows
from forerun.cost.sheet import Sheet
from forerun.ops.counts import Counts

OPS = ("mla_decode",)
NEEDS = ("batch", "past", "n_heads")
DEFAULTS: dict[str, float | str] = {
    "kv_lora_rank": 512.0, "rope_dim": 64.0, "head_dim": 192.0, "v_head_dim": 128.0,
    "window": 0.0, "dtype": "bf16", "kv_dtype": "", "impl": "",
}  # fmt: skip
KEYS = ("dtype", "kv_dtype", "impl")
COEFS = (*LATENT_COEFS, *BLOCK_COEFS)


def decode_of(x: Rows) -> Decode:
    """The kernel alone."""
    return latent_decode(x, x.get("batch"), x.get("past"))


def counts(x: Rows) -> Counts:
    d = decode_of(x)
    around = latent_of(x).counts(d.batch, absorbed=True)
    return Counts(
        flop=d.flop + around.flop, weight_bytes=around.weight_bytes,
        activation_bytes=d.activation_bytes + around.activation_bytes, kv_bytes=d.cache_bytes,
    )  # fmt: skip


def start(x: Rows, s: Sheet) -> dict[str, np.ndarray]:
    """Before any measurement: the efficiencies of the device's architecture."""
    return {
        "launch_s": 3.5 * s.launch_s, "compute": s.gemm, "project": 0.8 * s.gemm,
        "around_s": around_start(s),
    }  # fmt: skip


def physics(x: Rows, s: Sheet, c: Coefs) -> np.ndarray:
    """Seconds of each row, float64 [N]."""
    d, a = decode_of(x), latent_of(x)
    kernel = decode_seconds(d, a.rank, of_kernel(s, a.whole), c)
    return c["launch_s"] + kernel + a.seconds(d.batch, True, s, c)


def features(x: Rows, s: Sheet) -> dict[str, np.ndarray]:
    """Dimensionless: those of decode attention, and how much of a block is attention."""
    d, a = decode_of(x), latent_of(x)
    around = a.counts(d.batch, absorbed=True)
    products = around.hbm_bytes / s.hbm_bytes_per_s + around.flop / s.flop_per_s
    kernel = d.hbm_bytes / s.hbm_bytes_per_s + d.flop / s.wide_flop_per_s
    return {
        **decode_features(d, s),
        "around": products / (products + kernel),
        "whole": a.whole * 1.0,
    }


def own_features(x: Rows, s: Sheet) -> dict[str, np.ndarray]:
    """Shapes themselves, and the number formats and kernels by number."""
    d = decode_of(x)
    return {
        "batch": np.log2(d.batch), "heads": np.log2(d.heads), "past": np.log2(x.get("past")),
        "bytes": np.log2(d.cache_bytes), "last_wave": d.batch / s.n_sm % 1.0,
        "key": code(x, KEYS),
    }  # fmt: skip
