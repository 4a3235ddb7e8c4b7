"""Pydantic's errors as problems: where it stands, what is wrong, what would fix it."""

from __future__ import annotations

import types
from collections.abc import Iterator
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from forerun import units
from forerun.errors import Problem, nearest
from forerun.spec.base import Spec, UnitError
from forerun.spec.tree import find
from forerun.spec.yaml import Node

#: what to write where a required key is missing
EXAMPLES = {
    "model": "model: llama-3.1-8b",
    "fleet": "fleet: {h100-sxm: 4}",
    "traffic": "traffic: {trace: chat}",
    "device": "device: h100-sxm",
    "count": "count: 4",
    "pools": "deployment: {device: h100-sxm, tp: 1, replicas: 4}",
    "mean": "mean: 1000",
}

_BOUNDS = {
    "greater_than": ("must be greater than {gt}", "gt"),
    "greater_than_equal": ("must be at least {ge}", "ge"),
    "less_than": ("must be less than {lt}", "lt"),
    "less_than_equal": ("must be at most {le}", "le"),
}

_EXPECTED = {
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "string_type": "a text",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "dict_type": "keys and values",
    "model_type": "keys and values",
    "model_attributes_type": "keys and values",
    "tuple_type": "a list",
    "list_type": "a list",
}


def problems_of(error: ValidationError, root: Node, top: type[Spec]) -> list[Problem]:
    """One problem for each of pydantic's, with the place the user wrote."""
    return [_problem(detail, root, top) for detail in error.errors(include_url=False)]


def _problem(detail: ErrorDetails, root: Node, top: type[Spec]) -> Problem:
    kind, loc, context = detail["type"], detail["loc"], detail.get("ctx", {})
    node, depth = find(root, loc)
    where = node.where
    if kind == "missing":
        name = str(loc[-1])
        dotted = f"{node.path}.{name}".lstrip(".")
        return Problem(f"{node.origin} {dotted}", "is missing", _example(name))
    if kind == "extra_forbidden":
        key = str(loc[-1])
        known = _known_keys(top, loc[:-1])
        return Problem(
            f"{node.key_origin} {node.path}", f"unknown key {key!r}", nearest(key, known)
        )
    if depth < len(loc) and not isinstance(node.value, (dict, list)):
        where = node.where  # a short form: the whole value is what was written
    if kind == "value_error":
        cause = context.get("error")
        if isinstance(cause, UnitError):
            inside = cause.problem.where.removeprefix(str(loc[-1]))
            node, _ = find(root, (*loc, *inside.strip(".").split("."))) if inside else (node, 0)
            return Problem(node.where, cause.problem.what, cause.problem.fix)
        return Problem(where, str(cause or detail["msg"]))
    given = _shown(detail["input"])
    if kind == "literal_error":
        values = _literal_values(top, loc)
        if not isinstance(detail["input"], str) or not values:
            return Problem(where, f"{given} is not one of {context.get('expected', '')}")
        fix = nearest(detail["input"], values)
        if not fix.startswith("one of"):
            fix += " (one of: " + ", ".join(values) + ")"
        return Problem(where, f"{given} is not a value of {loc[-1]}", fix)
    if kind in _BOUNDS:
        text, key = _BOUNDS[kind]
        field = str(loc[-1])
        bound = _bound(context[key], field)
        what = text.format(**{key: bound}) + f", is {_quantity(detail['input'], field)}"
        return Problem(where, what, _repair(kind, field, bound))
    if kind in _EXPECTED:
        return Problem(where, f"expected {_EXPECTED[kind]}, found {given}", _example(str(loc[-1])))
    return Problem(where, detail["msg"])


def _example(name: str) -> str:
    if name in EXAMPLES:
        return EXAMPLES[name]
    dimension = units.dimension_of(name)
    return f"{name}: {units.example(dimension)}" if dimension else ""


def _repair(kind: str, field: str, bound: str) -> str:
    dimension = units.dimension_of(field)
    if dimension:
        return units.example(dimension)
    return bound if kind.endswith("_equal") else f"more than {bound}" if kind[0] == "g" else ""


def _bound(value: Any, field: str) -> str:
    return f"{value:g}" if isinstance(value, (int, float)) else str(value)


def _quantity(value: Any, field: str) -> str:
    dimension = units.dimension_of(field)
    if dimension and isinstance(value, (int, float)):
        return units.show(float(value), dimension)
    return _shown(value)


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return "keys and values"
    if isinstance(value, (list, tuple)):
        return "a list"
    if value is None:
        return "nothing"
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _known_keys(top: type[Spec], loc: tuple) -> set[str]:
    """The keys that a mapping at `loc` may have; those of a flat deployment include its pool's."""
    names: set[str] = set()
    for cls in _classes_at(top, loc):
        names |= set(cls.model_fields)
        if loc[:1] == ("deployment",) and loc[-1:] == (0,):
            names |= {"route", "techniques"}
    return names


def _classes_at(top: type[Spec], loc: tuple) -> list[type[Spec]]:
    found: list[Any] = [top]
    for part in loc:
        step: list[Any] = []
        for item in found:
            if isinstance(item, type) and issubclass(item, Spec):
                field = item.model_fields.get(str(part))
                step += _inside(field.annotation) if field else [item]
            else:
                step += [inner for arg in get_args(item) for inner in _inside(arg)]
        found = step
    return [
        c for item in found for c in _inside(item) if isinstance(c, type) and issubclass(c, Spec)
    ]


def _inside(annotation: Any) -> list[Any]:
    """The members of a union or an annotated type; the type itself otherwise."""
    origin = get_origin(annotation)
    if origin in (Union, types.UnionType):
        return [inner for arg in get_args(annotation) for inner in _inside(arg)]
    if origin is Annotated:
        return _inside(get_args(annotation)[0])
    return [annotation]


def _literal_values(top: type[Spec], loc: tuple) -> list[str]:
    """What a field whose type is a choice may hold."""
    values: list[str] = []
    for cls in _classes_at(top, loc[:-1]):
        if field := cls.model_fields.get(str(loc[-1])):
            values += [v for v in _literals(field.annotation) if isinstance(v, str)]
    return values


def _literals(annotation: Any) -> Iterator[Any]:
    for arg in get_args(annotation):
        if isinstance(arg, str):
            yield arg
        else:
            yield from _literals(arg)
