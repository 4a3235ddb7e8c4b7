"""`as_yaml`: a case as a file that reads back to the same case."""

from __future__ import annotations

import io
from typing import Any

from forerun import units
from forerun.spec.base import Spec
from forerun.spec.case import Case


def as_yaml(case: Case) -> str:
    """The case as YAML, quantities in SI units, values left at their defaults left out."""
    from ruamel.yaml import YAML

    body = io.StringIO()
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    yaml.dump(_plain(case), body)
    return "# written by forerun plan\n" + body.getvalue()


def _plain(value: Any) -> Any:
    if isinstance(value, Spec):
        out = {}
        for name, field in type(value).model_fields.items():
            inner = getattr(value, name)
            if inner is None or (not field.is_required() and inner == field.get_default(
                call_default_factory=True)):  # fmt: skip
                continue
            dimension = None if name in value.unitless else units.dimension_of(name)
            out[name] = _quantity(inner, dimension) if dimension else _plain(inner)
        return out
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    return value


def _quantity(value: float, dimension: str) -> str:
    unit = next(name for name, factor in units.UNITS[dimension].items() if factor == 1.0)
    return f"{value!r} {unit}"
