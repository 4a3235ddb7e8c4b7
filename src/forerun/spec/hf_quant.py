"""`quantization_config` into `Quantization`: the format each part of the checkpoint is stored in.

Part names are those of `params.parts`.  Methods of the field: fp8 (DeepSeek, Qwen), modelopt
(NVFP4, FP8, mixed), compressed-tensors, mxfp4 (gpt-oss), awq, gptq, bitsandbytes, fbgemm_fp8.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from forerun.spec.hf_decoders import Body
from forerun.spec.hf_fields import Fields
from forerun.spec.model import Quantization

#: substring of a module's name -> part; the first that fits counts
_PARTS: tuple[tuple[str, str], ...] = (
    ("mtp", "mtp"), ("vision", "vision"), ("visual", "vision"), ("mm_projector", "vision"),
    ("multi_modal", "vision"), ("patch_merge", "vision"), ("embed_vision", "vision"),
    ("lm_head", "lm_head"), ("embed", "embedding"), ("norm", "norms"),
    ("indexers_proj", "router"), ("weights_proj", "router"), ("index", "indexer"),
    ("linear_attn", "linear_attention"), ("mamba", "linear_attention"),
    ("mixer.in_proj", "linear_attention"), ("mixer.out_proj", "linear_attention"),
    ("conv1d", "linear_attention"), ("self_attn", "attention"), (".attn", "attention"),
    ("attention", "attention"), ("q_proj", "attention"), ("o_proj", "attention"),
    ("shared_expert_gate", "router"), ("shared_expert", "shared_experts"),
    ("e_score", "router"), ("router", "router"), ("experts", "experts"),
    ("mlp.gate_", "dense"), ("mlp.gate", "router"), ("moe.gate", "router"),
    ("ffn.gate", "router"), ("latent", "other"), ("mlp", "dense"),
    ("feed_forward", "dense"), ("eh_proj", "mtp"), ("enorm", "mtp"),
)  # fmt: skip
#: never quantised, whatever the file lists
_ALWAYS_KEPT = ("embedding", "expert_bias", "norms", "other", "router", "vision")
_MODELOPT = {
    "FP8": "fp8", "FP8_PER_TENSOR": "fp8", "FP8_PB_WO": "fp8_block", "FP8_PB_REAL": "fp8_block",
    "NVFP4": "nvfp4", "W4A8_NVFP4_FP8": "nvfp4", "NVFP4_AWQ": "nvfp4", "W4A16_NVFP4": "nvfp4",
    "MXFP4": "mxfp4", "MXFP8": "mxfp8", "W4A8_MXFP4_FP8": "mxfp4", "INT8_SQ": "int8",
    "W4A16_AWQ": "int4_wo", "INT4_AWQ": "int4_wo", "W8A16": "int8_wo",
}  # fmt: skip
_ACTIVATIONS = {
    "fp8": "fp8", "fp8_block": "fp8_block", "nvfp4": "nvfp4", "mxfp8": "mxfp8", "mxfp4": "bf16",
    "int8": "int8", "int8_wo": "bf16", "int4_wo": "bf16",
}  # fmt: skip


def quantization(config: Mapping[str, Any], text: Fields, body: Body) -> Quantization | None:
    """What the file says of stored formats, None when nothing."""
    raw = config.get("quantization_config") or text.data.get("quantization_config")
    if raw is None:
        return None
    if not isinstance(raw, Mapping):
        text.wrong("quantization_config", f"is {raw!r}, not an object", "correct the file")
        return None
    method = str(raw.get("quant_method") or raw.get("quant_algo") or "").lower()
    weights, by_part, activations = _formats(raw, method, text)
    if weights is None:
        return None
    kept = set(_ALWAYS_KEPT) | _kept(raw, method, body)
    if "embedding" in by_part or "lm_head" in by_part:
        kept -= by_part.keys()
    mixers = {run.mixer.kind for run in body.layers if run.mixer is not None}
    if mixers & {"kda", "lightning"}:  # these files call both kinds of mixer self_attn
        if "attention" in kept:
            kept.add("linear_attention")
        elif "attention" in by_part:
            by_part["linear_attention"] = by_part["attention"]
    if text.data.get("expert_dtype") == "fp4" and "experts" not in by_part:
        by_part["experts"] = "mxfp4"  # DeepSeek V4: e2m1 with one ue8m0 scale for 32
    return Quantization(
        weights=weights,
        activations=activations or _ACTIVATIONS[weights],
        kv=_kv(raw),
        kept=tuple(sorted(kept)),
        by_part=tuple(sorted((p, d) for p, d in by_part.items() if p not in kept)),
        method=method,
    )


def _formats(
    raw: Mapping, method: str, text: Fields
) -> tuple[str | None, dict[str, str], str | None]:
    """(format of what is not named, format by part, format of activations when it differs)."""

    def unknown(what: str) -> str | None:
        text.say(f"quantization_config ({what}) is not known to this reader: read as not quantised")
        return None

    by_part: dict[str, str] = {}
    layers = raw.get("quantized_layers")
    if isinstance(layers, Mapping) and layers:
        for name, entry in layers.items():
            found = _MODELOPT.get(str((entry or {}).get("quant_algo")).upper())
            part = part_of(name)
            if found and part:
                by_part[part] = found
    groups = raw.get("config_groups")
    if isinstance(groups, Mapping) and groups:
        for group in groups.values():
            found = _bits((group or {}).get("weights"), raw, text)
            for target in (group or {}).get("targets") or ["Linear"]:
                part = part_of(target)
                if found and part:
                    by_part[part] = found
    if method == "fp8" or (method == "" and raw.get("fmt")):
        weights = "fp8_block" if raw.get("weight_block_size") else "fp8"
        return weights, by_part, None
    if method == "mxfp4":
        return "mxfp4", {}, None
    if method in ("awq", "gptq"):
        bits = raw.get("bits") or raw.get("w_bit") or 4
        _say_group(int(raw.get("group_size") or raw.get("q_group_size") or 128), text)
        return (
            {4: "int4_wo", 8: "int8_wo"}.get(int(bits)) or unknown(f"{bits} bits"),
            {},
            None,
        )
    if method == "bitsandbytes":
        if raw.get("load_in_4bit") or raw.get("_load_in_4bit"):
            text.say("bitsandbytes 4 bit (blocks of 64) is counted as int4_wo (groups of 128)")
            return "int4_wo", {}, None
        return "int8_wo", {}, None
    if method == "fbgemm_fp8":
        return "fp8", {}, None
    algo = str(raw.get("quant_algo") or "").upper()
    whole = _MODELOPT.get(algo)
    if isinstance(groups, Mapping) and groups:
        formats = [_bits((g or {}).get("weights"), raw, text) for g in groups.values()]
        known = [x for x in formats if x]
        # the densest format is that of the bulk; parts named otherwise are in by_part
        narrow = min(known, key=_narrowness, default=None)
        return narrow or whole or unknown(str(raw.get("format"))), by_part, _acts(groups)
    if whole:
        return whole, by_part, None
    if by_part:
        return min(by_part.values(), key=_narrowness), by_part, None
    return unknown(method or "no method"), {}, None


def _narrowness(dtype: str) -> float:
    return {"nvfp4": 0, "mxfp4": 0, "int4_wo": 0}.get(dtype, 1)


def _bits(weights: Any, raw: Mapping, text: Fields) -> str | None:
    if not isinstance(weights, Mapping):
        return None
    bits, kind = weights.get("num_bits"), weights.get("type")
    group = weights.get("group_size")
    if kind == "float" and bits == 4:
        return "mxfp4" if "mxfp4" in str(raw.get("format")) or group == 32 else "nvfp4"
    if kind == "float" and bits == 8:
        if group == 32:
            return "mxfp8"
        return "fp8_block" if weights.get("strategy") == "block" else "fp8"
    if kind == "int" and bits == 4:
        _say_group(int(group or 128), text)
        return "int4_wo"
    if kind == "int" and bits == 8:
        groups = raw.get("config_groups") or {}
        return (
            "int8"
            if any((g or {}).get("input_activations") for g in groups.values())
            else "int8_wo"
        )
    return None


def _say_group(group: int, text: Fields) -> None:
    if group != 128:
        more = 2 / group - 2 / 128 if group > 0 else 0.0
        text.say(
            f"4-bit weights in groups of {group} are counted as int4_wo (groups of 128): "
            f"{more:+.3f} bytes an element are left out"
        )


def _acts(groups: Mapping) -> str | None:
    """Weight-only when no group quantises its inputs."""
    return None if any((g or {}).get("input_activations") for g in groups.values()) else "bf16"


def _kv(raw: Mapping) -> str | None:
    scheme = raw.get("kv_cache_scheme") or raw.get("kv_cache_quant_algo")
    if isinstance(scheme, Mapping):
        scheme = {8: "FP8", 4: "NVFP4"}.get(int(scheme.get("num_bits") or 0))
    return {"FP8": "fp8", "NVFP4": "nvfp4", "INT8": "int8"}.get(str(scheme).upper())


def part_of(module: str) -> str | None:
    """The part that a module's name or pattern belongs to, None for a whole layer or `Linear`."""
    name = module.replace("re:", "").replace("\\", "").replace(".*", "").lower()
    if name in ("head", "output"):
        return "lm_head"
    if name == "gate":
        return "router"
    if re.search(r"mlp\.\(gate\|up", name):
        return "dense"
    return next((part for word, part in _PARTS if word in name), None)


def _kept(raw: Mapping, method: str, body: Body) -> set[str]:
    """Parts that no layer quantises.  A few layers' exception does not make their part kept."""
    names = ["modules_to_not_convert", "llm_int8_skip_modules"]
    if not (method == "fp8" and raw.get("config_groups")):
        # beside an fp8 base, `ignore` only says what the narrower format leaves to it
        names += ["ignore", "ignored_layers", "exclude_modules"]
    listed: Iterable[str] = next((raw[k] for k in names if raw.get(k)), ())
    kept: set[str] = set()
    layers: dict[str | None, set[int]] = {}
    for module in listed:
        part = part_of(str(module))
        number = re.search(r"(?:layers|blocks|h)\.(\d+)", str(module))
        if number:
            layers.setdefault(part, set()).add(int(number.group(1)))
        elif part is not None:
            kept.add(part)
    whole = layers.pop(None, set())
    for part, at in _holders(body).items():
        if at and len(at & (layers.get(part, set()) | whole)) >= 0.75 * len(at):
            kept.add(part)
    if method == "mxfp4":  # gpt-oss quantises its experts only
        kept |= {"attention", "router", "embedding", "lm_head"}
    named = [str(m) for m in raw.get("quantized_layers") or ()]
    for group in (raw.get("config_groups") or {}).values():
        named += [str(t) for t in (group or {}).get("targets") or ()]
    if "lm_head" not in named and method != "compressed-tensors":
        kept.add("lm_head")
    return kept - {"mtp"}


def _holders(body: Body) -> dict[str, set[int]]:
    """The layers that hold each part."""
    out: dict[str, set[int]] = {}
    i = 0
    for run in body.layers:
        at = range(i, i + run.n)
        i += run.n
        if run.mixer is not None:
            kind = "attention" if run.mixer.kind in ("gqa", "mla") else "linear_attention"
            out.setdefault(kind, set()).update(at)
        if run.ffn is not None:
            out.setdefault("experts" if run.ffn.kind == "moe" else "dense", set()).update(at)
            if run.ffn.kind == "moe" and run.ffn.shared_inter:
                out.setdefault("shared_experts", set()).update(at)
            if run.ffn.kind == "moe" and run.ffn.dense_inter:
                out.setdefault("dense", set()).update(at)
    return out
