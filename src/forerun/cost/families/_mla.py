"""Latent attention: the shapes both forms share, and the products around it in a whole block.

Keys and values of a token are one latent of kv_lora_rank elements and rope_dim more.  A prefill
expands them to N heads of head_dim and v_head_dim, a decode step multiplies with the latent itself:
one head of keys, 2 kv_lora_rank + rope_dim wide, stored in kv_lora_rank + rope_dim.

A row that gives `hidden` is the block with its products, in the row's number format:

    down   T x (q_lora_rank + kv_lora_rank + rope_dim) x hidden
    up     T x N head_dim x q_lora_rank (hidden where there is no such rank)
    kv     T x N (H_nope + H_v) x kv_lora_rank, in 16 bits and by head where absorbed (decode)
    out    T x hidden x N H_v

    a product = ((flop / (peak * project))**p + (bytes / (rate * weights))**p)**(1/p), p = 3
    around    = around_s + T token_s + the four of them

Rows without `hidden` are the attention kernel alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from forerun.cost.families import Coef, Coefs
from forerun.cost.families._attention import kv_bytes, peak
from forerun.cost.families._decode import Decode, cache_factor
from forerun.cost.families._overlap import powers
from forerun.cost.kept import kept
from forerun.cost.rows import Rows
from forerun.cost.sheet import Sheet
from forerun.ops.counts import Counts
from forerun.spec.dtype import WEIGHT_BYTES

TILE = 64.0  # heads a block of a decode kernel takes
PAGE = 64.0  # latents it takes at once
#: what partial results cost of what they would in memory: estimate, they stay in the cache
AGAIN = 0.3
#: rows a matrix unit computes at least in a product of few tokens
LEAST_ROWS = 64.0
#: how completely arithmetic and traffic of a product overlap
SHARP = 3.0

LATENT_COEFS = (
    Coef("stream", 0.9, 0.05, 1.1, "share of the memory rate on long caches"),
    Coef("cached", 1.5, 1.0, 12.0, "rate of latents held on chip over memory's"),
    Coef("compute", 0.7, 0.02, 1.1, "share of the matrix peak"),
    Coef("rows", 64.0, 16.0, 128.0, "query rows computed at least"),
    Coef("fill", 1.5, 0.1, 6.0, "how soon few blocks draw the whole memory rate"),
    Coef("copies", 2.0, 1.0, 3.0, "passes over queries and results"),
    Coef("block_s", 3e-6, 1e-8, 1e-3, "one block's time without keys, s"),
    Coef("key_s", 2e-9, 1e-11, 1e-6, "one block's time a key, s"),
    Coef("launch_s", 9e-6, 0.5e-6, 400e-6, "time of an empty call, merging of parts included, s"),
    Coef("sharp", 4.0, 1.0, 12.0, "p: how completely arithmetic and traffic overlap"),
)
BLOCK_COEFS = (
    Coef("project", 0.6, 0.05, 0.9, "share of the matrix peak in products around attention"),
    Coef("weights", 0.8, 0.05, 3.0, "share of the memory rate their operands reach"),
    Coef("around_s", 15e-6, 0.5e-6, 1e-3, "time of what is around attention without work, s"),
    Coef("token_s", 2e-8, 1e-10, 1e-6, "a token's norms, positions and conversions, s"),
)


@dataclass(frozen=True, eq=False)
class Latent:
    """Widths of latent attention on one device, float64 [N] each."""

    heads: np.ndarray
    q_rank: np.ndarray  # 0: queries come from the hidden state at once
    rank: np.ndarray
    rope: np.ndarray
    qk: np.ndarray  # of an expanded query or key, rope included
    v: np.ndarray
    hidden: np.ndarray  # 0 where the row is the kernel alone
    weight_bytes: np.ndarray  # of an element of a weight

    @cached_property
    def whole(self) -> np.ndarray:
        """Rows that are blocks with their products, bool [N]."""
        return self.hidden > 0

    @property
    def nope(self) -> np.ndarray:
        """Width of a query or key without the part that positions turn."""
        return np.maximum(self.qk - self.rope, 0.0)

    def products(self, absorbed: bool) -> list[tuple[np.ndarray, np.ndarray, bool]]:
        """(columns, depth, in 16 bits) of each product, all heads of one put side by side."""
        queries_from = np.where(self.q_rank > 0, self.q_rank, self.hidden)
        return [
            (self.q_rank + self.rank + self.rope, self.hidden, False),
            (self.heads * self.qk, queries_from, False),
            (self.heads * (self.nope + self.v), self.rank, absorbed),
            (self.hidden, self.heads * self.v, False),
        ]

    def counts(self, tokens: np.ndarray, absorbed: bool) -> Counts:
        """Flop and bytes of the products of `tokens` tokens; 0 for kernels alone."""
        flop = weights = moved = np.zeros(len(tokens))
        for n, k, wide in self.products(absorbed):
            size = 2.0 if wide else self.weight_bytes
            flop = flop + 2.0 * tokens * n * k
            weights = weights + n * k * size
            moved = moved + 2.0 * tokens * (n + k)
        some = self.whole * 1.0
        return Counts(flop=some * flop, weight_bytes=some * weights, activation_bytes=some * moved)

    def seconds(self, tokens: np.ndarray, absorbed: bool, s: Sheet, c: Coefs) -> np.ndarray:
        """What a block takes beside attention; 0 for kernels alone."""
        total = c["around_s"] + tokens * c["token_s"]
        rows = np.where(s.is_gpu > 0, np.maximum(tokens, LEAST_ROWS), tokens)
        for n, k, wide in self.products(absorbed):
            size = 2.0 if wide else self.weight_bytes
            rate = s.wide_flop_per_s if wide else s.flop_per_s
            compute = 2.0 * rows * n * k / (rate * c["project"])
            moved = n * k * size + 2.0 * tokens * (n + k)
            memory = moved / (s.hbm_bytes_per_s * c["weights"])
            total = total + powers((compute, memory), SHARP)
        return np.where(self.whole, total, 0.0)


@kept
def latent_of(x: Rows) -> Latent:
    """Rows of op mla_prefill or mla_decode, defaults filled in."""
    words = x.words("dtype", "bf16")
    size = {word: WEIGHT_BYTES.get(word, 2.0) for word in set(words)}
    return Latent(
        x.get("n_heads"), x.get("q_lora_rank", 0.0), x.get("kv_lora_rank"), x.get("rope_dim"),
        x.get("head_dim"), x.get("v_head_dim"), x.get("hidden", 0.0),
        np.array([size[word] for word in words]),
    )  # fmt: skip


def around_start(s: Sheet) -> np.ndarray:
    """Time of what is around attention before any measurement: estimate, 8 kernels where they are
    fused and 28 where each step of the model's code starts its own."""
    return np.where(s.by("vllm"), 28.0, 8.0) * s.launch_s


@kept
def of_kernel(s: Sheet, whole: np.ndarray) -> Sheet:
    """The sheet with the peak that the attention kernel runs at: the row's format, but 16 bits in a
    block, whose format is that of its weights."""
    return s.at_peak(np.where(whole, s.wide_flop_per_s, peak(s)))


def latent_bytes(a: Latent, x: Rows) -> np.ndarray:
    """Bytes a token holds in the cache, float64 [N]."""
    return (a.rank + a.rope) * kv_bytes(x)


def latent_decode(x: Rows, batch: np.ndarray, past: np.ndarray) -> Decode:
    """One query a request on `past` latents: all heads share the one head of keys."""
    a, window = latent_of(x), x.get("window", 0.0)
    keys = np.where(window > 0, np.minimum(past, window), past)
    one, width, stored = np.ones(x.n), 2 * a.rank + a.rope, a.rank + a.rope
    return Decode(batch, keys, a.heads, one, width, stored, kv_bytes(x))


def parts_of(d: Decode, s: Sheet) -> np.ndarray:
    """Into how many each request's latents are split: enough to fill the chip, PAGE at least."""
    wanted = s.n_sm / (d.batch * np.maximum(1.0, d.heads / TILE))
    return np.where(s.is_gpu > 0, np.clip(wanted, 1.0, np.maximum(1.0, d.keys / PAGE)), 1.0)


def decode_seconds(d: Decode, rank: np.ndarray, s: Sheet, c: Coefs) -> np.ndarray:
    """The kernel without its launch."""
    gpu, parts = s.is_gpu > 0, parts_of(d, s)
    keys = np.where(gpu, np.maximum(d.keys, PAGE), d.keys)
    rows = np.maximum(d.heads, c["rows"])
    # blocks there can be at most: of keys, which draw on memory, and of heads too, which compute
    pages = d.batch * keys / PAGE
    filled = np.where(gpu, np.minimum(1.0, c["fill"] * pages / s.n_sm), 1.0)
    busy = np.where(gpu, np.minimum(1.0, pages * np.maximum(1.0, rows / TILE) / s.n_sm), 1.0)
    total = d.batch * d.stored * keys * d.kv_bytes
    rate = s.hbm_bytes_per_s * c["stream"]
    compute = 2.0 * d.batch * rows * d.width * keys / (s.wide_flop_per_s * c["compute"] * busy)
    # partial results are of 32 bits; the parts beyond the first are written and read once more
    merged = d.batch * d.heads * rank * (parts - 1) * 8.0
    memory = total / (rate * cache_factor(total, s, c) * filled)
    beside = (c["copies"] * d.activation_bytes + AGAIN * merged) / rate
    blocks = d.batch * np.maximum(1.0, d.heads / TILE) * parts
    serial = np.where(gpu, blocks / s.n_sm, 1.0) * c["block_s"] + keys / parts * c["key_s"]
    return powers((memory, compute), c["sharp"]) + serial + beside
