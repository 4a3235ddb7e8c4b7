"""Families that mix attention with mixers of fixed state: Mamba-2, delta nets, lightning."""

from __future__ import annotations

from collections.abc import Callable

from forerun.spec.hf_decoders import (
    Body,
    Style,
    attention,
    dense,
    feed_forwards,
    moe,
    stack,
)
from forerun.spec.hf_fields import Fields
from forerun.spec.hf_latent import mla
from forerun.spec.model import Dense, FeedForward, Layers, Linear


def qwen3_next(f: Fields) -> Body:
    """Qwen3-Next, 3.5 and 3.6: three gated delta nets to one gated full attention."""
    n = f.number("n_layers")
    types = f.listing("layer_types", length=n)
    every = f.number("full_attention_interval", default=4)
    if types is None:
        types = ["linear_attention" if (i + 1) % every else "full_attention" for i in range(n)]
    net = Linear(
        kind="gdn",
        n_heads=f.number("linear_num_value_heads"),
        n_k_heads=f.number("linear_num_key_heads"),
        k_dim=f.number("linear_key_head_dim"),
        v_dim=f.number("linear_value_head_dim"),
        conv=f.number("linear_conv_kernel_dim"),
        state_dtype_bytes=2 if f.raw("mamba_ssm_dtype") == "bfloat16" else 4,
    )
    # Qwen3-Next always has the gate; 3.5 and later say so
    full = attention(f, Style(qk_norm="head"), gate=f.flag("attn_output_gate", default=True))
    f.number("inter", default=1)
    ffns = feed_forwards(f, n)
    layers = [
        Layers(
            n=1,
            mixer=net if "linear" in str(t) else full,
            ffn=x.model_copy(update={"shared_gate": True})
            if x.kind == "moe" and x.shared_inter
            else x,
        )
        for t, x in zip(types, ffns, strict=True)
    ]
    return Body(stack(layers))


def kimi_linear(f: Fields) -> Body:
    """Kimi Linear and K3: delta attention with latent attention in between, layers from 1.

    K3 adds a full-rank gate, a gate on latent attention, experts in a narrower space, and
    residuals over blocks of layers, whose two norms and two score vectors a layer are counted.
    Source: the makers' modeling_kimi_linear.py.
    """
    n, hidden = f.number("n_layers"), f.number("hidden")
    linear = f.sub("linear_attn_config")
    if linear is None:
        f.wrong("linear_attn_config", "is missing", "the object that lists kda_layers")
        linear = Fields({}, f.where)
    width = linear.number("head_dim")
    heads = linear.number("num_heads")
    net = Linear(
        kind="kda",
        n_heads=heads,
        n_k_heads=heads,
        k_dim=width,
        v_dim=width,
        conv=linear.number("short_conv_kernel_size"),
        gate_rank=None if linear.flag("use_full_rank_gate") else width,
    )
    full_at = {int(i) - 1 for i in linear.listing("full_attn_layers") or ()}
    kda_at = {int(i) - 1 for i in linear.listing("kda_layers") or ()}
    if full_at & kda_at or len(full_at | kda_at) != n:
        f.wrong(
            "linear_attn_config", f"does not name each of the {n} layers once",
            "every layer in kda_layers or full_attn_layers, counted from 1",
        )  # fmt: skip
    full = mla(f, gate=f.flag("mla_use_output_gate"), rope=not f.flag("mla_use_nope"))
    latent = f.optional("routed_expert_hidden_size")
    ffns = feed_forwards(f, n)
    blocks = f.has("attn_res_block_size")
    layers = []
    for i, x in enumerate(ffns):
        if x.kind == "moe":
            norm = bool(latent) and f.flag("latent_moe_use_norm")
            x = x.model_copy(update={"latent": latent, "latent_norm": norm, "router_bias": True})
        layers.append(
            Layers(
                n=1,
                mixer=full if i in full_at else net,
                ffn=x,
                norms=6 if blocks else 2,  # each of two residuals: a norm and a score vector
            )
        )
    return Body(stack(layers), extra_params=2 * hidden if blocks else 0)


def nemotron_h(f: Fields) -> Body:
    """Nemotron-H and Nemotron 3: each layer is one part: Mamba-2, attention, dense or experts."""
    letters = {"M": "mamba", "*": "attention", "-": "mlp", "E": "moe"}
    pattern = f.raw("hybrid_override_pattern")
    if isinstance(pattern, str):
        kinds = [letters.get(c, c) for c in pattern.replace("|", "")]
    else:
        kinds = [str(k) for k in f.listing("layers_block_type") or []]
    n = f.number("n_layers", default=len(kinds))
    if len(kinds) != n:
        f.wrong(
            "hybrid_override_pattern", f"names {len(kinds)} layers of {n}", "one letter a layer"
        )
    bias = f.flag("use_bias") or f.flag("mamba_proj_bias")
    if bias:
        f.say("use_bias: the biases of Mamba's projections are not counted")
    parts: dict[str, Callable[[], dict]] = {
        "mamba": lambda: {"mixer": _mamba2(f)},
        "attention": lambda: {"mixer": attention(f)},
        "mlp": lambda: {"ffn": dense(f, Style(gated=False))},
        "moe": lambda: {
            "ffn": moe(f, gated=False, router_bias=True, latent=f.optional("moe_latent_size"))
        },
    }
    foreign = sorted(set(kinds) - parts.keys())
    if foreign:
        f.wrong("layers_block_type", f"holds {foreign[0]!r}", "one of " + ", ".join(parts))
        return Body(())
    made = {k: Layers(n=1, norms=1, **parts[k]()) for k in dict.fromkeys(kinds)}
    f.raw("expand", "inter", "sliding_window", "n_shared", "mlp_bias", "moe_inter")
    return Body(stack(made[k] for k in kinds))


def _mamba2(f: Fields) -> Linear:
    return Linear(
        kind="mamba2",
        n_heads=f.number("mamba_num_heads", "mamba_n_heads"),
        n_k_heads=f.number("n_groups", "mamba_n_groups"),
        k_dim=f.number("ssm_state_size", "mamba_d_state"),
        v_dim=f.number("mamba_head_dim", "mamba_d_head"),
        conv=f.number("conv_kernel", "mamba_d_conv"),
        conv_bias=f.flag("use_conv_bias", "mamba_conv_bias", default=True),
        state_dtype_bytes=2 if f.raw("mamba_ssm_cache_dtype") == "bfloat16" else 4,
    )


def bamba(f: Fields) -> Body:
    """Bamba and Granite 4 hybrids: Mamba-2 or attention, each followed by a feed-forward part."""
    n = f.number("n_layers")
    types = f.listing("layer_types", length=n)
    if types is None:
        at = set(f.listing("attn_layer_indices") or ())
        types = ["attention" if i in at else "mamba" for i in range(n)]
    f.raw("mamba_expand", "mamba_chunk_size", "mamba_proj_bias", "position_embedding_type")
    ffn: FeedForward
    if f.has("num_local_experts"):
        ffn = moe(f, n_shared=1 if f.has("shared_intermediate_size") else 0)
    elif f.has("shared_intermediate_size"):
        ffn = Dense(inter=f.number("shared_intermediate_size"))
    else:
        ffn = dense(f)
    layers = [
        Layers(n=1, mixer=attention(f) if str(t) == "attention" else _mamba2(f), ffn=ffn)
        for t in types
    ]
    return Body(stack(layers))


def minimax_m1(f: Fields) -> Body:
    """MiniMax-Text-01 and M1: seven lightning layers to one full attention, experts everywhere."""
    n = f.number("n_layers")
    types = f.listing("attn_type_list", length=n)
    if types is None:
        named = f.listing("layer_types", length=n) or ["full_attention"] * n
        types = [0 if "linear" in str(t) else 1 for t in named]
    full = attention(f)
    net = Linear(
        kind="lightning",
        n_heads=full.n_heads,
        n_k_heads=full.n_heads,
        k_dim=full.head_dim,
        v_dim=full.head_dim,
    )
    f.raw("shared_moe_mode", "block_size", "postnorm", "block", "n_shared")
    experts = moe(f)
    return Body(stack(Layers(n=1, mixer=full if t else net, ffn=experts) for t in types))


HYBRIDS: dict[str, Callable[[Fields], Body]] = {
    "qwen3_next": qwen3_next,
    "qwen3_5": qwen3_next,
    "qwen3_5_moe": qwen3_next,
    "kimi_linear": kimi_linear,
    "nemotron_h": nemotron_h,
    "bamba": bamba,
    "granitemoehybrid": bamba,
    "minimax_m1": minimax_m1,
    "minimax_text_01": minimax_m1,
    "minimax": minimax_m1,
}
