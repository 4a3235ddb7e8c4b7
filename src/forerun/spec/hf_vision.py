"""Image encoders of vision-language models: shape and, where the design is known, size."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from forerun.spec.hf_fields import Fields
from forerun.spec.model import Vision


def vision(config: Mapping[str, Any], *, hidden: int, say: Callable[[str], None]) -> Vision | None:
    """The encoder that `vision_config` describes, None when there is none.

    hidden : the decoder's width, which the projector ends in.
    The parameter count holds encoder and projector; None, with a sentence, for an unknown design.
    """
    raw = config.get("vision_config")
    if not isinstance(raw, Mapping) or not raw:
        return None
    f = Fields(raw, "vision_config")
    width = f.number("vt_hidden_size", "hidden_size", "embed_dim", "width", default=0, low=0)
    depth = f.number(
        "vt_num_hidden_layers", "depth", "num_hidden_layers", "layers", default=0, low=0
    )
    if not width or not depth:
        say("vision_config lacks width or depth: the image encoder is left out")
        return None
    family = str(config.get("model_type") or "")
    if family.startswith("qwen2_5_vl"):
        width = f.number("hidden_size", "embed_dim")
    design = _DESIGNS.get(family)
    inter = f.number("vt_intermediate_size", "intermediate_size", default=4 * width)
    params = design(f, width, depth, inter, hidden) if design else None
    if f.problems:
        params = None
    if params is None:
        say(
            f"the image encoder of model_type {family!r} is not known in detail: its parameters "
            "are not counted"
        )
    return Vision(
        n_layers=depth,
        hidden=width,
        n_heads=f.number("vt_num_attention_heads", "num_attention_heads", "num_heads", default=16),
        inter=inter,
        gated=family.startswith(("qwen2_5_vl", "gemma4")),
        patch=f.number("patch_size", "spatial_patch_size", default=14),
        merge=_merge(f, family),
        params=params,
        tokens_per_image=_tokens(config, f, family),
        frames=f.number("temporal_patch_size", default=1),
        **_resolution(f, family),
        **_reach(f, family),
        **({"layers_run": depth - 1, "projector": hidden} if family == "llava" else {}),
    )


#: bounds of an image's pixels that image processors of native resolution keep to, as in the
#: preprocessor_config.json of the instruction-tuned checkpoints
_PIXELS = {
    "qwen2_vl": (3136, 12_845_056),
    "qwen2_5_vl": (3136, 12_845_056),
    "qwen3_vl": (65_536, 16_777_216),
    "qwen3_vl_moe": (65_536, 16_777_216),
}


def _resolution(f: Fields, family: str) -> dict[str, int]:
    """How large the images are that the encoder sees, where the rule of the family is known."""
    if family in _PIXELS:
        low, high = _PIXELS[family]
        return {"min_pixels": low, "max_pixels": high}
    if family in ("gemma3", "llava"):
        size = {"image_size": f.number("image_size")}
        return size | ({"class_tokens": 1} if family == "llava" else {})
    return {}


def _reach(f: Fields, family: str) -> dict[str, int]:
    """Windows of Qwen2.5-VL: squares of window_size pixels, but in the layers named."""
    full = f.listing("fullatt_block_indexes")
    if family != "qwen2_5_vl" or not full:
        return {}
    side = f.number("window_size", default=112) // f.number("patch_size", default=14)
    return {"window": side * side, "full_layers": len(full)}


def _merge(f: Fields, family: str) -> int:
    kernel = f.raw("merge_kernel_size")
    if isinstance(kernel, (list, tuple)) and kernel:
        return int(kernel[0])
    joining = f.sub("img_token_compression_config")
    if joining is not None:
        return joining.number("spatial_merge_size", default=1)
    if family == "llama4":
        return round(1 / float(f.raw("pixel_shuffle_ratio") or 0.5))
    return f.number("spatial_merge_size", "pooling_kernel_size", default=1)


def _tokens(config: Mapping[str, Any], f: Fields, family: str) -> int | None:
    stated = config.get("mm_tokens_per_image") or config.get("vision_soft_tokens_per_image")
    return int(stated) if stated else None


def _qwen3(f: Fields, h: int, depth: int, inter: int, out: int) -> int:
    """Qwen3-VL and 3.5: biased ViT with learned positions, a merger, and one for each deep tap."""
    patch = f.number("patch_size") ** 2 * f.number("temporal_patch_size", default=2)
    embed = 3 * patch * h + h + f.number("num_position_embeddings") * h
    block = 4 * h + 4 * (h * h + h) + 2 * h * inter + inter + h
    wide = h * f.number("spatial_merge_size", default=2) ** 2
    out = f.number("out_hidden_size", default=out)
    join = wide * wide + wide + wide * out + out
    taps = len(f.listing("deepstack_visual_indexes") or ())
    return embed + depth * block + (2 * h + join) + taps * (2 * wide + join)


def _qwen25(f: Fields, h: int, depth: int, inter: int, out: int) -> int:
    """Qwen2.5-VL: RMS norms, gated feed-forward with biases, no positions."""
    embed = 3 * f.number("patch_size") ** 2 * f.number("temporal_patch_size", default=2) * h
    block = 2 * h + 4 * (h * h + h) + 3 * h * inter + 2 * inter + h
    wide = h * f.number("spatial_merge_size", default=2) ** 2
    out = f.number("out_hidden_size", default=out)
    return embed + depth * block + h + wide * wide + wide + wide * out + out


def _qwen2(f: Fields, h: int, depth: int, inter: int, out: int) -> int:
    """Qwen2-VL: layer norms, a plain feed-forward four times as wide."""
    embed = 3 * f.number("patch_size") ** 2 * f.number("temporal_patch_size", default=2) * h
    inter = h * f.number("mlp_ratio", default=4)
    block = 4 * h + 4 * (h * h + h) + 2 * h * inter + inter + h
    wide = h * f.number("spatial_merge_size", default=2) ** 2
    return embed + depth * block + 2 * h + wide * wide + wide + wide * out + out


def _moonvit(f: Fields, h: int, depth: int, inter: int, out: int) -> int:
    """MoonViT of Kimi K2.5 (biases, layer norms) and K3 (neither, and a narrower attention)."""
    side = 3 * f.number("patch_size") ** 2
    places = f.number("init_pos_emb_height") * f.number("init_pos_emb_width") * h
    joined = h * 4
    qkv = f.number("qkv_hidden_size", default=h)
    if f.raw("linear_bias") is False:
        block = 2 * h + 4 * h * qkv + 2 * h * inter
        return side * h + places + depth * block + h + joined * joined + joined * out + h
    block = 4 * h + 4 * (h * h + h) + 2 * h * inter + inter + h
    project = 2 * h + joined * joined + joined + joined * out + out
    return side * h + h + places + depth * block + 2 * h + project


def _llava(f: Fields, h: int, depth: int, inter: int, out: int) -> int:
    """CLIP of LLaVA 1.5: a class token, learned positions, norms before and after; two layers."""
    side = f.number("patch_size")
    places = (f.number("image_size") // side) ** 2 + 1
    block = 4 * h + 4 * (h * h + h) + 2 * h * inter + inter + h
    join = h * out + out + out * out + out
    return 3 * side * side * h + h + places * h + 4 * h + depth * block + join


def _siglip(f: Fields, h: int, depth: int, inter: int, out: int) -> int:
    """SigLIP of Gemma 3: biases, learned positions, a norm and one projection."""
    side = f.number("patch_size")
    places = (f.number("image_size") // side) ** 2
    block = 4 * h + 4 * (h * h + h) + 2 * h * inter + inter + h
    return 3 * side * side * h + h + places * h + depth * block + 2 * h + h + h * out


def _gemma4(f: Fields, h: int, depth: int, inter: int, out: int) -> int:
    """Gemma 4: RMS norms on all sides and on q and k, gated, a position table for each axis."""
    side = f.number("patch_size")
    heads = f.number("num_attention_heads") * f.number("head_dim")
    block = 4 * h + 2 * f.number("head_dim") + 4 * h * heads + 3 * h * inter
    tables = 2 * f.number("position_embedding_size") * h
    return 3 * side * side * h + tables + depth * block + h * out


def _llama4(f: Fields, h: int, depth: int, inter: int, out: int) -> int:
    """Llama 4: biased ViT with a class token, pixel shuffle, two adapters without biases."""
    side = f.number("patch_size")
    places = (f.number("image_size") // side) ** 2 + 1
    block = 4 * h + 4 * (h * h + h) + 2 * h * inter + inter + h
    a, b = f.number("projector_input_dim"), f.number("projector_output_dim")
    joined = round(h / float(f.raw("pixel_shuffle_ratio") or 0.5) ** 2)
    vit = 3 * side * side * h + h + places * h + 4 * h + depth * block
    return vit + joined * a + a * b + f.number("vision_output_dim") * out


def _minimax(f: Fields, h: int, depth: int, inter: int, out: int) -> int:
    """MiniMax M3: CLIP layers, a biased projector a patch, and another over each joined square."""
    joining = f.sub("img_token_compression_config")
    side = joining.number("spatial_merge_size") if joining else 2
    frames = joining.number("temporal_patch_size") if joining else 2
    block = 4 * h + 4 * (h * h + h) + 2 * h * inter + inter + h
    project = h * out + out + out * out + out
    join = side * side * out * out + out + out * out + out
    return 3 * frames * f.number("patch_size") ** 2 * h + 2 * h + depth * block + project + join


_DESIGNS: dict[str, Callable[[Fields, int, int, int, int], int]] = {
    "qwen2_vl": _qwen2,
    "qwen2_5_vl": _qwen25,
    "qwen3_vl": _qwen3,
    "qwen3_vl_moe": _qwen3,
    "qwen3_5": _qwen3,
    "qwen3_5_moe": _qwen3,
    "kimi_k25": _moonvit,
    "kimi_k3": _moonvit,
    "gemma3": _siglip,
    "llava": _llava,
    "gemma4": _gemma4,
    "llama4": _llama4,
    "minimax_m3_vl": _minimax,
}
