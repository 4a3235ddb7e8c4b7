"""JSON Schema of the descriptions as they are written in files: quantities are texts with units.

An editor that reads it (the first line of a file written by `forerun init` names it) completes
keys and marks mistakes; `forerun` itself checks more, with pydantic and `check_case`.
"""

from __future__ import annotations

import re
from typing import Any

from forerun import units
from forerun.errors import SpecError, nearest
from forerun.spec.base import Spec
from forerun.spec.case import Case, Fleet
from forerun.spec.deployment import Deployment, Pool
from forerun.spec.device import Device, Link
from forerun.spec.model import Model
from forerun.spec.slo import Budget, Slo
from forerun.spec.workload import Traffic

#: what a schema can be asked for
KINDS: dict[str, type[Spec]] = {
    "case": Case,
    "fleet": Fleet,
    "traffic": Traffic,
    "slo": Slo,
    "budget": Budget,
    "deployment": Deployment,
    "device": Device,
    "link": Link,
    "model": Model,
}

_NUMBER = r"[-+]?([0-9][0-9_]*\.?[0-9_]*|\.[0-9]+)([eE][-+]?[0-9]+)?"
_POLICY_NOTE = "A policy's name, or path/to/file.py:function."


def schema(kind: str = "case") -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of one kind of description.  Raises SpecError."""
    if kind not in KINDS:
        raise SpecError.one("schema", f"{kind!r} is not a description", nearest(kind, KINDS))
    out = KINDS[kind].model_json_schema()
    classes = {cls.__name__: cls for cls in _subclasses(Spec)}
    definitions = out.get("$defs", {})
    for name, body in (*definitions.items(), (KINDS[kind].__name__, out)):
        _with_units(body, classes[name])
    for name, body in definitions.items():
        definitions[name] = _with_short_forms(name, body, definitions)
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    root = KINDS[kind].__name__
    return head | _with_short_forms(root, out, definitions)


def quantity(dimension: str) -> dict[str, Any]:
    """What a file may hold for a quantity: a number with a unit; zero and inf need none."""
    names = "|".join(re.escape(unit) for unit in sorted(units.UNITS[dimension], key=len)[::-1])
    return {
        "anyOf": [
            {"type": "string", "pattern": rf"^\s*({_NUMBER}\s*({names})|[-+]?0+|inf)\s*$"},
            {"const": 0},
        ],
        "examples": [units.example(dimension)],
    }


def _subclasses(cls: type[Spec]) -> list[type[Spec]]:
    return [s for sub in cls.__subclasses__() for s in (sub, *_subclasses(sub))]


def _with_units(body: dict[str, Any], cls: type[Spec]) -> None:
    for name, field in body.get("properties", {}).items():
        field.pop("title", None)
        dimension = None if name in cls.unitless else units.dimension_of(name)
        if dimension:
            _replace_numbers(field, dimension)
            default = field.get("default")
            if isinstance(default, (int, float)) and default:
                field["default"] = units.show(default, dimension, digits=6)


def _replace_numbers(node: dict[str, Any], dimension: str) -> None:
    if node.get("type") in ("number", "integer"):
        for key in ("type", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"):
            node.pop(key, None)
        node.update(quantity(dimension))
        return
    for key in ("items", "additionalProperties"):
        if isinstance(node.get(key), dict):
            _replace_numbers(node[key], dimension)
    for option in node.get("anyOf", ()):
        _replace_numbers(option, dimension)


def _with_short_forms(name: str, body: dict[str, Any], definitions: dict) -> dict[str, Any]:
    """The shorter ways to write this description, beside the full one."""
    if name == "Policy":
        return {"anyOf": [{"type": "string", "description": _POLICY_NOTE}, body]}
    if name == "Lengths":
        return {"anyOf": [{"type": "number", "minimum": 1}, body]}
    if name == "Fleet":
        group = {"anyOf": [{"type": "integer", "minimum": 1}, {"$ref": "#/$defs/Group"}]}
        text = {"type": "string", "examples": ["H100:8, L4:4"]}
        short = {"type": "object", "additionalProperties": group, "examples": [{"h100-sxm": 4}]}
        return _either(body, short | {"not": {"required": ["devices"]}}, text)
    if name == "Deployment":
        pool = {k: v for k, v in _pool_properties(body, definitions).items()}
        flat = {
            "type": "object",
            "additionalProperties": False,
            "properties": pool | {k: v for k, v in body["properties"].items() if k != "pools"},
        }
        return _either(body, flat)
    return body


def _either(body: dict[str, Any], *others: dict[str, Any]) -> dict[str, Any]:
    """The full form or another; definitions stay at the top, where references look for them."""
    top = {key: body.pop(key) for key in ("$defs", "title", "description") if key in body}
    return top | {"anyOf": [body, *others]}


def _pool_properties(body: dict[str, Any], definitions: dict) -> dict[str, Any]:
    found = definitions or body.get("$defs", {})
    return (
        found["Pool"]["properties"] if "Pool" in found else Pool.model_json_schema()["properties"]
    )
