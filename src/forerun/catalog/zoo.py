"""The models that ship with Forerun, and any other by the path of its config.json.

A file's name in `models/` is the model's name.  Each holds config.json content, only the fields
that matter, and a "forerun" block: Hugging Face id, published figures with their source, aliases.
"""

from __future__ import annotations

import json
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from forerun.errors import SpecError, nearest
from forerun.spec.hf import read_config
from forerun.spec.model import Model

FOLDER = Path(__file__).parent / "models"
PIPELINES = Path(__file__).parent / "diffusion"
#: ends of Hugging Face names that do not change the architecture
_VARIANTS = ("-instruct", "-chat", "-it", "-base", "-hf", "-bf16", "-pt")


@cache
def models() -> tuple[str, ...]:
    """The names of all language models in the catalog, sorted."""
    return tuple(sorted(p.stem for p in FOLDER.glob("*.json")))


@cache
def pipelines() -> tuple[str, ...]:
    """The names of all diffusion models in the catalog, sorted."""
    return tuple(sorted(p.stem for p in PIPELINES.glob("*.json")))


def _file(name: str) -> Path:
    """Where a catalog model is kept."""
    beside = PIPELINES / f"{name}.json"
    return beside if beside.is_file() else FOLDER / f"{name}.json"


def model(name_or_path: str) -> Model:
    """The model of a catalog name, an alias, a Hugging Face id, or the path of a config.json.

    A folder that holds one will do.  Names are compared without regard to case.
    Raises SpecError with the nearest names.
    """
    text = str(name_or_path).strip()
    if not text:
        raise SpecError.one("model", "no name is given", "e.g. llama-3.1-8b")
    if text.lower() in (*models(), *pipelines()):
        return _catalog(text.lower())
    path = _path(text)
    if path is not None:
        return _from_path(path)
    known = _aliases()
    name = known.get(text.lower()) or _by_variant(text.lower(), known)
    if name is None:
        near = nearest(text.rsplit("/", 1)[-1], (*models(), *pipelines()))
        raise SpecError.one(
            "model", f"{text[:80]!r} is not in the catalog",
            f"{near}, or the path of a config.json",
        )  # fmt: skip
    return _catalog(name)


def _path(text: str) -> Path | None:
    """The file or folder that a text names; None where it names none, or could not name any."""
    try:
        path = Path(text).expanduser()
        named = path.is_dir() or path.suffix == ".json" or path.is_file()
        path.exists()  # also of a name that is too long, which ends in .json
    except (OSError, ValueError, RuntimeError):
        return None
    return path if named else None


def published(name: str) -> dict[str, Any]:
    """The "forerun" block of a catalog model: what its maker states, and how to compare with it.

    published_params, published_active_params : the figures; `*_rounding`: to what they are rounded.
    published_counts : "all" (default), "decoder" (without the image encoder), "with mtp", or
        "with mtp and its tables".
    published_active_counts : "all" (default), "without embedding", or "without tables".
    """
    return dict(_load(_file(name))["forerun"])


@lru_cache(maxsize=256)
def _catalog(name: str) -> Model:
    file = _file(name)
    return read_config(_load(file), name=name, source=f"catalog/{file.parent.name}/{name}.json")


def _from_path(path: Path) -> Model:
    file = path / "config.json" if path.is_dir() else path
    config = _load(file)
    beside = file.parent / "hf_quant_config.json"
    if isinstance(config, dict) and "quantization_config" not in config and beside.is_file():
        # NVIDIA's ModelOpt keeps the formats in a file of its own
        stated = _load(beside)
        inner = stated.get("quantization") if isinstance(stated, dict) else None
        if isinstance(inner, dict):
            config = {**config, "quantization_config": {"quant_method": "modelopt", **inner}}
    folder = file.resolve().parent.name
    name = folder if file.name == "config.json" and folder else file.stem
    return read_config(config, name=name, source=str(file))


def _load(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SpecError.one(
            str(file), "there is no such file", "a config.json or a folder that holds one"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError.one(str(file), f"cannot be read: {error}", "check the file") from None
    except json.JSONDecodeError as error:
        raise SpecError.one(
            f"{file}:{error.lineno}:{error.colno}", f"is not JSON: {error.msg}", "correct the file"
        ) from None


@lru_cache(maxsize=1)
def _aliases() -> dict[str, str]:
    """Every other name -> catalog name; reads the whole folder, so only for an indirect name."""
    out: dict[str, str] = {}
    for name in (*models(), *pipelines()):
        block = _load(_file(name))["forerun"]
        for other in [block.get("hf_id"), *block.get("aliases", ())]:
            if other:
                out.setdefault(other.lower(), name)
                out.setdefault(other.lower().rsplit("/", 1)[-1], name)
    # a model's own name outranks another's alias
    return out | {name: name for name in (*models(), *pipelines())}


def _by_variant(text: str, known: dict[str, str]) -> str | None:
    """The model whose name differs only by an ending such as -Instruct."""
    for ending in _VARIANTS:
        if text.endswith(ending):
            short = text.removesuffix(ending)
            found = known.get(short) or known.get(
                short.rsplit("/", 1)[-1] if "/" not in short else ""
            )
            if found:
                return found
    return next((known[text + e] for e in _VARIANTS if text + e in known), None)
