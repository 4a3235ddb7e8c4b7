"""Physics that every kind of attention shares: blocks of queries over keys, and splits of a cache.

Prefill: a block takes TILE queries of one head over all keys they see.

    flop    = 2 N (Hk + Hv) * (pairs + edge * queries)     edge: masked and ramp-up keys a query
    compute = flop / (peak * compute * width**narrow)      width = (Hk + Hv) / 256
    longest = 2 TILE (Hk + Hv) * (keys + edge) / (the same rate of one SM)
    serial  = max(1, blocks / n_SM) * block_s
    memory  = (q, k, v, o and the cached past once) / (rate * stream)

Decode: a block takes one kv head of one request, or a part of its keys.

    blocks  = B K s,  s = parts that fill the chip, of SPLIT keys at least
    traffic = B K (Hk + Hv) keys bytes / (rate * stream * l2 factor * min(1, fill * blocks / n_SM))
    compute = 2 B K max(group, rows) (Hk + Hv) keys / (peak * compute * min(1, blocks / n_SM))
    serial  = max(1, blocks / n_SM) * (block_s + keys / s * key_s)    one SM's blocks in a row

Parts join by (sum of p-th powers)**(1/p).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from forerun.cost.families import Coef
from forerun.cost.rows import Rows
from forerun.cost.sheet import Sheet
from forerun.ops.attention import causal_pairs
from forerun.spec.dtype import WEIGHT_BYTES

TILE = 128.0  # queries a block takes
SPLIT = 256.0  # keys a part of a split cache has at least
HELD = 0.6  # share of the last-level cache that keys and values can hold

Coefs = Mapping[str, np.ndarray | float]

PREFILL_COEFS = (
    Coef("compute", 0.6, 0.03, 1.1, "share of the 16-bit matrix peak on long prompts, width 128"),
    Coef("narrow", 0.4, 0.01, 1.5, "power of the head width in the rate"),
    Coef("edge", 60.0, 1.0, 4000.0, "keys a query pays for beyond those it sees"),
    Coef("stream", 0.4, 0.05, 1.1, "share of the memory rate"),
    Coef("block_s", 1e-6, 1e-8, 1e-3, "one block's time without keys, s"),
    Coef("launch_s", 6e-6, 0.5e-6, 400e-6, "time of an empty call, s"),
    Coef("sharp", 1.4, 1.0, 10.0, "p: how completely parts overlap"),
)
DECODE_COEFS = (
    Coef("stream", 0.95, 0.05, 1.1, "share of the memory rate on long caches"),
    Coef("cached", 1.5, 1.0, 12.0, "rate of a cache held on chip over memory's"),
    Coef("compute", 0.4, 0.02, 1.1, "share of the 16-bit matrix peak"),
    Coef("rows", 16.0, 1.0, 128.0, "query rows computed for a kv head at least"),
    Coef("fill", 2.0, 0.1, 4.0, "how soon few blocks draw the whole memory rate"),
    Coef("block_s", 2.5e-6, 1e-8, 1e-3, "one block's time without keys, s"),
    Coef("key_s", 7e-10, 1e-11, 1e-6, "one block's time a key, s"),
    Coef("launch_s", 6e-6, 0.5e-6, 400e-6, "time of an empty call, merging of parts included, s"),
    Coef("sharp", 1.4, 1.0, 10.0, "p: how completely parts overlap"),
)


@dataclass(frozen=True, eq=False)
class Prefill:
    """Shapes of prefill attention, float64 [N] each."""

    batch: np.ndarray
    new: np.ndarray  # queries a request
    past: np.ndarray
    heads: np.ndarray
    kv_heads: np.ndarray
    width: np.ndarray  # Hk + Hv
    window: np.ndarray  # 0: none
    causal: np.ndarray
    kv_bytes: np.ndarray

    @property
    def pairs(self) -> np.ndarray:
        """Query-key pairs of all requests, one head."""
        whole = causal_pairs(self.new, self.past)
        seen = np.where(self.window > 0, self.window, np.inf)
        near = causal_pairs(self.new, self.past, window=np.minimum(seen, 1e12))
        pairs = np.where(self.window > 0, near, whole)
        return self.batch * np.where(self.causal > 0, pairs, self.new * (self.past + self.new))

    @property
    def keys(self) -> np.ndarray:
        """Keys that the last block of queries sees."""
        reach = np.where(self.window > 0, self.window + np.minimum(self.new, TILE), np.inf)
        return np.minimum(self.past + self.new, reach)

    @property
    def flop(self) -> np.ndarray:
        return 2.0 * self.heads * self.width * self.pairs

    @property
    def blocks(self) -> np.ndarray:
        return self.batch * self.heads * np.ceil(self.new / TILE)

    @property
    def activation_bytes(self) -> np.ndarray:
        return 2.0 * self.batch * self.new * (self.heads + self.kv_heads) * self.width

    @property
    def cache_bytes(self) -> np.ndarray:
        held = np.where(self.window > 0, np.minimum(self.past, self.window), self.past)
        return self.batch * self.kv_heads * self.width * held * self.kv_bytes

    def seconds(self, s: Sheet, c: Coefs) -> np.ndarray:
        """Without the launch."""
        rate = s.wide_flop_per_s * c["compute"] * (self.width / 256.0) ** c["narrow"]
        # a short prompt still fills the rows of a matrix unit
        least = np.minimum(np.maximum(self.new, s.tile_rows), np.maximum(self.new, 16.0))
        queries = self.batch * least
        padding = queries * np.maximum(self.keys, 1.0) - self.batch * self.new * self.keys
        flop = 2.0 * self.heads * self.width * (self.pairs + c["edge"] * queries + padding)
        one = 2.0 * np.minimum(self.new, TILE) * self.width * (self.keys + c["edge"])
        longest = one / (rate / np.where(s.is_gpu > 0, s.n_sm, 1.0))
        memory = (self.activation_bytes + self.cache_bytes) / (s.hbm_bytes_per_s * c["stream"])
        serial = np.where(s.is_gpu > 0, np.maximum(1.0, self.blocks / s.n_sm), 1.0) * c["block_s"]
        return powers((flop / rate, longest + serial, memory), c["sharp"])


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
        """Into how many each cache is split: enough to fill the chip, of SPLIT keys at least."""
        wanted = 2 * s.n_sm / (self.batch * self.kv_heads)
        return np.clip(wanted, 1.0, np.maximum(1.0, np.ceil(self.keys / SPLIT)))

    def seconds(self, s: Sheet, c: Coefs) -> np.ndarray:
        """Without the launch."""
        parts = self.parts(s)
        blocks = self.batch * self.kv_heads * parts
        gpu = s.is_gpu > 0
        filled = np.where(gpu, np.minimum(1.0, c["fill"] * blocks / s.n_sm), 1.0)
        busy = np.where(gpu, np.minimum(1.0, blocks / s.n_sm), 1.0)
        size = np.nan_to_num(s.l2_bytes, nan=1.0) * HELD
        held = 1 / (1 + (self.cache_bytes / size) ** 3)
        stream = s.hbm_bytes_per_s * c["stream"] * (1 + (c["cached"] - 1) * held) * filled
        rows = np.maximum(self.heads / self.kv_heads, c["rows"])
        flop = 2.0 * self.batch * self.kv_heads * rows * self.width * self.keys
        compute = flop / (s.wide_flop_per_s * c["compute"] * busy)
        waves = np.where(gpu, np.maximum(1.0, blocks / s.n_sm), 1.0)
        serial = waves * (c["block_s"] + self.keys / parts * c["key_s"])
        return powers((self.hbm_bytes / stream, compute, serial), c["sharp"])


def powers(parts: tuple[np.ndarray, ...], p: np.ndarray | float) -> np.ndarray:
    """(sum of p-th powers)**(1/p) without overflow."""
    most = np.maximum.reduce(parts)
    safe = np.where(most > 0, most, 1.0)
    return most * sum((part / safe) ** p for part in parts) ** (1.0 / np.asarray(p))


def prefill_of(x: Rows) -> Prefill:
    """Rows of op attention_prefill; the value width is the key width unless it is given."""
    head = x.get("head_dim")
    value = np.where(np.isnan(x.get("v_head_dim")), head, x.get("v_head_dim"))
    return Prefill(
        x.get("batch", 1.0), x.get("isl"), x.get("past", 0.0), x.get("n_heads"),
        _kv_heads(x), head + value, x.get("window", 0.0), x.get("causal", 1.0), kv_bytes(x),
    )  # fmt: skip


def decode_of(x: Rows, *, batch: str = "batch", past: str = "past") -> Decode:
    """Rows of op attention_decode, or the decoders in a mixed kernel."""
    head = x.get("head_dim")
    value = np.where(np.isnan(x.get("v_head_dim")), head, x.get("v_head_dim"))
    window = x.get("window", 0.0)
    keys = np.where(window > 0, np.minimum(x.get(past), window), x.get(past))
    return Decode(
        x.get(batch), keys, x.get("n_heads"), _kv_heads(x), head + value, head + value, kv_bytes(x)
    )


def _kv_heads(x: Rows) -> np.ndarray:
    return np.where(np.isnan(x.get("n_kv_heads")), x.get("n_heads"), x.get("n_kv_heads"))


def kv_bytes(x: Rows) -> np.ndarray:
    """Bytes of a cached element, float64 [N]."""
    words = x.words("kv_dtype", "bf16")
    size = {word: WEIGHT_BYTES.get(word, 2.0) for word in set(words)}
    return np.array([size[word] for word in words])


def prefill_features(a: Prefill, s: Sheet) -> dict[str, np.ndarray]:
    """Dimensionless: what decides how far prefill is from its roofline on any device."""
    compute = a.flop / s.wide_flop_per_s
    memory = (a.activation_bytes + a.cache_bytes) / s.hbm_bytes_per_s
    return {
        "ridge": np.log2(compute / memory),
        "launches": np.log2(np.maximum(compute, memory) / s.launch_s),
        "blocks_per_sm": np.log2(a.blocks / s.n_sm),
        "keys": np.log2(a.keys),
        "new": np.log2(a.new),
        "width": np.log2(a.width),
        "group": np.log2(a.heads / a.kv_heads),
        "windowed": np.log2(np.where(a.window > 0, (a.past + a.new) / a.keys, 1.0)),
        "narrow_kv": a.kv_bytes,
        "causal": a.causal,
        "rows": s.tile_rows,
    }


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
