"""Counts a model's parameters, part by part, exactly from its description.

Not counted: multi-token-prediction layers (`Model.mtp_layers`; makers usually state totals without
them), integer tables (hash routing), quantisation scales, and an image encoder of unknown design.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from forerun.spec.dtype import WEIGHT_BYTES
from forerun.spec.model import Dense, FeedForward, Gqa, Layers, Linear, Mixer, Mla, Model, Moe

#: the parts, in the order of a forward pass; `experts` are the routed ones, whose biases are a part
#: of their own because no format narrows them
PARTS = (
    "vision", "audio", "embedding", "norms", "attention", "indexer", "linear_attention", "dense",
    "router", "experts", "expert_bias", "shared_experts", "other", "lm_head",
)  # fmt: skip


@dataclass(frozen=True)
class Params:
    """Numbers of parameters.

    total  : all that this description holds, the image encoder included where its size is known.
    active : read for one text token: all but the experts not chosen and the image encoder.  Both
             vocabulary tables are in it; a maker who leaves out the input table states
             `active - embedding`.
    embedding : the input table (with learned positions); when tied, it is the output table too.
    by_part : elements by the names in PARTS; sums to total.
    """

    total: int
    active: int
    embedding: int
    by_part: tuple[tuple[str, int], ...]


def count(model: Model) -> Params:
    """The model's parameters."""
    parts = _by_part(model)
    chosen = sum(
        run.n * _one_expert(run.ffn, model.hidden, run.ffn.bias) * run.ffn.topk
        for run in model.layers
        if isinstance(run.ffn, Moe)
    )
    total = sum(parts.values())
    return Params(
        total=total,
        active=total
        - parts["vision"]
        - parts["audio"]
        - parts["experts"]
        - parts["expert_bias"]
        + chosen,
        embedding=parts["embedding"],
        by_part=tuple((name, parts[name]) for name in PARTS if parts[name]),
    )


def mtp(model: Model, *, tables: bool = False) -> int:
    """Parameters of the multi-token-prediction layers shipped beside the decoder, never in `count`.

    Each is the last layer once more, a projection from two widths to one, and three norms
    (DeepSeek-V3's design); with `tables` also its own copies of both vocabulary tables, as stored.
    """
    if not model.mtp_layers or not model.layers:
        return 0
    one = sum(_layer(model.layers[-1], model.hidden).values())
    one += 2 * model.hidden**2 + 3 * model.hidden
    one += 2 * model.vocab * model.hidden if tables else 0
    return model.mtp_layers * one


def parts(model: Model) -> tuple[tuple[str, int, bool], ...]:
    """(part, elements, kept in the model's own dtype) for each part that the model has."""
    kept = model.quantization.kept if model.quantization else PARTS
    return tuple((name, n, name in kept) for name, n in count(model).by_part)


def storage(model: Model) -> tuple[tuple[str, int, str], ...]:
    """(part, elements, format it is stored in) for each part that the model has."""
    quant = model.quantization
    special = dict(quant.by_part) if quant else {}
    return tuple(
        (name, n, model.dtype if kept or quant is None else special.get(name, quant.weights))
        for name, n, kept in parts(model)
    )


def weight_bytes(model: Model) -> float:
    """Bytes of the checkpoint's weights, block scales included, MTP layers not."""
    return sum(n * WEIGHT_BYTES[dtype] for _, n, dtype in storage(model))


def cached_per_token(mixer: Mixer) -> int:
    """Elements that one token adds to the cache of one layer, index keys included.

    Within the window when the layer has one; compressed entries beside it are `cached_compressed`.
        Gqa: K * (H + H_v)      one shared vector: H      Mla: kv_lora_rank + rope_dim
    """
    if isinstance(mixer, Gqa):
        if mixer.kv_shared:
            return 0
        if mixer.one_cache:
            return mixer.n_kv_heads * mixer.head_dim
        index = mixer.index_dim if mixer.index_heads and mixer.compress is None else 0
        return mixer.n_kv_heads * (mixer.head_dim + (mixer.v_head_dim or mixer.head_dim)) + index
    if isinstance(mixer, Mla):
        index = mixer.index_dim if mixer.index_heads and not mixer.index_shared else 0
        return mixer.kv_lora_rank + mixer.rope_dim + index
    return 0


def cached_compressed(mixer: Mixer) -> int:
    """Elements of one compressed entry (for `mixer.compress` tokens), its index key included."""
    if not isinstance(mixer, Gqa) or mixer.compress is None:
        return 0
    return mixer.n_kv_heads * mixer.head_dim + (mixer.index_dim if mixer.index_heads else 0)


def state_elements(mixer: Mixer) -> int:
    """Elements of one sequence's fixed state in one layer, without the convolution's window."""
    return mixer.n_heads * mixer.k_dim * mixer.v_dim if isinstance(mixer, Linear) else 0


def _by_part(model: Model) -> Counter[str]:
    hidden = model.hidden
    width = model.embed_dim or hidden
    out: Counter[str] = Counter()
    out["embedding"] = model.vocab * width + model.learned_positions * hidden
    out["lm_head"] = 0 if model.tied_embeddings else model.vocab * width
    if width != hidden:  # projections in and out (OPT-350M)
        out["other"] += 2 * hidden * width
    out["norms"] = model.final_norms * hidden
    out["other"] += model.extra_params
    out["vision"] = (model.vision.params or 0) if model.vision else 0
    out["audio"] = (model.audio.params or 0) if model.audio else 0
    for run in model.layers:
        for name, n in _layer(run, hidden).items():
            out[name] += run.n * n
    return out


def _layer(layer: Layers, hidden: int) -> Counter[str]:
    out: Counter[str] = Counter(norms=layer.norms * hidden, other=layer.extra_params)
    if isinstance(layer.mixer, Linear):
        out["linear_attention"] = _linear(layer.mixer, hidden)
    elif isinstance(layer.mixer, Gqa):
        out["attention"], out["indexer"] = _gqa(layer.mixer, hidden)
    elif isinstance(layer.mixer, Mla):
        out["attention"], out["indexer"] = _mla(layer.mixer, hidden)
    out.update(_feed_forward(layer.ffn, hidden))
    return out


def _gqa(a: Gqa, hidden: int) -> tuple[int, int]:
    q, k = a.n_heads * a.head_dim, a.n_kv_heads * a.head_dim
    v_width = a.v_head_dim or a.head_dim
    v, o = a.n_kv_heads * v_width, a.n_heads * v_width
    n = _queries(hidden, q, a.q_lora_rank)
    has_k, has_v = not a.kv_shared, not (a.kv_shared or a.k_is_v or a.one_cache)
    n += hidden * (k * has_k + v * has_v)
    n += (q + k * has_k + v * has_v) if a.bias else 0
    n += hidden * q if a.gate else 0
    n += hidden * a.n_heads if a.head_gate else 0
    if a.o_lora_rank:  # each of g groups has its own o/g -> rank, then g*rank -> hidden
        n += o * a.o_lora_rank + a.o_groups * a.o_lora_rank * hidden
    else:
        n += o * hidden
    n += hidden if a.out_bias else 0
    if a.qk_norm:
        n += 2 * a.head_dim if a.qk_norm_params is None else a.qk_norm_params
    n += a.n_heads if a.sinks else 0
    index = 0
    if a.compress:
        n += _compressor(hidden, a.head_dim, a)
        if a.index_heads:  # own compressed keys, queries from the narrow layer, a weight a head
            index = _compressor(hidden, a.index_dim, a)
            index += (a.q_lora_rank or hidden) * a.index_heads * a.index_dim
            index += hidden * a.index_heads
    elif a.index_heads:  # MiniMax M3: index heads and one index key, a norm each
        index = hidden * (a.index_heads + 1) * a.index_dim + 2 * a.index_dim
    return n, index


def _queries(hidden: int, width: int, rank: int | None) -> int:
    """Straight, or through a narrow layer with a norm."""
    return hidden * width if not rank else (hidden + 1 + width) * rank


def _compressor(hidden: int, width: int, a: Gqa) -> int:
    """Values, gates, a bias by place and a norm; overlapping windows take twice the width."""
    wide = width * (2 if a.compress_overlap else 1)
    return 2 * hidden * wide + (a.compress or 0) * wide + width


def _mla(a: Mla, hidden: int) -> tuple[int, int]:
    heads, r = a.n_heads, a.kv_lora_rank
    q = heads * (a.nope_dim + a.rope_dim)
    n = _queries(hidden, q, a.q_lora_rank)
    n += hidden * (r + a.rope_dim) + r  # down, and its norm
    n += r * heads * (a.nope_dim + a.v_head_dim)  # up
    n += heads * a.v_head_dim * hidden * (2 if a.gate else 1)
    index = 0
    if a.index_heads and not a.index_shared:  # queries, one key with a biased norm, a weight a head
        index = (a.q_lora_rank or hidden) * a.index_heads * a.index_dim
        index += hidden * a.index_dim + 2 * a.index_dim + hidden * a.index_heads
    return n, index


def _linear(m: Linear, hidden: int) -> int:
    inner, key = m.n_heads * m.v_dim, m.n_k_heads * m.k_dim
    if m.kind == "mamba2":  # in: z, x, B, C, dt; out; a norm over inner; A, D and dt bias a head
        mixed = inner + 2 * key
        n = hidden * (inner + mixed + m.n_heads) + inner * hidden
        return n + mixed * (m.conv + m.conv_bias) + inner + 3 * m.n_heads + m.extra_params
    if m.kind == "gdn":  # in: q, k, v, z, then beta and decay a head; out; a norm a head width
        mixed = 2 * key + inner
        n = hidden * (mixed + inner + 2 * m.n_heads) + inner * hidden
        return n + mixed * (m.conv + m.conv_bias) + 2 * m.n_heads + m.v_dim + m.extra_params
    if m.kind == "kda":  # q, k, v, out; decay through one head width; beta; the gate
        n = hidden * (2 * key + inner) + inner * hidden + (2 * key + inner) * m.conv
        n += hidden * m.v_dim + m.v_dim * key + key + m.n_heads  # decay, its bias, and A
        n += hidden * m.n_heads + m.v_dim
        rank = m.gate_rank
        n += hidden * inner if rank is None else hidden * rank + rank * inner
        return n + m.extra_params
    # lightning: q, k, v, a gate, out, a norm over all heads
    return hidden * (2 * key + inner) + 2 * hidden * inner + inner + m.extra_params


def _feed_forward(ffn: FeedForward | None, hidden: int) -> Counter[str]:
    out: Counter[str] = Counter()
    if isinstance(ffn, Dense):
        out["dense"] = _dense(hidden, ffn.inter, ffn.gated, ffn.bias)
    elif isinstance(ffn, Moe):
        out["router"] = hidden * ffn.n_experts + (ffn.n_experts if ffn.router_bias else 0)
        bare = _one_expert(ffn, hidden, bias=False)
        out["experts"] = ffn.n_experts * bare
        out["expert_bias"] = ffn.n_experts * (_one_expert(ffn, hidden, ffn.bias) - bare)
        if ffn.shared_inter:
            out["shared_experts"] = _dense(hidden, ffn.shared_inter, ffn.gated, ffn.bias)
            out["router"] += hidden if ffn.shared_gate else 0
        if ffn.latent:
            out["other"] = 2 * hidden * ffn.latent + (ffn.latent if ffn.latent_norm else 0)
        if ffn.dense_inter:
            out["dense"] = _dense(hidden, ffn.dense_inter, ffn.gated, ffn.bias)
    return out


def _one_expert(ffn: Moe, hidden: int, bias: bool) -> int:
    return _dense(ffn.latent or hidden, ffn.inter, ffn.gated, bias)


def _dense(width: int, inter: int, gated: bool, bias: bool) -> int:
    n = (3 if gated else 2) * width * inter
    return n + ((2 if gated else 1) * inter + width if bias else 0)
