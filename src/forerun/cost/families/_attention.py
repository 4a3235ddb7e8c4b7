"""What attention of prompts (`_prefill`) and of decoding (`_decode`) share."""

from __future__ import annotations

import numpy as np

from forerun.cost.kept import kept
from forerun.cost.rows import Rows
from forerun.cost.sheet import Sheet
from forerun.spec.dtype import WEIGHT_BYTES

HELD = 0.8  # share of the last-level cache that keys and values of a repeated call can hold
#: what reading keys once more costs of reading them from memory: estimate, caches are some three
#: times as fast
AGAIN = 0.3


@kept
def kv_heads_of(x: Rows) -> np.ndarray:
    """Heads of keys, as many as of queries unless they are given."""
    return np.where(np.isnan(x.get("n_kv_heads")), x.get("n_heads"), x.get("n_kv_heads"))


@kept
def kv_bytes(x: Rows) -> np.ndarray:
    """Bytes of a cached element, float64 [N]."""
    return bytes_of(x.words("kv_dtype", "bf16"))


@kept
def act_bytes(x: Rows) -> np.ndarray:
    """Bytes of an element of queries and results: never fewer than 2, results are 16 bits wide."""
    return np.maximum(2.0, bytes_of(x.words("dtype", "bf16")))


def bytes_of(words: np.ndarray) -> np.ndarray:
    """Bytes of an element of each named format, float64 [N]."""
    size = {word: WEIGHT_BYTES.get(word, 2.0) for word in set(words)}
    return np.array([size[word] for word in words])


def peak(s: Sheet) -> np.ndarray:
    """The matrix peak of the row's format, where that is 16 bits or fewer."""
    return np.fmax(s.flop_per_s, s.wide_flop_per_s)


def held(total: np.ndarray, s: Sheet) -> np.ndarray:
    """Share of so many bytes that the last-level cache still has when they come again, [N]."""
    return 1 / (1 + (total / (np.nan_to_num(s.l2_bytes, nan=1.0) * HELD)) ** 4)
