"""DeepSeek and those built like it: latent attention, sparse choice, compressed entries."""

from __future__ import annotations

from forerun.spec.hf_decoders import Body, feed_forwards, moe, stack
from forerun.spec.hf_fields import Fields
from forerun.spec.model import Gqa, Layers, Mla


def mla(f: Fields, **over) -> Mla:
    """DeepSeek's latent attention; with an index it reads only the best `index_topk` tokens."""
    f.raw("n_kv_heads", "head_dim")  # of the uncompressed heads, which are never cached
    fields = {
        "n_heads": f.number("n_heads"),
        "q_lora_rank": f.optional("q_lora_rank"),
        "kv_lora_rank": f.number("kv_lora_rank"),
        "nope_dim": f.number("qk_nope_head_dim"),
        "rope_dim": f.number("qk_rope_head_dim"),
        "v_head_dim": f.number("v_head_dim"),
        "sparse_topk": f.optional("index_topk"),
        "index_heads": f.number("index_n_heads", default=0, low=0),
        "index_dim": f.number("index_head_dim", default=0, low=0),
    }
    return Mla(**{**fields, **over})


def deepseek(f: Fields) -> Body:
    """V2, V3, R1, V3.2, Kimi K2 and GLM 5: latent attention, dense layers first, then experts."""
    n = f.number("n_layers")
    f.flag("attention_bias")
    shares = f.listing("indexer_types", length=n) or ["full"] * n
    ffns = feed_forwards(f, n)
    layers = [
        Layers(n=1, mixer=mla(f, index_shared=str(share) == "shared"), ffn=x)
        for share, x in zip(shares, ffns, strict=True)
    ]
    types = f.listing("layer_types", length=n)
    if types and any("sparse" not in str(t) for t in types):
        f.say("layer_types holds more than sparse attention: all layers are read alike")
    return Body(stack(layers))


def deepseek_v4(f: Fields) -> Body:
    """Windowed attention with one shared key-value vector, and beside it compressed entries.

    Ratio 0: window only.  Ratio 4: one entry for 4 tokens, `index_topk` of them chosen by an
    indexer with its own compressed keys.  Ratio 128: one entry for 128 tokens, all read.
    The residual is `hc_mult` streams wide; mixing costs (2 + m) m (m D) parameters twice a layer.
    Source: transformers models/deepseek_v4, checked against the published totals.
    """
    n, hidden = f.number("n_layers"), f.number("hidden")
    heads, width = f.number("n_heads"), f.number("head_dim")
    f.raw("n_kv_heads", "qk_rope_head_dim", "expert_dtype", "attention_bias")
    window = f.number("sliding_window")
    ratios = f.listing("compress_ratios", length=n)
    if ratios is None:
        f.wrong("compress_ratios", "is missing", "one number a layer: 0, 4 or 128")
        ratios = [0] * n
    index = {
        "sparse_topk": f.number("index_topk"),
        "index_heads": f.number("index_n_heads"),
        "index_dim": f.number("index_head_dim"),
    }
    streams = f.number("hc_mult", default=1)
    mix = (2 + streams) * streams
    mixing = 2 * (mix * streams * hidden + mix + 3) if streams > 1 else 0
    ffn = moe(f)  # every layer holds experts; the first few choose them by a table of token ids
    layers = []
    for ratio in ratios:
        mixer = Gqa(
            n_heads=heads,
            n_kv_heads=1,
            head_dim=width,
            window=window,
            one_cache=True,
            qk_norm=True,
            qk_norm_params=width,
            sinks=True,
            q_lora_rank=f.number("q_lora_rank"),
            o_lora_rank=f.number("o_lora_rank"),
            o_groups=f.number("o_groups"),
            compress=ratio or None,
            compress_overlap=ratio == 4,
            **(index if ratio == 4 else {}),
        )
        layers.append(Layers(n=1, mixer=mixer, ffn=ffn, extra_params=mixing))
    head = streams * streams * hidden + streams + 1 if streams > 1 else 0
    return Body(stack(layers), extra_params=head)
