"""Attention of a prompt: blocks of queries over the keys they see, in waves over the SMs.

A block takes T query rows of one head over all keys they see, on one SM.

    pair    = (2 (Hk+Hv) / (peak * compute * min(1, width/256)**narrow) + soft / vector peak
               + widen (Hk+Hv) / tile rows / (vector peak / 2)) * n_SM
    keys    = max(a tile, mean keys + edge * max(T, a tile) / KEYS)
    block   = block_s / blocks at once + T * keys * pair
    longest = one of the keys of the last block
    blocks  = B N ceil(q/T), or B K ceil(q N/K / T) where heads are packed as rows
    time    = max(longest, ceil(blocks/n_SM) * block)

T, tiles of keys, packing and blocks at once are those of the engine's kernel (`_kernels`); where it
is not known, T is between 64 and 128 by `tall`, and packed by `pack`.  Joined with the bytes moved
as in `_overlap`.

Decoders in the same kernel are blocks of one row.  Of two kinds, the one whose blocks take longer
first:  ceil(b1/n_SM) (w1 - w2) + ceil((b1 + b2)/n_SM) w2, which grows with all four.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from forerun.cost.families import Coef, Coefs
from forerun.cost.families import _kernels as kernels
from forerun.cost.families._attention import (
    AGAIN,
    act_bytes,
    bytes_of,
    held,
    kv_bytes,
    kv_heads_of,
    peak,
)
from forerun.cost.families._overlap import powers
from forerun.cost.kept import kept
from forerun.cost.rows import Rows
from forerun.cost.sheet import Sheet
from forerun.ops.attention import causal_pairs

#: instructions of a vector unit that widen an element of 8 bits: five to place its sign, exponent
#: and mantissa, three to scale it in 32 bits (vllm-xpu-kernels, csrc/xpu/attn/xe_2/collective/
#: chunk_prefill_mainloop.hpp; elsewhere taken to be alike)
SLOTS = 8.0
SHORT, TALL = 64.0, 128.0  # query rows a block takes
KEYS = 128.0  # keys a block takes at once in most kernels

PREFILL_COEFS = (
    Coef("compute", 0.8, 0.03, 1.3, "share of the matrix peak without softmax, width 128"),
    Coef("narrow", 0.2, 0.01, 0.8, "power of the head width in the rate, below 128"),
    Coef("soft", 16.0, 8.0, 32.0, "vector operations of the softmax a pair"),
    Coef("edge", 64.0, 1.0, 1000.0, "keys a row pays for beyond those it sees"),
    Coef("tall", 0.6, 0.01, 1.0, "1: blocks of 128 rows, 0: of 64, between: geometric mean"),
    Coef("pack", 0.3, 0.01, 1.0, "1: query heads of a kv head share a block's rows, 0: not"),
    Coef("stream", 0.8, 0.05, 1.1, "share of the memory rate"),
    Coef("block_s", 3e-6, 1e-8, 1e-3, "one block's time without keys, s"),
    Coef("launch_s", 10e-6, 0.5e-6, 400e-6, "time of an empty call, s"),
    Coef("sharp", 2.0, 1.0, 10.0, "p: how completely parts overlap"),
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
    value: np.ndarray  # Hv
    window: np.ndarray  # 0: none
    causal: np.ndarray
    kv_bytes: np.ndarray
    act_bytes: np.ndarray
    decoders: np.ndarray  # requests of one query in the same kernel
    cached: np.ndarray  # keys each of them sees

    @cached_property
    def pairs(self) -> np.ndarray:
        """Query-key pairs of the chunks, one head; those of decoders left out."""
        far = np.where(self.window > 0, self.window, 1e12)
        near = causal_pairs(self.new, self.past, window=far)  # type: ignore[arg-type]
        pairs = np.where(self.window > 0, near, causal_pairs(self.new, self.past))
        return self.batch * np.where(self.causal > 0, pairs, self.new * (self.past + self.new))

    @cached_property
    def flop(self) -> np.ndarray:
        seen = self.pairs + self.decoders * self.cached
        return 2.0 * self.heads * self.width * seen

    @cached_property
    def activation_bytes(self) -> np.ndarray:
        tokens = self.batch * self.new + self.decoders
        return tokens * (self.heads + self.kv_heads) * self.width * self.act_bytes

    @cached_property
    def cache_bytes(self) -> np.ndarray:
        """Keys and values that were there before, each read once."""
        held = np.where(self.window > 0, np.minimum(self.past, self.window), self.past)
        tokens = self.batch * held + self.decoders * self.cached
        return self.kv_heads * self.width * tokens * self.kv_bytes

    def blocks(self, rows: np.ndarray | float, packed: bool) -> tuple[np.ndarray, np.ndarray]:
        """(of chunks, of decoders) when a block takes so many rows of one head, or of all the
        heads that share keys."""
        if not packed:
            return self.batch * self.heads * np.ceil(self.new / rows), self.decoders * self.heads
        group = self.heads / self.kv_heads
        chunks = self.batch * self.kv_heads * np.ceil(self.new * group / rows)
        return chunks, self.decoders * self.kv_heads * np.ceil(group / rows)

    def seconds(self, s: Sheet, c: Coefs) -> np.ndarray:
        """Without the launch."""
        k = self._kernel(s)
        slow = np.minimum(1.0, k.width / 256.0) ** c["narrow"]
        pair = 2.0 * k.width / (k.rate * c["compute"] * slow) + c["soft"] / k.vector
        # latents are expanded anyway
        widened = np.where(k.widens, c.get("widen", 0.0), 0.0)
        pair = pair + widened * self.width / s.tile_rows / (k.vector / 2)
        # kernels differ in rows a block takes and in whether heads share them: geometric means,
        # so that a fit sees every share of them
        tall, pack = c["tall"], np.where(np.isnan(k.packs), c["pack"], k.packs)
        busy = np.exp(
            (1 - tall) * (1 - pack) * np.log(self._busy(k.short[0], pair, k.least, s, c))
            + (1 - tall) * pack * np.log(self._busy(k.short[1], pair, k.least, s, c))
            + tall * (1 - pack) * np.log(self._busy(k.tall[0], pair, k.least, s, c))
            + tall * pack * np.log(self._busy(k.tall[1], pair, k.least, s, c))
        )
        traffic = self.activation_bytes + self.cache_bytes + self._read_again(pack, s)
        return powers((busy, traffic / (s.hbm_bytes_per_s * c["stream"])), c["sharp"])

    @kept
    def _kernel(self, s: Sheet) -> _Kernel:
        """What is known of the kernels that run it."""
        narrow = kernels.multiplies_narrow(self.kv_bytes, s)
        each = np.where(narrow, 1.0, 2.0)
        key, value = self.width - self.value, self.value
        width = kernels.padded(key, each, s) + kernels.padded(value, each, s)
        rate = np.where(narrow, np.fmax(s.fp8_flop_per_s, peak(s)), peak(s))
        rate = rate * kernels.tile_share(self.width, self.kv_bytes, s)
        vector = np.where(s.vector_flop_per_s > 0, s.vector_flop_per_s, s.wide_flop_per_s / 16)
        least = kernels.key_tile(width, self.kv_bytes, s)
        rows, packs = kernels.query_tile(self.width, s)
        blocks = [
            tuple(self._blocks(np.where(np.isnan(rows), usual, rows), p, s) for p in (False, True))
            for usual in (SHORT, TALL)
        ]
        return _Kernel(
            width, rate, vector, kernels.widens(self.kv_bytes, s), packs,
            np.where(s.is_gpu > 0, least, 0.0), blocks[0], blocks[1],
        )  # fmt: skip

    def _read_again(self, pack: np.ndarray, s: Sheet) -> np.ndarray:
        """Bytes that it costs to read decoders' keys for each of the heads that share them, beyond
        the first, where they are not packed.

        Heads that run at once read together.  They come one after the other, all requests of one
        before the next (the grid of FlashAttention 2, csrc/flash_attn/src/
        flash_fwd_launch_template.h), so that the last-level cache has to hold them that long.
        """
        keys = self.decoders * self.cached * self.width * self.kv_bytes  # of one kv head
        group = (self.heads / self.kv_heads) ** (1.0 - pack)
        together = np.clip(s.n_sm / np.maximum(self.decoders, 1.0), 1.0, group)
        passes = np.where(s.is_gpu > 0, group / together, 1.0)
        near = held(keys, s)
        far = (passes - 1.0) * (AGAIN * near + 1.0 - near)
        return self.kv_heads * keys * (far + AGAIN * (group - passes))

    def _blocks(self, rows: np.ndarray, packed: bool, s: Sheet) -> _Blocks:
        """The blocks of a kernel whose blocks take so many rows."""
        gpu = s.is_gpu > 0
        # without SMs nothing is padded, and all of the device works on one block
        tile = np.where(gpu, rows, np.minimum(rows, np.maximum(self.new, s.tile_rows)))
        whole = kernels.unclipped(self.window, s)
        behind = np.where(whole, self.new, np.minimum(self.new, rows))
        reach = np.where(self.window > 0, self.window + behind, np.inf)
        last = np.minimum(self.past + self.new, reach)
        mean = self.pairs / (self.batch * self.new) + np.where(whole, (self.new - 1) / 2, 0.0)
        return _Blocks(
            tile, last, mean, *self.blocks(rows, packed), kernels.prefill_at_once(self.width, s)
        )

    def _busy(
        self, b: _Blocks, pair: np.ndarray, least: np.ndarray, s: Sheet, c: Coefs
    ) -> np.ndarray:
        """Seconds until the last block is done."""
        gpu = s.is_gpu > 0
        units = np.where(gpu, s.n_sm, 1.0)
        once = c["edge"] * np.where(gpu, np.maximum(b.tile, least) / KEYS, 1.0)
        edge = np.where(self.window > 0, 2.0, 1.0) * once
        one = b.tile * pair * units
        start = c["block_s"] / b.at_once
        far, near = np.minimum(b.last + edge, self.past + self.new + once), b.last + once
        longest = c["block_s"] + one * np.maximum(least, far)
        work = start + one * np.maximum(least, np.minimum(b.mean + edge, near))
        alone = np.maximum(longest, _waves(b.chunks, units) * work)
        if not (b.ones > 0).any():
            return alone
        beside = start + one * np.maximum(least, self.cached + once)
        first, then = np.maximum(work, beside), np.minimum(work, beside)
        n_first = np.where(work >= beside, b.chunks, b.ones)
        mixed = _waves(n_first, units) * (first - then) + _waves(b.chunks + b.ones, units) * then
        return np.where(b.ones > 0, np.maximum(alone, mixed), alone)


class _Blocks(NamedTuple):
    """Blocks of rows of one head, or of all heads that share keys; float64 [N] each."""

    tile: np.ndarray  # rows that are computed
    last: np.ndarray  # keys of the last block
    mean: np.ndarray
    chunks: np.ndarray  # how many of chunks ...
    ones: np.ndarray  # ... and of decoders
    at_once: np.ndarray  # that a multiprocessor works on


class _Kernel(NamedTuple):
    """A kernel of prefill attention; float64 [N] each."""

    width: np.ndarray  # Hk + Hv as they are multiplied
    rate: np.ndarray  # flop/s of its matrix products at best ...
    vector: np.ndarray  # ... and of all else
    widens: np.ndarray  # bool: keys and values of 8 bits
    packs: np.ndarray  # 1: heads that share keys share a block's rows, 0: not, NaN: unknown
    least: np.ndarray  # keys that are multiplied at least
    short: tuple[_Blocks, ...]  # SHORT rows a block where that is not known: not packed, and packed
    tall: tuple[_Blocks, ...]  # the same of TALL rows


@kept
def is_written(x: Rows, s: Sheet) -> np.ndarray:
    """Whether a call writes new keys and values to the cache first, bool [N].  Rows that name no
    format of a cache are of attention alone."""
    return kernels.writes(s) & (x.words("kv_dtype") != "")


def before(a: Prefill, x: Rows, s: Sheet, c: Coefs) -> np.ndarray:
    """Seconds of what an engine's attention does with new tokens before it attends to them.

    TensorRT-LLM turns queries and keys and writes the cache in one kernel; vLLM and SGLang, which
    turn them elsewhere, write the cache, and queries in 8 bits where the cache has 8.
    """
    queries, keys = a.heads * a.width / 2, a.kv_heads * a.width
    narrows = kernels.narrows_queries(a.kv_bytes, s)
    narrowed = np.where(narrows, queries * (2.0 + a.kv_bytes), 0.0)
    turned = queries * (2.0 + bytes_of(x.words("dtype", "bf16")))
    queried = np.where(s.by(*kernels.TURNS), turned, narrowed)
    moved = (a.batch * a.new + a.decoders) * (queried + keys * (2.0 + a.kv_bytes))
    return np.where(is_written(x, s), moved / (s.hbm_bytes_per_s * c["stream"]), 0.0)


def _waves(blocks: np.ndarray, units: np.ndarray) -> np.ndarray:
    """Rounds in which so many units work off the blocks; unrounded where they are many."""
    return np.ceil(np.round(blocks / units, 9))


@kept
def prefill_of(x: Rows) -> Prefill:
    """Rows of op attention_prefill; the value width is the key width unless it is given."""
    head, window = x.get("head_dim"), x.get("window", 0.0)
    value = np.where(np.isnan(x.get("v_head_dim")), head, x.get("v_head_dim"))
    seen = x.get("past_decode", 0.0)
    return Prefill(
        x.get("batch", 1.0), x.get("isl"), x.get("past", 0.0), x.get("n_heads"), kv_heads_of(x),
        head + value, value, window, x.get("causal", 1.0), kv_bytes(x), act_bytes(x),
        x.get("n_decode", 0.0), np.where(window > 0, np.minimum(seen, window), seen),
    )  # fmt: skip


def prefill_features(a: Prefill, s: Sheet) -> dict[str, np.ndarray]:
    """Dimensionless: what decides how far prefill is from its roofline on any device."""
    compute = a.flop / peak(s)
    memory = (a.activation_bytes + a.cache_bytes) / s.hbm_bytes_per_s
    chunks, ones = a.blocks(TALL, False)
    return {
        "ridge": np.log2(compute / memory),
        "launches": np.log2(np.maximum(compute, memory) / s.launch_s),
        "blocks_per_sm": np.log2((chunks + ones) / s.n_sm),
        "keys": np.log2(a.pairs / (a.batch * a.new)),
        "new": np.log2(a.new),
        "width": np.log2(a.width),
        "group": np.log2(a.heads / a.kv_heads),
        "windowed": np.log2(1 + (a.past + a.new) / np.where(a.window > 0, a.window, np.inf)),
        "narrow_kv": a.kv_bytes,
        "causal": a.causal,
        "rows": s.tile_rows,
        "decoders": ones / (chunks + ones),
    }
