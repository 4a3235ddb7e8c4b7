"""Attention of new tokens over themselves and a cached past: multi-head or grouped, causal or not,
windowed, alone or with decoders in the same kernel.

    busy = what an engine does before + parts as in `_attention`
    time = launch and busy, joined as in `_starts`

A chunk of one token over a past is a decode step, and is priced as one where that is faster.
"""

from __future__ import annotations

import numpy as np

from forerun.cost.families import Coef, Coefs
from forerun.cost.families._codes import code
from forerun.cost.families._decode import DECODE_COEFS, Decode
from forerun.cost.families._prefill import (
    PREFILL_COEFS,
    SLOTS,
    Prefill,
    before,
    is_written,
    prefill_features,
    prefill_of,
)
from forerun.cost.families._starts import first_s, is_alone, started
from forerun.cost.rows import Rows
from forerun.cost.sheet import Sheet
from forerun.ops.counts import Counts

OPS = ("attention_prefill",)
GRAPH_S = 15e-6  # estimate
NEEDS = ("isl", "n_heads", "head_dim")
DEFAULTS: dict[str, float | str] = {
    "batch": 1.0, "past": 0.0, "window": 0.0, "causal": 1.0, "n_decode": 0.0, "past_decode": 0.0,
    "dtype": "bf16", "kv_dtype": "", "impl": "",
}  # fmt: skip
KEYS = ("dtype", "kv_dtype", "impl")
COEFS = (
    *PREFILL_COEFS,
    Coef("widen", SLOTS, 1.0, 32.0, "vector operations that widen an element of an 8-bit cache"),
)
_ALONE = {c.name: c.start for c in DECODE_COEFS}


def counts(x: Rows) -> Counts:
    a = prefill_of(x)
    return Counts(flop=a.flop, activation_bytes=a.activation_bytes, kv_bytes=a.cache_bytes)


def start(x: Rows, s: Sheet) -> dict[str, np.ndarray]:
    """Before any measurement: products run as they do in GEMM, softmax comes on top."""
    launches = np.where(is_alone(s), 1.0, 4.0 + is_written(x, s))
    first = first_s(s, launches * s.launch_s)
    return {"compute": 1.1 * s.gemm, "stream": s.gather, "launch_s": first}


def physics(x: Rows, s: Sheet, c: Coefs) -> np.ndarray:
    """Seconds of each row, float64 [N]."""
    a = prefill_of(x)
    busy = a.seconds(s, c)
    single = (a.new <= 1) & (a.decoders == 0)
    if single.any():
        busy = np.where(single, np.minimum(busy, as_decode(a).seconds(s, _alone(c))), busy)
    return started(c["launch_s"], before(a, x, s, c) + busy, GRAPH_S, s)


def as_decode(a: Prefill) -> Decode:
    """The same requests, as if each had one new token."""
    seen = a.past + a.new
    keys = np.where(a.window > 0, np.minimum(seen, a.window), seen)
    return Decode(a.batch, keys, a.heads, a.kv_heads, a.width, a.width, a.kv_bytes)


def _alone(c: Coefs) -> Coefs:
    return {**_ALONE, "block_s": c["block_s"]}


def features(x: Rows, s: Sheet) -> dict[str, np.ndarray]:
    return prefill_features(prefill_of(x), s)


def own_features(x: Rows, s: Sheet) -> dict[str, np.ndarray]:
    """Shapes themselves, and the number formats and kernels by number."""
    a = prefill_of(x)
    chunks, ones = a.blocks(128.0, False)
    return {
        "batch": np.log2(a.batch), "heads": np.log2(a.heads), "kv_heads": np.log2(a.kv_heads),
        "past": np.log2(a.past + 1), "work": np.log2(a.flop),
        "last_wave": (chunks + ones) / s.n_sm % 1.0,
        "n_decode": np.log2(a.decoders + 1), "past_decode": np.log2(a.cached + 1),
        "window": np.log2(a.window + 1), "key": code(x, KEYS),
    }  # fmt: skip
