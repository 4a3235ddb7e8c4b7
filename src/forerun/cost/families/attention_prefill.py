"""Attention of new tokens over themselves and a cached past: multi-head or grouped, causal or not,
windowed, alone or with decoders in the same kernel.

    time = launch + (prefill**mix + decoders**mix)**(1/mix)

Parts as in `_attention`.
"""

from __future__ import annotations

import numpy as np

from forerun.cost.families import Coef
from forerun.cost.families._attention import (
    DECODE_COEFS,
    PREFILL_COEFS,
    Coefs,
    decode_of,
    powers,
    prefill_features,
    prefill_of,
)
from forerun.cost.families._codes import code
from forerun.cost.rows import Rows
from forerun.cost.sheet import Sheet
from forerun.ops.counts import Counts

OPS = ("attention_prefill",)
NEEDS = ("isl", "n_heads", "head_dim")
DEFAULTS: dict[str, float | str] = {
    "batch": 1.0, "past": 0.0, "window": 0.0, "causal": 1.0, "n_decode": 0.0, "past_decode": 0.0,
    "dtype": "bf16", "kv_dtype": "", "impl": "",
}  # fmt: skip
KEYS = ("dtype", "kv_dtype", "impl")
COEFS = (*PREFILL_COEFS, Coef("mix", 1.0, 0.8, 6.0, "how decoders in the same kernel add: 1 sums"))
#: decoders of a mixed kernel cost what they would alone, at these shares of the sheet
_BESIDE = {c.name: c.start for c in DECODE_COEFS}


def counts(x: Rows) -> Counts:
    a, d = prefill_of(x), decode_of(x, batch="n_decode", past="past_decode")
    beside = x.get("n_decode") > 0
    return Counts(
        flop=a.flop + np.where(beside, d.flop, 0.0),
        activation_bytes=a.activation_bytes + np.where(beside, d.activation_bytes, 0.0),
        kv_bytes=a.cache_bytes + np.where(beside, d.cache_bytes, 0.0),
    )


def start(x: Rows, s: Sheet) -> dict[str, np.ndarray]:
    """Before any measurement: the efficiencies of the device's architecture."""
    return {"compute": 1.1 * s.attention, "launch_s": 4.5 * s.launch_s}


def physics(x: Rows, s: Sheet, c: Coefs) -> np.ndarray:
    """Seconds of each row, float64 [N]."""
    alone = prefill_of(x).seconds(s, c)
    n = x.get("n_decode")
    if not (n > 0).any():
        return c["launch_s"] + alone
    safe = Rows(x.n, {**x.number, "n_decode": np.maximum(n, 1.0)}, x.text)
    decoders = decode_of(safe, batch="n_decode", past="past_decode")
    beside = np.where(n > 0, decoders.seconds(s, {**_BESIDE, "stream": s.gather}), 0.0)
    return c["launch_s"] + powers((alone, beside), c["mix"])


def features(x: Rows, s: Sheet) -> dict[str, np.ndarray]:
    a = prefill_of(x)
    found = prefill_features(a, s)
    beside = x.get("n_decode") * x.get("past_decode") * a.kv_heads * a.width * a.kv_bytes
    share = beside / (beside + a.flop / s.wide_flop_per_s * s.hbm_bytes_per_s)
    return {**found, "decoders": share}


def own_features(x: Rows, s: Sheet) -> dict[str, np.ndarray]:
    """Shapes themselves, and the number formats and kernels by number."""
    a = prefill_of(x)
    return {
        "batch": np.log2(a.batch), "heads": np.log2(a.heads), "kv_heads": np.log2(a.kv_heads),
        "past": np.log2(a.past + 1), "work": np.log2(a.flop),
        "last_wave": a.blocks / s.n_sm % 1.0,
        "n_decode": np.log2(x.get("n_decode") + 1),
        "past_decode": np.log2(x.get("past_decode") + 1), "window": np.log2(a.window + 1),
        "key": code(x, KEYS),
    }  # fmt: skip
