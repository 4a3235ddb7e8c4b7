"""Operators on one row at a time: norms, activations, rotary positions, softmax, embedding look-up,
conversions, sampling.

    bytes  = rows * (read + write)
    filled = min(1, fill * rows / n_SM)              few rows leave most of the chip idle
    time   = launch + bytes / (rate * stream * l2 factor * filled)

Bytes of a row follow from its width and format unless they are given: one read and one write.
"""

from __future__ import annotations

import numpy as np

from forerun.cost.families import Coef, Coefs
from forerun.cost.families._codes import code
from forerun.cost.rows import Rows
from forerun.cost.sheet import Sheet
from forerun.ops.counts import Counts
from forerun.spec.dtype import WEIGHT_BYTES

OPS = (
    "norm", "activation", "rope", "add", "elementwise", "softmax", "embedding", "quantise",
    "sampling",
)  # fmt: skip
NEEDS = ("n_tokens", "width")
DEFAULTS: dict[str, float | str] = {"dtype": "bf16", "impl": ""}
KEYS = ("op", "dtype", "impl")
COEFS = (
    Coef("stream", 0.8, 0.02, 1.1, "share of the memory rate"),
    Coef("cached", 1.5, 1.0, 12.0, "rate of what is in the last-level cache over memory's"),
    Coef("fill", 4.0, 0.05, 50.0, "how soon few rows draw the whole rate"),
    Coef("launch_s", 2.5e-6, 0.2e-6, 200e-6, "time of a kernel without rows, s"),
)
EAGER_S = 12e-6  # of a kernel that Python starts, timed from outside: estimate
HELD = 0.6  # share of the last-level cache that rows can hold
#: flop a value: a norm squares, sums, scales; an exponential counts as one
FLOP = {"norm": 5.0, "softmax": 5.0, "activation": 5.0, "rope": 3.0, "quantise": 3.0}


def _row_bytes(x: Rows) -> np.ndarray:
    words = x.words("dtype")
    size = {word: WEIGHT_BYTES.get(word, 2.0) for word in set(words)}
    usual = x.get("width") * np.array([size[word] for word in words])
    read, write = x.get("read_bytes"), x.get("write_bytes")
    return np.where(np.isnan(read), usual, read) + np.where(np.isnan(write), usual, write)


def counts(x: Rows) -> Counts:
    per = np.array([FLOP.get(op, 1.0) for op in x.words("op")])
    values = x.get("n_tokens") * x.get("width")
    return Counts(flop=values * per, activation_bytes=x.get("n_tokens") * _row_bytes(x))


def start(x: Rows, s: Sheet) -> dict[str, np.ndarray]:
    """Before any measurement: the efficiencies of the device's architecture."""
    eager = s.by("torch")
    launch = np.where(eager, np.maximum(EAGER_S, s.launch_s), s.launch_s)
    return {"stream": s.gather, "launch_s": launch}


def physics(x: Rows, s: Sheet, c: Coefs) -> np.ndarray:
    """Seconds of each row, float64 [N]."""
    moved = x.get("n_tokens") * _row_bytes(x)
    held = 1 / (1 + (moved / (np.nan_to_num(s.l2_bytes, nan=1.0) * HELD)) ** 3)
    filled = np.where(s.is_gpu > 0, np.minimum(1.0, c["fill"] * x.get("n_tokens") / s.n_sm), 1.0)
    rate = s.hbm_bytes_per_s * c["stream"] * (1 + (c["cached"] - 1) * held) * filled
    return c["launch_s"] + moved / rate


def features(x: Rows, s: Sheet) -> dict[str, np.ndarray]:
    """Dimensionless: what decides how far a kernel is from the memory's rate on any device."""
    moved = x.get("n_tokens") * _row_bytes(x)
    return {
        "launches": np.log2(moved / s.hbm_bytes_per_s / s.launch_s),
        "rows_per_sm": np.log2(x.get("n_tokens") / s.n_sm),
        "width": np.log2(x.get("width")),
        "cached": np.log2(moved / np.nan_to_num(s.l2_bytes, nan=1e6)),
        "kind": code(x, ("op",)),
        "eager": s.by("torch").astype(float),
    }


def own_features(x: Rows, s: Sheet) -> dict[str, np.ndarray]:
    """Shapes themselves, and operators, formats and kernels by number."""
    return {
        "rows": np.log2(x.get("n_tokens")), "bytes": np.log2(_row_bytes(x)),
        "odd": np.mod(x.get("width"), 8.0), "key": code(x, KEYS),
    }  # fmt: skip
