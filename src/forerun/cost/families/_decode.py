"""Attention of one new token a request: blocks over parts of each cache, as bytes, flop and turns.

A block takes one kv head of one request, or a part of its keys.

    blocks  = B K s,  s parts of each cache as the engine's kernel splits it (`_kernels`)
    traffic = B K stored keys bytes / (rate * stream * cache factor * min(1, fill * blocks / n_SM))
    compute = 2 B K max(N/K, rows) (Hk + Hv) keys / (peak * compute * min(1, blocks / n_SM))
    serial  = blocks/n_SM * block_s / blocks at once + keys/s * key_s

Parts join as in `_overlap`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from forerun.cost.families import Coef, Coefs
from forerun.cost.families import _kernels as kernels
from forerun.cost.families._attention import AGAIN, held, kv_bytes, kv_heads_of
from forerun.cost.families._overlap import powers
from forerun.cost.kept import kept
from forerun.cost.rows import Rows
from forerun.cost.sheet import Sheet

DECODE_COEFS = (
    Coef("stream", 0.9, 0.05, 1.1, "share of the memory rate on long caches"),
    Coef("cached", 2.0, 1.0, 12.0, "rate of a cache held on chip over memory's"),
    Coef("compute", 0.35, 0.02, 1.1, "share of the 16-bit matrix peak"),
    Coef("rows", 16.0, 1.0, 128.0, "query rows computed for a kv head at least"),
    Coef("fill", 1.5, 0.1, 6.0, "how soon few blocks draw the whole memory rate"),
    Coef("block_s", 3e-6, 1e-8, 1e-3, "one block's time without keys, s"),
    Coef("key_s", 5e-9, 1e-11, 1e-6, "one block's time a key, s"),
    Coef("launch_s", 9e-6, 0.5e-6, 400e-6, "time of an empty call, merging of parts included, s"),
    Coef("sharp", 2.0, 1.0, 10.0, "p: how completely parts overlap"),
)


@dataclass(frozen=True, eq=False)
class Decode:
    """Shapes of decode attention, float64 [N] each."""

    batch: np.ndarray
    keys: np.ndarray  # that a query reads
    heads: np.ndarray
    kv_heads: np.ndarray
    width: np.ndarray  # multiplied with: Hk + Hv
    stored: np.ndarray  # elements of a cached token of one kv head
    kv_bytes: np.ndarray
    readers: np.ndarray | float = 1.0  # kv heads counted that are one in memory
    history: np.ndarray | None = None  # keys that are cached, a window or not; else `keys`

    def by_head(self) -> Decode:
        """The same, if every query head reads its keys alone."""
        return replace(self, kv_heads=self.heads, readers=self.heads / self.kv_heads)

    @property
    def flop(self) -> np.ndarray:
        return 2.0 * self.batch * self.heads * self.width * self.keys

    @property
    def cache_bytes(self) -> np.ndarray:
        return self.batch * self.kv_heads * self.stored * self.keys * self.kv_bytes

    @property
    def activation_bytes(self) -> np.ndarray:
        return 2.0 * self.batch * self.heads * self.width

    @property
    def hbm_bytes(self) -> np.ndarray:
        return self.cache_bytes + self.activation_bytes

    def parts(self, s: Sheet) -> np.ndarray:
        """Into how many each cache is split, as the engine's kernels do."""
        blocks, history = self.batch * self.kv_heads, self.history
        shares = kernels.shares_keys(self.heads, self.kv_heads, s)
        known = self.keys if history is None else history
        return kernels.parts(blocks, self.keys, known, shares, self.kv_bytes, s)

    def seconds(self, s: Sheet, c: Coefs) -> np.ndarray:
        """Without the launch."""
        gpu = s.is_gpu > 0
        page = kernels.page(self.heads, self.kv_heads, s)
        keys = np.where(gpu, np.maximum(self.keys, page), self.keys)
        parts = self.parts(s)
        blocks = self.batch * self.kv_heads * parts
        filled = np.where(gpu, np.minimum(1.0, c["fill"] * blocks / s.n_sm), 1.0)
        busy = np.where(gpu, np.minimum(1.0, blocks / s.n_sm), 1.0)
        total = self.batch * self.kv_heads * self.stored * keys * self.kv_bytes
        total = total / self.readers * (1 + AGAIN * (self.readers - 1))
        stream = s.hbm_bytes_per_s * c["stream"] * cache_factor(total, s, c) * filled
        rows = np.maximum(self.heads / self.kv_heads, c["rows"])
        flop = 2.0 * self.batch * self.kv_heads * rows * self.width * keys
        compute = flop / (s.wide_flop_per_s * c["compute"] * busy)
        turns = np.where(gpu, blocks / s.n_sm, 1.0)
        shares = kernels.shares_keys(self.heads, self.kv_heads, s)
        start = c["block_s"] / kernels.decode_at_once(shares, self.kv_bytes, s)
        serial = turns * start + keys / parts * c["key_s"]
        return powers(((total + self.activation_bytes) / stream, compute, serial), c["sharp"])


def cache_factor(total: np.ndarray, s: Sheet, c: Coefs) -> np.ndarray:
    """How much faster than from memory the bytes come of a call that is repeated, as benchmarks do.

    A cache that is too small by a little keeps nothing of what goes round.
    """
    return 1 + (c["cached"] - 1) * held(total, s)


@kept
def decode_of(x: Rows) -> Decode:
    """Rows of op attention_decode."""
    head, window = x.get("head_dim"), x.get("window", 0.0)
    value = np.where(np.isnan(x.get("v_head_dim")), head, x.get("v_head_dim"))
    keys = np.where(window > 0, np.minimum(x.get("past"), window), x.get("past"))
    return Decode(
        x.get("batch"), keys, x.get("n_heads"), kv_heads_of(x), head + value, head + value,
        kv_bytes(x), history=x.get("past"),
    )  # fmt: skip


def decode_features(d: Decode, s: Sheet) -> dict[str, np.ndarray]:
    """The same for decode."""
    compute, memory = d.flop / s.wide_flop_per_s, d.hbm_bytes / s.hbm_bytes_per_s
    parts = d.parts(s)
    return {
        "ridge": np.log2(compute / memory),
        "launches": np.log2(np.maximum(compute, memory) / s.launch_s),
        "blocks_per_sm": np.log2(d.batch * d.kv_heads * parts / s.n_sm),
        "requests_per_sm": np.log2(d.batch * d.kv_heads / s.n_sm),
        "keys": np.log2(np.maximum(d.keys, 1.0)),
        "keys_a_part": np.log2(np.maximum(d.keys / parts, 1.0)),
        "width": np.log2(d.width),
        "group": np.log2(d.heads / d.kv_heads),
        "cached": np.log2(d.cache_bytes / np.nan_to_num(s.l2_bytes, nan=1e6)),
        "narrow_kv": d.kv_bytes,
        "rows": s.tile_rows,
    }
