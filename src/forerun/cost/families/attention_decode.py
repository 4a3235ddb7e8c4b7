"""Attention of one new token a request over its cache: multi-head or grouped, windowed, paged.

time = launch and parts as in `_decode`, joined as in `_starts`
"""

from __future__ import annotations

import numpy as np

from forerun.cost.families import Coefs
from forerun.cost.families import _kernels as kernels
from forerun.cost.families._codes import code
from forerun.cost.families._decode import DECODE_COEFS, decode_features, decode_of
from forerun.cost.families._starts import first_s, started
from forerun.cost.rows import Rows
from forerun.cost.sheet import Sheet
from forerun.ops.counts import Counts

OPS = ("attention_decode",)
GRAPH_S = 15e-6  # merging of parts included: estimate
NEEDS = ("batch", "past", "n_heads", "head_dim")
DEFAULTS: dict[str, float | str] = {"window": 0.0, "dtype": "bf16", "kv_dtype": "", "impl": ""}
KEYS = ("dtype", "kv_dtype", "impl")
COEFS = DECODE_COEFS


def counts(x: Rows) -> Counts:
    d = decode_of(x)
    return Counts(flop=d.flop, activation_bytes=d.activation_bytes, kv_bytes=d.cache_bytes)


def start(x: Rows, s: Sheet) -> dict[str, np.ndarray]:
    """Before any measurement: the efficiencies of the device's architecture."""
    return {"launch_s": first_s(s, 3.5 * s.launch_s)}


def physics(x: Rows, s: Sheet, c: Coefs) -> np.ndarray:
    """Seconds of each row, float64 [N]."""
    d = decode_of(x)
    busy = d.seconds(s, c)
    alone = kernels.reads_by_head(d.heads, d.kv_heads, s)
    if alone.any():
        busy = np.where(alone, d.by_head().seconds(s, c), busy)
    return started(c["launch_s"], busy, GRAPH_S, s)


def features(x: Rows, s: Sheet) -> dict[str, np.ndarray]:
    return decode_features(decode_of(x), s)


def own_features(x: Rows, s: Sheet) -> dict[str, np.ndarray]:
    """Shapes themselves, and the number formats and kernels by number."""
    d = decode_of(x)
    return {
        "batch": np.log2(d.batch), "heads": np.log2(d.heads), "kv_heads": np.log2(d.kv_heads),
        "bytes": np.log2(d.cache_bytes), "last_wave": d.batch * d.kv_heads / s.n_sm % 1.0,
        "window": np.log2(x.get("window") + 1), "past": np.log2(x.get("past")),
        "key": code(x, KEYS),
    }  # fmt: skip
