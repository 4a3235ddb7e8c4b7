"""Reads a diffusers pipeline's config.json files, kept side by side in one object, into a `Model`.

Keys are the pipeline's components (`transformer`, `vae`, `text_encoder`, `text_encoder_2`), each
with the content of its config.json; `pipeline` says what the pipeline does by default (steps, text
lengths, guidance).  One function a class of denoiser.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from forerun.errors import SpecError, nearest
from forerun.spec.diffusion import Blocks, Diffusion, TextEncoder, Vae
from forerun.spec.model import Model

Config = Mapping[str, Any]


def is_pipeline(config: Config) -> bool:
    """Whether this holds the components of a diffusion pipeline."""
    return isinstance(config.get("transformer"), Mapping) and "vae" in config


def read_pipeline(config: Config, *, name: str, source: str) -> Model:
    """The model that the components describe.  Raises SpecError for what is missing or unknown."""
    said = config.get("forerun") or {}
    inner = config["transformer"]
    kind = str(inner.get("_class_name"))
    if kind not in DENOISERS:
        what = f"{kind!r} is no denoiser that is known"
        raise SpecError.one(f"{source}: transformer._class_name", what, nearest(kind, DENOISERS))
    try:
        width, shape = DENOISERS[kind](inner)
        how = config["pipeline"]
        found = Diffusion(
            text=tuple(_texts(config, how["text_lengths"])),
            vae=_vae(config["vae"]),
            steps=how["steps"],
            guided=how["guided"],
            frames=how.get("frames", 1),
            **shape,
            **{"crossed" if shape["blocks"][0].cross else "joined": how["text_tokens"]},
        )
    except KeyError as error:
        what = f"lacks {error.args[0]!r}"
        raise SpecError.one(source, what, "the config.json of each component") from None
    return Model(
        name=name, hf_id=said.get("hf_id"), family=kind, hidden=width, vocab=1, layers=(),
        published_params=said.get("published_params"), diffusion=found,
        source=said.get("source") or source, assumed=tuple(said.get("assumed", ())),
    )  # fmt: skip


def _flux(c: Config) -> tuple[int, dict[str, Any]]:
    """FLUX.1: two-stream blocks, then parallel ones; latents come packed 2 x 2 into 64 channels."""
    heads, dim = c["num_attention_heads"], c["attention_head_dim"]
    width = heads * dim
    blocks = (
        Blocks(n=c["num_layers"], streams=2, inter=4 * width),
        Blocks(n=c["num_single_layers"], inter=4 * width, parallel=True, modulation=3),
    )
    # time, guidance and pooled text, each through two layers, and the last modulation
    inputs = 256 * (1 + bool(c.get("guidance_embeds"))) + c["pooled_projection_dim"]
    extra = width * inputs + (2 + bool(c.get("guidance_embeds"))) * width**2 + 2 * width**2
    return width, {
        "blocks": blocks, "n_heads": heads, "head_dim": dim, "patch": 2,
        "text_dim": c["joint_attention_dim"], "extra_params": extra,
    }  # fmt: skip


def _sd3(c: Config) -> tuple[int, dict[str, Any]]:
    """Stable Diffusion 3 and 3.5: two-stream blocks throughout, learned positions."""
    heads, dim = c["num_attention_heads"], c["attention_head_dim"]
    width = heads * dim
    if c.get("dual_attention_layers"):
        what = "blocks with a second attention of latents alone are not described"
        raise SpecError.one("transformer.dual_attention_layers", what, "SD3 medium or SD3.5 large")
    inputs = 256 + c["pooled_projection_dim"]
    extra = width * inputs + 2 * width**2 + 2 * width**2 + c["pos_embed_max_size"] ** 2 * width
    return width, {
        "blocks": (Blocks(n=c["num_layers"], streams=2, inter=4 * width),),
        "n_heads": heads, "head_dim": dim, "patch": c["patch_size"],
        "text_dim": c["joint_attention_dim"], "extra_params": extra,
    }  # fmt: skip


def _z_image(c: Config) -> tuple[int, dict[str, Any]]:
    """Z-Image: one stream; two blocks of refining for latents and two for text before it."""
    width, heads = c["dim"], c["n_heads"]
    inter = int(width / 3 * 8)
    plain = {"inter": inter, "gated": True}
    modulated = {"modulation": 4, "modulation_rank": 256}
    blocks = (
        Blocks(n=c["n_layers"], **plain, **modulated),
        Blocks(n=c["n_refiner_layers"], over="latents", **plain, **modulated),
        Blocks(n=c["n_refiner_layers"], over="text", modulation=0, **plain),
    )
    return width, {
        "blocks": blocks, "n_heads": heads, "head_dim": width // heads,
        "patch": c["all_patch_size"][0], "text_dim": c["cap_feat_dim"],
        "extra_params": 256 * 1024 + 1024 * 256 + 256 * width,
    }  # fmt: skip


def _wan(c: Config) -> tuple[int, dict[str, Any]]:
    """Wan 2.1: attention among latents, then to the text; one modulation for all blocks."""
    width, heads = c["dim"], c["num_heads"]
    block = Blocks(n=c["num_layers"], inter=c["ffn_dim"], cross=True, modulation=0)
    extra = (
        c["freq_dim"] * width + width**2 + 6 * width**2 + width**2
    )  # time, its six, text's second
    return width, {
        "blocks": (block,), "n_heads": heads, "head_dim": width // heads, "patch": 2,
        "text_dim": c["text_dim"], "extra_params": extra,
    }  # fmt: skip


#: by `_class_name` of the transformer's config.json
DENOISERS: dict[str, Callable[[Config], tuple[int, dict[str, Any]]]] = {
    "FluxTransformer2DModel": _flux,
    "SD3Transformer2DModel": _sd3,
    "ZImageTransformer2DModel": _z_image,
    "WanModel": _wan,
}


def _texts(config: Config, lengths: Mapping[str, int]) -> list[TextEncoder]:
    return [_text(key, config[key], length) for key, length in lengths.items()]


def _text(key: str, c: Config, length: int) -> TextEncoder:
    """CLIP and Qwen in transformers' words, T5 in its own."""
    if "d_model" in c:
        return TextEncoder(
            name=key, n_layers=c["num_layers"], hidden=c["d_model"], n_heads=c["num_heads"],
            n_kv_heads=c["num_heads"], head_dim=c["d_kv"], inter=c["d_ff"], gated=True,
            vocab=c["vocab_size"], length=length,
        )  # fmt: skip
    heads = c["num_attention_heads"]
    return TextEncoder(
        name=key, n_layers=c["num_hidden_layers"], hidden=c["hidden_size"], n_heads=heads,
        n_kv_heads=c.get("num_key_value_heads", heads),
        head_dim=c.get("head_dim", c["hidden_size"] // heads), inter=c["intermediate_size"],
        gated="num_key_value_heads" in c, vocab=c["vocab_size"], length=length,
    )  # fmt: skip


def _vae(c: Config) -> Vae:
    """The decoder of AutoencoderKL, or of Wan's causal one in three dimensions."""
    if "dim_mult" in c:
        widths = tuple(c["base_dim"] * k for k in reversed(c["dim_mult"]))
        return Vae(
            latent_channels=c["z_dim"], widths=widths, blocks=c["num_res_blocks"] + 1, taps=27,
            frames=tuple(reversed(c["temperal_downsample"])), halves=True,
        )  # fmt: skip
    return Vae(
        latent_channels=c["latent_channels"], widths=tuple(reversed(c["block_out_channels"])),
        blocks=c["layers_per_block"] + 1,
    )  # fmt: skip
