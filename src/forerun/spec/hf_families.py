"""Families whose layers differ among themselves: Falcon, GLM, MiniMax, Llama 4, Gemma 4, ...

Each function takes the file's fields and returns the `Body`.  What is not in the file but
in the maker's code (which layers have no rope, say) is written here with its origin.
"""

from __future__ import annotations

from collections.abc import Callable

from forerun.spec.hf_decoders import (
    Body,
    Style,
    attention,
    dense,
    expert_layers,
    feed_forwards,
    moe,
    stack,
    windows,
)
from forerun.spec.hf_fields import Fields
from forerun.spec.hf_latent import deepseek, deepseek_v4
from forerun.spec.model import Dense, Layers


def falcon(f: Fields) -> Body:
    """7B: one key-value head, one norm.  40B and 180B: grouped heads and a norm for each branch."""
    heads = f.number("n_heads")
    new = f.flag("new_decoder_architecture")
    # the older 40B file names its key-value heads n_head_kv
    kv_heads = f.number("n_kv_heads", default=heads)
    if not new and f.flag("multi_query", default=True):
        kv_heads = 1
    bias = f.flag("bias")
    parallel = f.flag("parallel_attn", default=True) or new
    twice = new or not parallel
    layer = Layers(
        n=1,
        mixer=attention(f, n_kv_heads=kv_heads, bias=bias, out_bias=bias, rope=not f.flag("alibi")),
        ffn=Dense(inter=f.number("inter", default=4 * f.number("hidden")), gated=False, bias=bias),
        norms=4 if twice else 2,
        parallel=parallel,
    )
    return Body(stack([layer] * f.number("n_layers")), tied=True, final_norms=2)


def gpt_oss(f: Fields) -> Body:
    """Alternating windows, a learned sink a head, biases everywhere, experts in every layer."""
    n = f.number("n_layers")
    view = windows(f, n, 2)
    experts = moe(f, bias=True, router_bias=True)
    layers = [
        Layers(n=1, mixer=attention(f, window=w, sinks=True, bias=True, out_bias=True), ffn=experts)
        for w in view
    ]
    f.flag("attention_bias")
    return Body(stack(layers))


def glm4_moe(f: Fields) -> Body:
    """GLM 4.5: grouped heads with a bias on q, k, v; dense layers first, then experts."""
    norm = "head" if f.flag("use_qk_norm") else ""
    style = Style(out_bias=False, qk_norm=norm)
    n = f.number("n_layers")
    mixer = attention(f, style)
    if mixer.qk_norm and not norm:
        mixer = mixer.model_copy(update={"qk_norm": False, "qk_norm_params": None})
    ffns = [
        x.model_copy(update={"router_bias": True}) if x.kind == "moe" else x
        for x in feed_forwards(f, n)
    ]
    return Body(stack(Layers(n=1, mixer=mixer, ffn=x) for x in ffns))


def minimax_m2(f: Fields) -> Body:
    """MiniMax M2: experts everywhere, norms over all heads together (`per_layer`) or by head."""
    norm = {"per_layer": "wide", "per_head": "head"}.get(str(f.raw("qk_norm_type")), "head")
    style = Style(qk_norm=norm if f.flag("use_qk_norm") else "")
    experts = moe(f)
    layer = Layers(n=1, mixer=attention(f, style), ffn=experts)
    # attn_type_list is all ones: M2 dropped lightning attention
    types = f.listing("attn_type_list")
    if types and any(t != 1 for t in types):
        f.say("attn_type_list holds more than full attention: all layers are read as full")
    return Body(stack([layer] * f.number("n_layers")))


def minimax_m3(f: Fields) -> Body:
    """MiniMax M3: index heads choose blocks of tokens; dense layers first, then experts."""
    n = f.number("n_layers")
    style = Style(qk_norm="head" if f.flag("use_qk_norm") else "")
    f.raw("qk_norm_type")
    gate = f.flag("attention_output_gate")
    choice: dict[str, int] = {}
    where = [0] * n
    sparse = f.sub("sparse_attention_config")
    if sparse is not None and sparse.flag("use_sparse_attention", default=True):
        block = sparse.number("sparse_block_size")
        choice = {
            "sparse_topk": sparse.number("sparse_topk_blocks") * block,
            "sparse_block": block,
            "index_heads": sparse.number("sparse_num_index_heads"),
            "index_dim": sparse.number("sparse_index_dim"),
        }
        where = sparse.listing("sparse_attention_freq", length=n) or [1] * n
    plain = dense(f, inter=f.optional("dense_intermediate_size"))
    f.raw("inter")
    experts = moe(f)
    layers = [
        Layers(
            n=1,
            mixer=attention(f, style, gate=gate, **(choice if is_sparse else {})),
            ffn=experts if has_experts else plain,
        )
        for is_sparse, has_experts in zip(where, expert_layers(f, n), strict=True)
    ]
    return Body(stack(layers))


def llama4(f: Fields) -> Body:
    """Llama 4: three layers with rope and a chunked view, then one without; one shared expert."""
    n = f.number("n_layers")
    f.flag("use_qk_norm")  # without learned weights
    f.raw("attention_bias")
    chunk = f.optional("attention_chunk_size")
    listed = f.listing("no_rope_layers", length=n)
    step = f.number("no_rope_layer_interval", default=4)
    rope = [bool(x) for x in listed] if listed else [(i + 1) % step != 0 for i in range(n)]
    f.listing("layer_types")
    every = f.number("interleave_moe_layer_step", default=1)
    named = f.listing("moe_layers")
    experts_at = set(named) if named else set(range(every - 1, n, every))
    inter = f.number("inter")
    plain = dense(f, inter=f.number("intermediate_size_mlp", default=inter))
    experts = moe(f, inter=inter, n_shared=1, shared_inter=inter)
    layers = [
        Layers(
            n=1,
            mixer=attention(f, rope=r, window=chunk if r else None, chunked=bool(r and chunk)),
            ffn=experts if i in experts_at else plain,
        )
        for i, r in enumerate(rope)
    ]
    return Body(stack(layers))


def gemma4(f: Fields) -> Body:
    """Gemma 4: windowed layers and a few global ones with wider, fewer heads whose k serves as v.

    The experts, where there are any, run beside the dense layer.  The small models add an
    embedding for every layer, share the last layers' keys and values, and double the width there.
    Source: transformers models/gemma4.
    """
    n, hidden = f.number("n_layers"), f.number("hidden")
    style = Style(qk_norm="head")
    view = windows(f, n, 6)
    shared_from = n - f.number("num_kv_shared_layers", default=0, low=0)
    wide = f.optional("global_head_dim")
    kv_global = f.optional("num_global_key_value_heads")
    same = f.flag("attention_k_eq_v")
    per_layer = f.number("hidden_size_per_layer_input", default=0, low=0)
    inter, double = f.number("inter"), f.flag("use_double_wide_mlp")
    experts = None
    if f.flag("enable_moe_block"):
        experts = moe(f, dense_inter=inter)
    layers = []
    for i, window in enumerate(view):
        shared = i >= shared_from
        over: dict = {"window": window, "kv_shared": shared}
        if window is None:
            over |= {"head_dim": wide, "k_is_v": same}
            if same and kv_global:
                over["n_kv_heads"] = kv_global
        mixer = attention(f, style, **over)
        if shared:
            mixer = mixer.model_copy(update={"qk_norm_params": mixer.head_dim})
        ffn = experts or Dense(inter=2 * inter if shared and double else inter)
        extra = 2 * hidden * per_layer + (hidden if per_layer else 0)
        if experts:
            extra += hidden + experts.n_experts  # the router's scales
        layers.append(
            Layers(n=1, mixer=mixer, ffn=ffn, norms=7 if experts else 4, extra_params=extra)
        )
    f.raw("vocab_size_per_layer_input")
    table = 0
    if per_layer:
        rows = f.number("vocab_size_per_layer_input", default=f.number("vocab"))
        table = (rows + hidden) * n * per_layer + per_layer
    return Body(stack(layers), tied=True, extra_params=table)


def mimo_v2(f: Fields) -> Body:
    """MiMo-V2: most layers see a short window with more key-value heads and sinks."""
    n = f.number("n_layers")
    f.flag("attention_bias")
    f.raw("attention_chunk_size")
    window = f.number("sliding_window")
    short = f.listing("hybrid_layer_pattern", length=n) or [0] * n
    layers = []
    for is_short, x in zip(short, feed_forwards(f, n), strict=True):
        if is_short:
            mixer = attention(
                f,
                n_heads=f.optional("swa_num_attention_heads"),
                n_kv_heads=f.optional("swa_num_key_value_heads"),
                head_dim=f.optional("swa_head_dim"),
                v_head_dim=f.optional("swa_v_head_dim"),
                window=window,
                sinks=f.flag("add_swa_attention_sink_bias"),
            )
        else:
            mixer = attention(
                f,
                v_head_dim=f.optional("v_head_dim"),
                sinks=f.flag("add_full_attention_sink_bias"),
            )
        layers.append(Layers(n=1, mixer=mixer, ffn=x))
    return Body(stack(layers))


def step(f: Fields) -> Body:
    """Step 3.5 and 3.7 Flash: three windowed layers to a global one, a gate a head, dense first.

    Windowed layers have a head count of their own in `attention_other_setting`.
    """
    n = f.number("n_layers")
    view = windows(f, n, 4)
    other = f.sub("attention_other_setting")
    heads = other.number("n_heads") if other else None
    if other:
        other.raw("n_kv_heads", "head_dim", "attention_type", "true_head_dim")
    else:
        f.say(
            "attention_other_setting is absent: windowed layers are read with the common "
            "number of query heads (the maker's own file for Step 3.7 says 96)"
        )
    gate = f.flag("use_head_wise_attn_gate", default=True)
    style = Style(qk_norm="head")
    listed = str(f.raw("moe_layers_enum") or "")
    chosen = {int(x) for x in listed.split(",") if x.strip()}
    sparse = [i in chosen for i in range(n)] if chosen else expert_layers(f, n)
    f.raw("num_experts", "shared_expert_intermediate_size", "share_expert_dim", "n_shared_experts")
    experts, plain = moe(f, n_shared=1), dense(f)
    layers = [
        Layers(
            n=1,
            mixer=attention(
                f, style, window=w, head_gate=gate, n_heads=heads if w is not None else None
            ),
            ffn=experts if s else plain,
        )
        for w, s in zip(view, sparse, strict=True)
    ]
    return Body(stack(layers))


def nemotron_nas(f: Fields) -> Body:
    """Llama pruned block by block: each names its key-value groups and feed-forward multiplier.

    A width is 2/3 of multiplier * hidden, rounded up to 256; `no_op` parts are absent.
    Source: the maker's modeling_decilm.py.
    """
    hidden, heads = f.number("hidden"), f.number("n_heads")
    blocks = f.listing("block_configs", length=f.number("n_layers")) or []
    layers = []
    for block in blocks:
        a, b = block.get("attention") or {}, block.get("ffn") or {}
        mixer = ffn = None
        extra = norms = 0
        if a.get("replace_with_linear"):
            extra, norms = extra + hidden * hidden, norms + 1
        elif not a.get("no_op"):
            group = a.get("n_heads_in_group")
            if not isinstance(group, int) or group < 1 or heads % group:
                f.wrong("block_configs", f"n_heads_in_group is {group!r}", f"a divisor of {heads}")
                group = 1
            mixer = attention(f, n_kv_heads=heads // group, window=a.get("window_length"))
            norms += 1
        if b.get("replace_with_linear"):
            extra, norms = extra + hidden * hidden, norms + 1
        elif not b.get("no_op"):
            width = int(2 * float(b.get("ffn_mult") or 0) * hidden / 3)
            ffn = Dense(inter=max(1, -(-width // 256) * 256))
            norms += 1
        layers.append(Layers(n=1, mixer=mixer, ffn=ffn, norms=norms, extra_params=extra))
    f.raw("n_kv_heads", "inter", "attention_bias", "mlp_bias")
    return Body(stack(layers))


FAMILIES: dict[str, Callable[[Fields], Body]] = {
    "falcon": falcon,
    "RefinedWeb": falcon,
    "RefinedWebModel": falcon,
    "gpt_oss": gpt_oss,
    "deepseek_v2": deepseek,
    "deepseek_v3": deepseek,
    "deepseek_v32": deepseek,
    "kimi_k2": deepseek,
    "glm_moe_dsa": deepseek,
    "deepseek_v4": deepseek_v4,
    "deepseek_ref": deepseek_v4,
    "glm4_moe": glm4_moe,
    "glm4v_moe": glm4_moe,
    "glm4_moe_lite": deepseek,
    "minimax_m2": minimax_m2,
    "minimax_m3": minimax_m3,
    "minimax_m3_vl": minimax_m3,
    "llama4": llama4,
    "gemma4": gemma4,
    "mimo_v2_flash": mimo_v2,
    "step3p5": step,
    "step3p7": step,
    "nemotron-nas": nemotron_nas,
}
