"""Plain decoders: what differs between Llama, GPT-2, Falcon, ... as a table of styles."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from forerun.spec.hf_fields import Fields
from forerun.spec.model import Dense, FeedForward, Gqa, Layers, Moe


@dataclass(frozen=True)
class Body:
    """What a family reads; `read_config` adds the rest."""

    layers: tuple[Layers, ...]
    tied: bool = False
    learned_positions: int = 0
    embed_dim: int | None = None
    final_norms: int = 1
    extra_params: int = 0


@dataclass(frozen=True)
class Style:
    """How a plain decoder departs from Llama.  None for a bias: the file's own field decides."""

    bias: bool | None = None  # on q, k, v
    out_bias: bool | None = None  # on the output projection; None follows `attention_bias`
    mlp_bias: bool | None = None
    gated: bool = True
    norms: int = 2  # vectors of `hidden` in a layer's norms
    final_norms: int = 1
    parallel: bool = False
    tied: bool = False
    qk_norm: str = ""  # "head": one vector a head width; "heads": one a head; "wide": one over all
    pattern: int = 0  # 0: full attention; 1: all layers windowed; n: every n-th layer is full
    bias_field: str = "attention_bias"
    rope: bool = True
    positions: int | None = None  # learned positions: this many rows beyond max_len
    inter_factor: int | None = None  # feed-forward width when the file has none, times hidden
    extra_params: str = ""  # "embedding_norm", "head_bias"


STYLES: dict[str, Style] = {
    "llama": Style(),
    "mistral": Style(pattern=1),
    "ministral3": Style(pattern=1),
    "mistral3": Style(pattern=1),
    "mixtral": Style(pattern=1),
    "qwen2": Style(bias=True, out_bias=False, pattern=1),
    "qwen2_moe": Style(bias=True, out_bias=False, pattern=1),
    "qwen2_vl": Style(bias=True, out_bias=False, pattern=1),
    "qwen2_5_vl": Style(bias=True, out_bias=False, pattern=1),
    "qwen3": Style(qk_norm="head", pattern=1),
    "qwen3_moe": Style(qk_norm="head", pattern=1),
    "qwen3_vl": Style(qk_norm="head"),
    "qwen3_vl_moe": Style(qk_norm="head"),
    "mimo": Style(bias=None, out_bias=False, pattern=1),
    "phi3": Style(pattern=1),
    "phi": Style(
        bias=True, out_bias=True, mlp_bias=True, gated=False, norms=2, final_norms=2, parallel=True,
        extra_params="head_bias",
    ),
    "phimoe": Style(norms=4, final_norms=2, pattern=1, extra_params="head_bias"),
    "gemma": Style(tied=True),
    "gemma2": Style(tied=True, norms=4, pattern=2),
    "gemma3": Style(tied=True, norms=4, qk_norm="head", pattern=6),
    "cohere": Style(tied=True, norms=1, parallel=True),
    "cohere2": Style(tied=True, norms=1, parallel=True, pattern=4),
    "olmo2": Style(qk_norm="wide"),
    "granite": Style(),
    "internlm2": Style(bias_field="bias"),
    "starcoder2": Style(
        bias_field="use_bias", mlp_bias=True, gated=False, norms=4, final_norms=2, tied=True,
        pattern=1,
    ),
    "opt": Style(
        bias=True, out_bias=True, mlp_bias=True, gated=False, norms=4, final_norms=2, tied=True,
        rope=False, positions=2,
    ),
    "gpt2": Style(
        bias=True, out_bias=True, mlp_bias=True, gated=False, norms=4, final_norms=2, tied=True,
        rope=False, positions=0, inter_factor=4,
    ),
    "gpt_neox": Style(
        bias=True, out_bias=True, mlp_bias=True, gated=False, norms=4, final_norms=2, parallel=True,
    ),
    "gptj": Style(
        bias=False, out_bias=False, mlp_bias=True, gated=False, norms=2, final_norms=2,
        parallel=True, inter_factor=4, extra_params="head_bias",
    ),
    "bloom": Style(
        bias=True, out_bias=True, mlp_bias=True, gated=False, norms=4, final_norms=2, tied=True,
        rope=False, inter_factor=4, extra_params="embedding_norm",
    ),
    "mpt": Style(
        bias=False, out_bias=False, mlp_bias=False, gated=False, norms=2, tied=True, rope=False,
        inter_factor=4,
    ),
}  # fmt: skip


def decoder(f: Fields, style: Style) -> Body:
    """A decoder of equal layers, but for windows and the choice of dense or expert layers."""
    n = f.number("n_layers")
    hidden = f.number("hidden")
    mixers = [attention(f, style, window=w) for w in windows(f, n, style.pattern)]
    ffns = feed_forwards(f, n, style)
    norms = style.norms
    position_rows, embed_dim, final_norms, extra = 0, None, style.final_norms, 0
    if style.positions is not None:
        position_rows = f.number("max_len") + style.positions
    if style.extra_params == "head_bias":
        extra = f.number("vocab")
    elif style.extra_params == "embedding_norm":
        extra = 2 * hidden
    width = f.optional("word_embed_proj_dim")
    if width is not None and width != hidden:
        embed_dim = width
    if f.raw("do_layer_norm_before") is False:  # OPT-350M: norms after, and none at the end
        final_norms = 0
    if f.flag("no_bias"):  # MPT's layer norms lose theirs as well
        norms, final_norms = 2, 1
    parallel = style.parallel and f.flag("use_parallel_residual", default=True)
    layers = stack(
        Layers(n=1, mixer=m, ffn=x, norms=norms, parallel=parallel)
        for m, x in zip(mixers, ffns, strict=True)
    )
    return Body(layers, style.tied, position_rows, embed_dim, final_norms, extra)


def attention(f: Fields, style: Style = Style(), **over) -> Gqa:
    """One layer's attention; `over` sets fields of Gqa that this layer has differently."""
    heads = over.pop("n_heads", None) or f.number("n_heads")
    kv_heads = over.pop("n_kv_heads", None)
    if kv_heads is None:
        kv_heads = f.number("n_kv_heads", default=_kv_heads(f, heads))
    width = over.pop("head_dim", None) or f.optional("head_dim")
    if width is None:
        width, rest = divmod(f.number("hidden"), heads)
        if (rest or not width) and not f.problems:  # a missing field reads as 1
            f.wrong(
                "hidden_size", f"{f.number('hidden')} is not a multiple of {heads} attention heads",
                "correct one of them, or add head_dim",
            )  # fmt: skip
        width = max(width, 1)
    if heads % kv_heads and not f.problems:
        f.wrong(
            "num_attention_heads", f"{heads} is not a multiple of {kv_heads} key-value heads",
            "correct one of them",
        )  # fmt: skip
    stated = f.flag(style.bias_field)
    stated_norm = f.flag("use_qk_norm", "qk_ln")
    norm = style.qk_norm or ("heads" if stated_norm else "")
    params = (heads + kv_heads) * width if norm in ("heads", "wide") else None
    return Gqa(
        **{
            "n_heads": heads,
            "n_kv_heads": kv_heads,
            "head_dim": width,
            "bias": stated if style.bias is None else style.bias,
            "out_bias": stated if style.out_bias is None else style.out_bias,
            "qk_norm": bool(norm),
            "qk_norm_params": params,
            "rope": style.rope,
            **over,
        }
    )


def _kv_heads(f: Fields, heads: int) -> int:
    """Key-value heads where no common field says: MPT's nested one, or as many as heads."""
    nested = f.sub("attn_config")
    if nested is None:
        return 1 if f.flag("multi_query") else heads
    one = nested.raw("attn_type") == "multiquery_attention"
    return nested.number("kv_n_heads", default=1 if one else heads)


def windows(f: Fields, n: int, pattern: int) -> list[int | None]:
    """Each layer's window, None where it sees everything."""
    window = f.optional("sliding_window", low=0) or None
    types = f.listing("layer_types", length=n)
    every = f.number("sliding_window_pattern", "_sliding_window_pattern", default=pattern, low=0)
    if types is not None:
        return [window if "sliding" in str(t) else None for t in types]
    # a window that no context outgrows is none
    if window is None or not every or window >= f.number("max_len", default=1 << 62):
        f.flag("use_sliding_window")
        return [None] * n
    if not f.flag("use_sliding_window", default=True):
        return [None] * n
    if every > 1:
        return [window if (i + 1) % every else None for i in range(n)]
    first = f.number("max_window_layers", default=0, low=0)  # Qwen: full below, windowed from here
    return [window if i >= first else None for i in range(n)]


def feed_forwards(f: Fields, n: int, style: Style = Style()) -> list[FeedForward]:
    """Each layer's feed-forward part: dense, or experts where the file's rules put them."""
    if not f.has("n_experts"):
        return [dense(f, style)] * n
    sparse = expert_layers(f, n)
    experts = moe(f)
    f.raw("inter")  # files of pure mixtures keep it, unused
    plain = None if all(sparse) else dense(f, style)
    return [experts if is_moe or plain is None else plain for is_moe in sparse]


def dense(f: Fields, style: Style = Style(), inter: int | None = None) -> Dense:
    """A dense layer; where a family has the rule, a missing width is `inter_factor` * hidden."""
    if inter is None:
        factor = f.optional("expansion_ratio") or style.inter_factor
        guess = f.number("hidden") * factor if factor else None
        inter = f.number("inter", default=guess)
    bias = f.flag("mlp_bias", "use_bias") if style.mlp_bias is None else style.mlp_bias
    return Dense(inter=inter, gated=style.gated, bias=bias)


def expert_layers(f: Fields, n: int) -> list[bool]:
    """Which layers hold experts."""
    types = f.listing("mlp_layer_types", length=n)
    f.raw("first_dense", "moe_layer_freq")
    if types is not None:
        return [str(t) not in ("dense",) for t in types]
    each = f.raw("moe_layer_freq")
    if isinstance(each, (list, tuple)):
        listed = f.listing("moe_layer_freq", length=n)
        return [bool(x) for x in listed] if listed else [True] * n
    first = f.number("first_dense", default=0, low=0)
    step = f.number("moe_layer_freq", "decoder_sparse_step", default=1)
    only_dense = set(f.listing("mlp_only_layers") or ())
    if f.has("decoder_sparse_step"):  # Qwen counts layers from one
        return [i not in only_dense and (i + 1) % step == 0 for i in range(n)]
    return [i >= first and i % step == 0 and i not in only_dense for i in range(n)]


def moe(f: Fields, **over) -> Moe:
    """The experts of one layer."""
    inter = f.optional("moe_inter") or f.number("inter")
    shared = f.number("n_shared", default=0, low=0)
    shared_inter = f.number("shared_inter", default=shared * inter, low=0)
    experts, topk = f.number("n_experts"), f.number("topk")
    if topk > experts:
        f.wrong("num_experts_per_tok", f"{topk} of {experts} experts", "correct one of them")
    corrected = f.raw("topk_method") == "noaux_tc" or f.flag(
        "use_routing_bias", "use_moe_router_bias"
    )
    return Moe(
        **{
            "inter": inter,
            "n_experts": experts,
            "topk": topk,
            "n_shared": max(shared, 1) if shared_inter else 0,
            "shared_inter": shared_inter,
            "router_bias": corrected,
            **over,
        }
    )


def stack(layers: Iterable[Layers]) -> tuple[Layers, ...]:
    """Layers one by one, as runs of equal ones."""
    runs: list[Layers] = []
    last: Layers | None = None
    for layer in layers:
        if last is not None and layer == last:
            runs[-1] = runs[-1].model_copy(update={"n": runs[-1].n + 1})
        else:
            runs.append(layer)
            last = layer
    return tuple(runs)
