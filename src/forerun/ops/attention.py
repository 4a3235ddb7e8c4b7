"""Attention over new and cached tokens: multi-head, grouped, latent; causal, windowed, sparse."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from forerun.ops.counts import Array, Counts


def visible(ctx: Array, *, window: int | None = None) -> Array:
    """How many of ctx cached tokens a query reads: min(ctx, window)."""
    return ctx * 1.0 if window is None else np.minimum(ctx, window) * 1.0


def causal_pairs(n_new: Array, n_past: Array = 0, *, window: int | None = None) -> Array:
    """Query-key pairs when n_new tokens follow n_past cached ones, each seeing itself.

        F(n) = n(n+1)/2                             n <= window
             = W(W+1)/2 + (n - W) W                 beyond
        pairs = F(past + new) - F(past)

    So chunks add up to the whole, exactly.
    """
    return _triangle(n_past + n_new, window) - _triangle(n_past, window)


def _triangle(n: Array, window: int | None) -> Array:
    n = np.asarray(n, dtype=float)
    if window is None:
        return n * (n + 1) / 2
    inside = np.minimum(n, window)
    return inside * (inside + 1) / 2 + (n - inside) * window


def attention_prefill(
    n_new: Array, n_past: Array = 0, *, n_heads: int, n_kv_heads: int, qk_dim: int, v_dim: int,
    window: int | None = None, kv_bytes: float = 2.0, act_bytes: float = 2.0,
) -> Counts:  # fmt: skip
    """Flop and bytes of causal attention of one sequence's new tokens over past and themselves.

        flop       = 2 * N * (H_qk + H_v) * pairs          # QK' and PV, masked blocks skipped
        kv bytes   = K * (H_qk + H_v) * kv_bytes * min(past, window)     # cached part, read once
        act bytes  = q * (N (H_qk + H_v) + K (H_qk + H_v)) * act_bytes   # q, o and the new k, v

    Leaves out softmax (about 5 flop a pair and head) and re-reading of K and V by query tiles,
    which hits the last-level cache.
    """
    pairs = causal_pairs(n_new, n_past, window=window)
    width = qk_dim + v_dim
    runs = (np.asarray(n_new) > 0) * 1.0
    return Counts(
        flop=2.0 * n_heads * width * pairs,
        activation_bytes=1.0 * n_new * (n_heads + n_kv_heads) * width * act_bytes,
        kv_bytes=runs * n_kv_heads * width * kv_bytes * visible(n_past, window=window),
    )


def attention_decode(
    n_seqs: Array, ctx: Array, *, n_heads: int, n_kv_heads: int, qk_dim: int, v_dim: int,
    window: int | None = None, shared_kv: bool = False, kv_bytes: float = 2.0,
    act_bytes: float = 2.0,
) -> Counts:  # fmt: skip
    """Flop and bytes of one decode step of n_seqs requests with ctx cached tokens each (the mean).

        c     = min(ctx, window)
        flop  = 2 * B * N * (H_qk + H_v) * c
        kv    = B * K * (H_qk + H_v) * c * kv_bytes      # K and V once
        kv    = B * K * H_qk * c * kv_bytes              # shared_kv: V is a part of K (latent)
        act   = B * N * (H_qk + H_v) * act_bytes         # q in, o out

    The new token's own key and value count as cached.  Softmax is left out.
    """
    c = visible(ctx, window=window)
    width = qk_dim + v_dim
    return Counts(
        flop=2.0 * n_seqs * n_heads * width * c,
        activation_bytes=1.0 * n_seqs * n_heads * width * act_bytes,
        kv_bytes=1.0 * n_seqs * n_kv_heads * (qk_dim if shared_kv else width) * c * kv_bytes,
    )


def index_decode(
    n_seqs: Array, ctx: Array, *, heads: int, dim: int, key_bytes: float = 1.0
) -> Counts:
    """The indexer that picks which cached tokens to read: scores all of them.

    flop = 2 * B * heads * dim * ctx ;  kv = B * dim * ctx * key_bytes
    """
    return Counts(
        flop=2.0 * n_seqs * heads * dim * ctx,
        activation_bytes=4.0 * n_seqs * ctx,  # one fp32 score a token
        kv_bytes=1.0 * n_seqs * dim * ctx * key_bytes,
    )


def index_prefill(
    n_new: Array, n_past: Array = 0, *, heads: int, dim: int, key_bytes: float = 1.0
) -> Counts:
    """The indexer over a chunk: 2 * heads * dim flop a causal pair; keys of the past read once."""
    pairs = causal_pairs(n_new, n_past)
    runs = (np.asarray(n_new) > 0) * 1.0
    return Counts(
        flop=2.0 * heads * dim * pairs,
        activation_bytes=4.0 * pairs,
        kv_bytes=runs * dim * n_past * key_bytes,
    )


def latent_reprojection(n_past: Array, *, n_heads: int, rank: int, width: int) -> Array:
    """Flop to expand cached latents of the past to keys and values, once a chunk.

    2 * past * rank * N * (H_nope + H_v)
    """
    return 2.0 * n_past * rank * n_heads * width


@dataclass(frozen=True)
class Attention:
    """Shape of one layer's attention on one device; all counts are of that device's heads.

    Cached tokens older than the last `recent` ones may be kept in fewer bits.
    A query reads at most `window` cached tokens.  With `sparse_topk` an indexer picks that many of
    them.  With `compress` there is, beside the window, one more cached entry for every `compress`
    tokens, of which a query reads all or `sparse_topk` (DeepSeek V4).

    Latent attention (MLA) has two forms: prefill runs on expanded keys and values (`qk_dim`,
    `v_dim`, `n_kv_heads = n_heads`), decode on the latent (`latent_dim` = rank + rope, one shared
    head, values a part of it of width `latent_v`).
    """

    n_heads: int
    n_kv_heads: int
    qk_dim: int
    v_dim: int
    window: int | None = None
    kv_bytes: float = 2.0
    one_cache: bool = False  # one cached vector is key and value
    old_k_bytes: float | None = None  # an element of cached keys older than the last `recent` ...
    old_v_bytes: float | None = None  # ... and of values; None: as the last ones
    recent: int = 0
    latent_dim: int = 0
    latent_v: int = 0
    reproject: int = 0  # H_nope + H_v when prefill must expand cached latents
    compress: int = 0
    sparse_topk: int | None = None
    index_heads: int = 0
    index_dim: int = 0
    math: str = "bf16"
    kernels: int = 3  # planning the splits, the kernel, merging them
    split: int = 1  # context parallelism: devices that share one sequence's tokens
    cached: bool = True  # False when it reads an earlier layer's keys and values
    causal: bool = True  # False: a chunk is a whole item, all of whose tokens see each other
    params: float = 0.0
    stored_bytes: float = 0.0

    @property
    def reach(self) -> int | None:
        """Cached tokens (not compressed entries) a query reads at most."""
        picked = None if self.compress else self.sparse_topk
        limits = [x for x in (self.window, picked) if x is not None]
        return min(limits) if limits else None

    @property
    def kinks(self) -> tuple[int, ...]:
        """Contexts at which what a query reads stops growing as before."""
        far = self.compress * self.sparse_topk if self.compress and self.sparse_topk else None
        aged = self.recent if self.old_k_bytes is not None and self.recent else None
        return tuple(x for x in (self.reach, far, aged) if x is not None)

    @property
    def kv_width(self) -> int:
        """Elements one cached token holds."""
        if self.latent_dim:
            return self.latent_dim
        return self.n_kv_heads * (self.qk_dim if self.one_cache else self.qk_dim + self.v_dim)

    def old_tokens(self, ctx: Array) -> Array:
        """How many of ctx cached tokens that a query reads are kept in fewer bits."""
        if self.old_k_bytes is None:
            return 0.0 * ctx
        return np.maximum(visible(ctx, window=self.reach) - self.recent, 0.0)

    @property
    def old_share(self) -> float:
        """Bytes of an older token over those of one of the last."""
        if self.old_k_bytes is None or self.old_v_bytes is None:
            return 1.0
        old = self.qk_dim * self.old_k_bytes + self.v_dim * self.old_v_bytes
        return old / ((self.qk_dim + self.v_dim) * self.kv_bytes)

    def whole_tokens(self, ctx: Array) -> Array:
        """Tokens in the cache's own format that take as many bytes as ctx cached ones."""
        return ctx - (1.0 - self.old_share) * self.old_tokens(ctx)

    def cached_bytes(self, context: Array) -> Array:
        """KV bytes one sequence of `context` tokens keeps in this layer on this device.

        window : min(context, W) tokens;  compress m : context / m entries more;  index keys of one
        byte an element for every token or entry.
        """
        if not self.cached:
            return 0.0 * context
        seen = visible(context, window=self.window)
        held = self.whole_tokens(seen) * self.kv_width * self.kv_bytes
        entries = context / self.compress if self.compress else 1.0 * context
        if self.compress:
            held = held + entries * self.kv_width * self.kv_bytes
        if self.index_heads:
            held = held + entries * self.index_dim * INDEX_KEY_BYTES
        return held / self.split

    def decode(self, n_seqs: Array, ctx: Array) -> Counts:
        """One decode step; [B] with [K] broadcasts if given as column and row."""
        return _share(self._decode(n_seqs, ctx), self.split)

    def _decode(self, n_seqs: Array, ctx: Array) -> Counts:
        if self.latent_dim:
            heads, qk, v = 1, self.latent_dim, self.latent_v
        else:
            heads, qk, v = self.n_kv_heads, self.qk_dim, self.v_dim

        def core(c: Array, window: int | None) -> Counts:
            return attention_decode(
                n_seqs, c, n_heads=self.n_heads, n_kv_heads=heads, qk_dim=qk, v_dim=v,
                window=window, shared_kv=bool(self.latent_dim) or self.one_cache,
                kv_bytes=self.kv_bytes,
            )  # fmt: skip

        total, entries = core(ctx, self.reach), 1.0 * ctx
        if self.old_k_bytes is not None:
            old = self.old_tokens(ctx) * n_seqs
            token = self.kv_width * self.kv_bytes
            total = total._replace(
                flop=total.flop + 2.0 * old * self.kv_width,  # scale and zero
                kv_bytes=total.kv_bytes - (1.0 - self.old_share) * old * token,
            )
        if self.compress:
            entries = ctx / self.compress
            far = core(entries, self.sparse_topk)
            total = _add(total, far._replace(activation_bytes=0.0))
        if self.index_heads:
            index = index_decode(n_seqs, entries, heads=self.index_heads, dim=self.index_dim)
            total = _add(total, index)
        return total

    def prefill(self, n_new: Array, n_past: Array) -> Counts:
        """One chunk of one sequence."""
        return _share(self._prefill(n_new, n_past), self.split)

    def pair_flop(self, n_new: Array, n_past: Array) -> Array:
        """Flop of a chunk on query-key pairs alone, which kernels pad to whole rows of queries."""
        if not self.causal:
            return self._whole(n_new).flop
        pairs = causal_pairs(n_new, n_past, window=self.reach)
        if self.compress:
            most = None if self.sparse_topk is None else self.sparse_topk * self.compress
            pairs = pairs + causal_pairs(n_new, n_past, window=most) / self.compress
        return 2.0 * self.n_heads * (self.qk_dim + self.v_dim) * pairs / self.split

    def _whole(self, n_new: Array) -> Counts:
        """All tokens of an item see each other: n * min(n, window) pairs; nothing is cached."""
        n, width = np.asarray(n_new, dtype=float), self.qk_dim + self.v_dim
        return Counts(
            flop=2.0 * self.n_heads * width * n * visible(n, window=self.window),
            activation_bytes=2.0 * n * (self.n_heads + self.n_kv_heads) * width,
        )

    def _prefill(self, n_new: Array, n_past: Array) -> Counts:
        if not self.causal:
            return _add(self._whole(n_new), Counts(*(0.0 * n_past for _ in range(4))))
        runs = (np.asarray(n_new) > 0) * 1.0
        total = attention_prefill(
            n_new, n_past, n_heads=self.n_heads, n_kv_heads=self.n_kv_heads, qk_dim=self.qk_dim,
            v_dim=self.v_dim, window=self.reach, kv_bytes=self.kv_bytes,
        )  # fmt: skip
        seen = visible(n_past, window=self.reach)
        if self.latent_dim:
            extra = latent_reprojection(
                seen, n_heads=self.n_heads, rank=self.latent_v, width=self.reproject
            )
            expanded = seen * self.n_heads * (self.qk_dim + self.v_dim) * 2.0
            total = Counts(
                total.flop + runs * extra,
                total.weight_bytes,
                total.activation_bytes + runs * 2 * expanded,  # written, then read
                runs * seen * self.latent_dim * self.kv_bytes,
            )
        elif self.old_k_bytes is not None:
            token, old = self.kv_width * self.kv_bytes, self.old_tokens(n_past)
            total = total._replace(
                flop=total.flop + runs * 2.0 * old * self.kv_width,
                kv_bytes=total.kv_bytes - runs * (1.0 - self.old_share) * old * token,
            )
        elif self.one_cache:
            total = total._replace(kv_bytes=runs * seen * self.kv_width * self.kv_bytes)
        m = self.compress or 1
        if self.compress:
            most = None if self.sparse_topk is None else self.sparse_topk * m
            pairs = causal_pairs(n_new, n_past, window=most) / m
            total = total._replace(
                flop=total.flop + 2.0 * self.n_heads * (self.qk_dim + self.v_dim) * pairs,
                kv_bytes=total.kv_bytes + runs * n_past / m * self.kv_width * self.kv_bytes,
            )
        if self.index_heads:
            index = index_prefill(n_new, n_past, heads=self.index_heads, dim=self.index_dim)
            total = _add(total, Counts(*(x / m for x in index)))
        return total


#: an index key's element: fp8 in DeepSeek's kernels, its scales left out
INDEX_KEY_BYTES = 1.0


def _add(a: Counts, b: Counts) -> Counts:
    return Counts(*(x + y for x, y in zip(a, b, strict=True)))


def _share(a: Counts, n: int) -> Counts:
    return a if n == 1 else Counts(*(x / n for x in a))
