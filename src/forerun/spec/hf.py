"""Reads Hugging Face `config.json` content into a `Model`.

The common fields are read here; what is special to a family lives in `hf_decoders.py` (plain
decoders, as a table), `hf_families.py` (mixtures, latent and sparse attention) and `hf_hybrids.py`
(fixed-state mixers); number formats in `hf_quant.py`, image encoders in `hf_vision.py`.  A field
that nobody knows and that could change the cost becomes a sentence in `Model.assumed`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from pydantic import ValidationError

from forerun.errors import Problem, SpecError
from forerun.spec.hf_audio import audio
from forerun.spec.hf_decoders import STYLES, Body, decoder
from forerun.spec.hf_diffusion import is_pipeline, read_pipeline
from forerun.spec.hf_families import FAMILIES
from forerun.spec.hf_fields import Fields
from forerun.spec.hf_hybrids import HYBRIDS
from forerun.spec.hf_quant import quantization
from forerun.spec.hf_vision import vision
from forerun.spec.model import Model

T = TypeVar("T")
_DTYPES = {
    "bfloat16": "bf16", "bf16": "bf16", "float16": "fp16", "fp16": "fp16", "half": "fp16",
    "float32": "fp32", "fp32": "fp32", "float": "fp32",
}  # fmt: skip
#: what a family's files leave out because its configuration class in transformers holds it
DEFAULTS: dict[str, dict[str, Any]] = {
    "gemma3_text": {
        "vocab_size": 262208, "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256,
        "max_position_embeddings": 131072, "sliding_window_pattern": 6,
    },
}  # fmt: skip
_NESTED = ("text_config", "llm_config", "language_config", "thinker_config")


def read_config(config: Mapping[str, Any], *, name: str, source: str) -> Model:
    """The model that a config.json describes.

    config : the file's content.  name, source: what the model is called and where it is from.
    Raises SpecError with every missing, mistyped or contradictory field at once.
    """
    if not isinstance(config, Mapping):
        raise SpecError.one(
            source, f"holds {type(config).__name__}, not an object", "a config.json"
        )
    if is_pipeline(config):
        return read_pipeline(config, name=name, source=source)
    text, outer = _decoder_fields(config, source)
    kind = str(text.data.get("model_type") or config.get("model_type") or "")
    body = _nested("the layers", source, lambda: _body(kind, text))
    if text.problems:
        raise SpecError(*text.problems)
    encoder = _nested(
        "vision_config", source, lambda: vision(config, hidden=text.number("hidden"), say=text.say)
    )
    hears = _nested(
        "audio_config", source, lambda: audio(config, hidden=text.number("hidden"), say=text.say)
    )
    quant = _nested("quantization_config", source, lambda: quantization(config, text, body))
    _say_format_of_name(name, quant, text)
    published = config.get("forerun")
    if not isinstance(published, Mapping):
        published = {}
    tied = config.get("tie_word_embeddings")
    if text.data.get("tie_word_embeddings") is not None:
        tied = text.data["tie_word_embeddings"]
    try:
        model = Model(
            name=name,
            hf_id=published.get("hf_id"),
            family=str(config.get("model_type") or kind),
            hidden=text.number("hidden"),
            vocab=text.number("vocab"),
            layers=body.layers,
            tied_embeddings=body.tied if tied is None else bool(tied),
            learned_positions=body.learned_positions,
            embed_dim=body.embed_dim,
            final_norms=body.final_norms,
            extra_params=body.extra_params,
            mtp_layers=text.number("mtp", default=0, low=0),
            max_len=text.optional("max_len"),
            dtype=_dtype(config, text),
            quantization=quant,
            vision=encoder,
            audio=hears,
            published_params=published.get("published_params"),
            published_active_params=published.get("published_active_params"),
            source=published.get("source") or source,
            assumed=tuple(text.assumed + text.unknown() + outer),
        )
    except ValidationError as error:
        where = [".".join(str(p) for p in e["loc"]) for e in error.errors()]
        raise SpecError(
            *(
                Problem(source, f"{w} {e['msg']}", "correct the file")
                for w, e in zip(where, error.errors(), strict=True)
            )
        ) from None
    if text.problems:
        raise SpecError(*text.problems)
    return model


def _nested(what: str, source: str, read: Callable[[], T]) -> T:
    """What `read` gives; a free-form object that holds a wrong type inside becomes a SpecError."""
    try:
        return read()
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise SpecError.one(
            source, f"{what} cannot be read: {error}", "compare with the maker's own config.json"
        ) from error


def _decoder_fields(config: Mapping[str, Any], source: str) -> tuple[Fields, list[str]]:
    """The decoder's own fields; those beside a nested text_config are looked at as well."""
    nested = next((config[k] for k in _NESTED if isinstance(config.get(k), Mapping)), None)
    if nested is not None and isinstance(nested.get("text_config"), Mapping):
        nested = nested["text_config"]
    if nested is not None:
        nested = {**DEFAULTS.get(str(nested.get("model_type")), {}), **nested}
    if nested is None:
        text = Fields({k: v for k, v in config.items() if k != "forerun"}, source)
        text.asked |= {
            "quantization_config",
            "vision_config",
            "audio_config",
            "dtype",
            "torch_dtype",
        }
        return text, []
    text = Fields(nested, source)
    text.asked |= {"quantization_config", "dtype", "torch_dtype"}
    outer = Fields(config, source)
    outer.asked |= {
        *_NESTED, "vision_config", "audio_config", "quantization_config", "forerun", "dtype",
        "torch_dtype",
    }  # fmt: skip
    # some files repeat the decoder's fields outside: they are not news
    outer.asked |= {k for k in config if k in nested}
    return text, outer.unknown()


def _body(kind: str, text: Fields) -> Body:
    base = kind.removesuffix("_text")
    if base in FAMILIES:
        return FAMILIES[base](text)
    if base in HYBRIDS:
        return HYBRIDS[base](text)
    if base not in STYLES:
        # n_layers and the like still have to be there: a Llama-like reading of a foreign file
        # that lacks them fails by name
        label = f"model_type {kind!r}" if kind else "a file without model_type"
        text.say(f"{label} is not known to this reader: read as a Llama-like decoder")
        base = "llama"
    return decoder(text, STYLES[base])


def _dtype(config: Mapping[str, Any], text: Fields) -> str:
    value = text.raw("dtype") or config.get("dtype") or config.get("torch_dtype")
    if value is None:
        text.say("no dtype is given: bf16")
        return "bf16"
    known = _DTYPES.get(str(value).removeprefix("torch."))
    if known is None:
        text.wrong("dtype", f"{value!r} is not known", "one of " + ", ".join(sorted(_DTYPES)))
        return "bf16"
    return known


def _say_format_of_name(name: str, quant: object, text: Fields) -> None:
    """A name that promises a format which the file does not mention deserves a sentence."""
    if quant is not None:
        return
    for word in ("NVFP4", "MXFP4", "FP8", "AWQ", "GPTQ", "INT4", "INT8", "W4A16"):
        if word in name.upper():
            text.say(
                f"the name says {word} but the file has no quantization_config "
                "(hf_quant_config.json may hold it): read as not quantised"
            )
            return
