"""What a mixer and a feed-forward part consist of on one device, before anything is priced."""

from __future__ import annotations

from collections.abc import Iterator

from forerun.ops.attention import Attention
from forerun.ops.collectives import Collective, devices_visited
from forerun.ops.elementwise import Elementwise, activation, quantise_cache, rope_and_cache
from forerun.ops.graph import Shape
from forerun.ops.matmul import Matmul
from forerun.ops.moe import Experts
from forerun.ops.precision import Formats
from forerun.ops.ssm import Scan
from forerun.spec.deployment import Pool
from forerun.spec.model import Dense, FeedForward, Gqa, Linear, Mixer, Mla, Moe


def mixer(hidden: int, m: Mixer, tp: int, cp: int, f: Formats) -> Iterator[tuple[str, Shape]]:
    """Name and shape of a mixer's operators on one of tp devices, in order."""
    if isinstance(m, Gqa):
        yield from _gqa(hidden, m, tp, cp, f)
    elif isinstance(m, Mla):
        yield from _mla(hidden, m, tp, cp, f)
    else:
        yield from _linear(hidden, m, tp, f)


def _each(n: int, tp: int) -> int:
    return max(1, -(-n // tp))


def _gqa(hidden: int, m: Gqa, tp: int, cp: int, f: Formats) -> Iterator[tuple[str, Shape]]:
    N, K = _each(m.n_heads, tp), _each(m.n_kv_heads, tp)
    H, Hv = m.head_dim, m.v_head_dim or m.head_dim
    dtype, in_bytes, a = f.of("attention"), f.in_bytes("attention"), f.act_bytes
    one_projection = m.k_is_v or m.one_cache
    kv_out = 0 if m.kv_shared else K * (H if one_projection else H + Hv)
    q_out = N * H + (N * Hv if m.gate else 0)
    if m.q_lora_rank:
        # the narrow part is whole on every tensor-parallel device
        yield "qkv_down", Matmul(m.q_lora_rank + kv_out, hidden, dtype, in_bytes)
        yield "q_down.norm", _small_norm(m.q_lora_rank, a)
        yield "q_up", Matmul(q_out, m.q_lora_rank, dtype, in_bytes)
    else:
        yield "qkv", Matmul(q_out + kv_out, hidden, dtype, in_bytes, bias=m.bias)
    if m.qk_norm:
        width = (N + (0 if m.kv_shared else K)) * H
        params = 2 * H if m.qk_norm_params is None else m.qk_norm_params
        yield "qk_norm", Elementwise(width * a, width * a, 5.0 * width, params=params)
    k_width, v_width = (0, 0) if m.kv_shared else (K * H, 0 if m.one_cache else K * Hv)
    yield (
        "rope_cache",
        rope_and_cache(N * H, k_width, v_width, kv_bytes=f.kv_bytes, rope=m.rope, act_bytes=a),
    )
    old_k = old_v = None
    if f.old is not None and not (m.one_cache or m.compress or m.index_heads or m.kv_shared):
        old_k = f.old.bytes_of(f.old.old)
        old_v = f.old.bytes_of(f.old.old_values or f.old.old)
        sizes = {"kv_bytes": f.kv_bytes, "old_k": old_k, "old_v": old_v}
        yield "cache.quantise", quantise_cache(K * H, K * Hv, **sizes)
    if m.compress:
        yield from _compressor("compress", hidden, H, m, f)
    if m.index_heads:
        keys = None if m.compress else m.index_dim
        yield from _indexer(hidden, m.q_lora_rank or hidden, m.index_heads, m.index_dim, keys, f)
        if m.compress:
            yield from _compressor("index.compress", hidden, m.index_dim, m, f)
    yield "attention", Attention(
        N, K, H, Hv, window=m.window, kv_bytes=f.kv_bytes, one_cache=m.one_cache,
        compress=m.compress or 0, sparse_topk=m.sparse_topk, index_heads=m.index_heads,
        old_k_bytes=old_k, old_v_bytes=old_v, recent=f.old.recent_tokens if f.old else 0,
        index_dim=m.index_dim, math=f.base, split=cp, cached=not m.kv_shared,
        params=float(N) if m.sinks else 0.0, stored_bytes=2.0 * N if m.sinks else 0.0,
    )  # fmt: skip
    if m.head_gate:
        yield "head_gate", Matmul(N, hidden, dtype, in_bytes)
    if m.gate or m.head_gate:
        yield "attention.gate", Elementwise(2 * N * Hv * a, N * Hv * a, 4.0 * N * Hv)
    if m.o_lora_rank:
        groups = _each(m.o_groups, tp)
        yield "o_down", Matmul(m.o_lora_rank, N * Hv // groups, dtype, in_bytes, batch=groups)
        yield "o_up", Matmul(hidden, groups * m.o_lora_rank, dtype, in_bytes)
    else:
        yield "o", Matmul(hidden, N * Hv, dtype, in_bytes, bias=m.out_bias)


def _compressor(
    name: str, hidden: int, width: int, m: Gqa, f: Formats
) -> Iterator[tuple[str, Shape]]:
    """Values and weights of the pooling that makes one entry of `compress` tokens; whole on every
    tensor-parallel device, kept unquantised.  Overlapping entries pool two projections a token.
    """
    wide = width * (2 if m.compress_overlap else 1)
    yield name, Matmul(2 * wide, hidden, f.base, f.act_bytes)
    extra = (m.compress or 0) * wide + width  # learned position weights, norm
    a = f.act_bytes
    yield f"{name}.pool", Elementwise(2 * wide * a, width * a, 6.0 * wide, params=extra)


def _mla(hidden: int, m: Mla, tp: int, cp: int, f: Formats) -> Iterator[tuple[str, Shape]]:
    N, R = _each(m.n_heads, tp), m.kv_lora_rank
    qk = m.nope_dim + m.rope_dim
    dtype, in_bytes, a = f.of("attention"), f.in_bytes("attention"), f.act_bytes
    # the two down projections are one product and stay whole on every tensor-parallel device
    if m.q_lora_rank:
        yield "down", Matmul(m.q_lora_rank + R + m.rope_dim, hidden, dtype, in_bytes)
        yield "down.norm", _small_norm(m.q_lora_rank + R, a)
        yield "q_up", Matmul(N * qk, m.q_lora_rank, dtype, in_bytes)
    else:
        yield "down", Matmul(R + m.rope_dim, hidden, dtype, in_bytes)
        yield "down.norm", _small_norm(R, a)
        yield "q", Matmul(N * qk, hidden, dtype, in_bytes)
    yield (
        "rope_cache",
        rope_and_cache(N * m.rope_dim, m.rope_dim, R, kv_bytes=f.kv_bytes, act_bytes=a),
    )
    own_index = bool(m.index_heads) and not m.index_shared
    if own_index:
        q_from = m.q_lora_rank or hidden
        yield from _indexer(hidden, q_from, m.index_heads, m.index_dim, m.index_dim, f)
    # W_uk before and W_uv after attention in decode (absorbed), W_kvb at once in prefill: the same
    # weights and flop a token; kept in the model's own format as vLLM does for the absorbed form
    yield "kv_up", Matmul(m.nope_dim + m.v_head_dim, R, f.base, a, batch=N)
    yield "attention", Attention(
        N, N, qk, m.v_head_dim, kv_bytes=f.kv_bytes, latent_dim=R + m.rope_dim, latent_v=R,
        reproject=m.nope_dim + m.v_head_dim, sparse_topk=m.sparse_topk,
        index_heads=m.index_heads if own_index else 0, index_dim=m.index_dim if own_index else 0,
        math=f.base, split=cp,
    )  # fmt: skip
    if m.gate:
        yield "gate", Matmul(N * m.v_head_dim, hidden, dtype, in_bytes)
        width = N * m.v_head_dim
        yield "attention.gate", Elementwise(2 * width * a, width * a, 4.0 * width)
    yield "o", Matmul(hidden, N * m.v_head_dim, dtype, in_bytes)


def _small_norm(width: int, a: float) -> Elementwise:
    return Elementwise(width * a, width * a, 4.0 * width, params=width)


def _indexer(
    hidden: int, q_from: int, heads: int, dim: int, keys: int | None, f: Formats
) -> Iterator[tuple[str, Shape]]:
    """Queries, head weights and one key of the indexer; whole on every tensor-parallel device.

    `keys` is the width of a key projected from every token, None where keys are pooled entries.
    """
    dtype, in_bytes, a = f.of("indexer"), f.in_bytes("indexer"), f.act_bytes
    yield "index.q", Matmul(heads * dim, q_from, dtype, in_bytes)
    yield "index.weights", Matmul(heads + (keys or 0), hidden, dtype, in_bytes)
    yield "index.cache", rope_and_cache(heads * dim, keys or 0, 0, kv_bytes=1.0, act_bytes=a)


def _linear(hidden: int, m: Linear, tp: int, f: Formats) -> Iterator[tuple[str, Shape]]:
    N, G = _each(m.n_heads, tp), _each(m.n_k_heads, tp)
    inner, keys = N * m.v_dim, G * m.k_dim
    dtype, in_bytes, a = f.of("linear_attention"), f.in_bytes("linear_attention"), f.act_bytes
    if m.kind == "mamba2":  # gate z, x, B and C by group, one step size a head
        width = 2 * inner + 2 * keys + N
    elif m.kind == "gdn":  # q, k, v, gate z, and two scalars a head
        width = 2 * keys + 2 * inner + 2 * N
    elif m.kind == "kda":  # q, k, v and one scalar a head; decay and gate are of low rank
        width = 2 * keys + inner + N
    else:  # lightning: q, k, v and an output gate
        width = 2 * keys + 2 * inner
    if m.kind == "kda" and not m.gate_rank:
        width += inner  # the output gate at full rank
    yield "in", Matmul(width, hidden, dtype, in_bytes)
    if m.kind == "kda":  # decay through one head's width, the gate through its own
        narrow = m.k_dim + (m.gate_rank or 0)
        yield "low_rank.down", Matmul(narrow, hidden, dtype, in_bytes)
        yield "low_rank.decay", Matmul(N * m.k_dim, m.k_dim, dtype, in_bytes)
        if m.gate_rank:
            yield "low_rank.gate", Matmul(inner, m.gate_rank, dtype, in_bytes)
    channels = (inner + 2 * keys) if m.conv else 0
    yield "scan", Scan(
        m.kind, N, m.k_dim, m.v_dim, conv=m.conv, conv_channels=channels,
        state_bytes=float(m.state_dtype_bytes), kernels=2 if m.conv else 1,
        params=(m.conv + m.conv_bias) * channels + m.extra_params / tp, math=f.base,
    )  # fmt: skip
    yield "scan.gate_norm", Elementwise(2 * inner * a, inner * a, 8.0 * inner)
    yield "out", Matmul(hidden, inner, dtype, in_bytes)


def feed_forward(
    hidden: int, x: FeedForward, pool: Pool, f: Formats
) -> Iterator[tuple[str, Shape, str, bool]]:
    """Name, shape, part of memory, and whether it works on every token of the replica."""
    if isinstance(x, Dense):
        for name, shape in _dense(hidden, x.inter, x.gated, x.bias, pool.tp, "dense", f):
            yield name, shape, "dense", False
        return
    yield from _moe(hidden, x, pool, f)


def _dense(
    hidden: int, inter: int, gated: bool, bias: bool, tp: int, part: str, f: Formats
) -> Iterator[tuple[str, Shape]]:
    F = -(-inter // tp)
    name = {"dense": "ffn", "shared_experts": "shared"}[part]
    dtype, in_bytes = f.of(part), f.in_bytes(part)
    yield f"{name}.up", Matmul(F * (2 if gated else 1), hidden, dtype, in_bytes, bias=bias)
    yield f"{name}.act", activation(F, gated=gated, act_bytes=f.act_bytes)
    yield f"{name}.down", Matmul(hidden, F, dtype, in_bytes, bias=bias)


def _moe(hidden: int, x: Moe, pool: Pool, f: Formats) -> Iterator[tuple[str, Shape, str, bool]]:
    tp, ep = pool.tp, pool.ep
    W = tp * pool.dp * pool.cp
    cut = W // ep
    D, a = x.latent or hidden, f.act_bytes
    yield (
        "router",
        Matmul(x.n_experts, hidden, f.of("router"), a, bias=x.router_bias),
        "experts",
        False,
    )
    if x.latent:
        yield "latent.down", Matmul(D, hidden, f.base, a), "other", False
    slots = x.n_experts + pool.redundant_experts  # copies share their expert's tokens
    offload = pool.moe.offload if pool.moe else None
    experts = Experts(
        D, -(-x.inter // cut), slots, x.topk, slots // ep, gated=x.gated,
        dtype=f.of("experts"), act_bytes=a, bias=x.bias,
        resident=offload.in_hbm if offload else 1.0,
        distribution=pool.expert_loads,
    )  # fmt: skip
    before, after = _exchange(D, x, pool, f)
    for name, shape in before:
        yield name, shape, "other", True
    yield "experts", experts, "experts", True
    for name, shape in after:
        yield name, shape, "other", True
    if x.latent:
        if x.latent_norm:
            yield "latent.norm", _small_norm(D, a), "other", False
        yield "latent.up", Matmul(hidden, D, f.base, a), "other", False
    if x.shared_inter:
        for name, shape in _dense(hidden, x.shared_inter, x.gated, False, tp, "shared_experts", f):
            yield name, shape, "shared_experts", False
        if x.shared_gate:
            yield "shared.gate", Matmul(1, hidden, f.base, a), "router", False
    if x.dense_inter:
        for name, shape in _dense(hidden, x.dense_inter, x.gated, False, tp, "dense", f):
            yield name, shape, "dense", False


def _exchange(
    D: int, x: Moe, pool: Pool, f: Formats
) -> tuple[list[tuple[str, Shape]], list[tuple[str, Shape]]]:
    """How tokens reach the experts and come back when attention-DP divides them.

    Message sizes are a token of the whole replica's step: with T tokens over W devices, a device
    dispatches T/W tokens to the `visited` devices that hold one of their experts.
    """
    tp, ep = pool.tp, pool.ep
    W = tp * pool.dp * pool.cp
    split = pool.dp * pool.cp
    if split == 1:
        return [], []  # every device has every token; the layer's all-reduce adds up
    a = f.act_bytes
    gather: list[tuple[str, Shape]] = (
        [("moe.all_gather", Collective("all_gather", tp, D * a / split))] if tp > 1 else []
    )
    if ep == 1:
        whole = D * a
        return (
            [("moe.all_gather", Collective("all_gather", W, whole))],
            [("moe.reduce_scatter", Collective("reduce_scatter", W, whole)), *gather],
        )
    visited = devices_visited(ep, n_experts=x.n_experts, topk=x.topk)
    cut = W // ep
    sent = visited * D / W
    travel = f.in_bytes("experts")  # dispatched in the format the experts take, combined in 16 bits
    before: list[tuple[str, Shape]] = [
        ("moe.dispatch", Collective("all_to_all", ep, sent * travel, stride=cut))
    ]
    after: list[tuple[str, Shape]] = [
        ("moe.combine", Collective("all_to_all", ep, sent * a, stride=cut))
    ]
    if cut > 1:  # the devices that hold parts of one expert share its tokens and add their results
        part = visited * D / ep * a
        before.append(("moe.all_gather", Collective("all_gather", cut, part)))
        after.insert(0, ("moe.reduce_scatter", Collective("reduce_scatter", cut, part)))
    return before, [*after, *gather]
