"""`Spec`: the frozen, strict base of every description.

A field's unit is the suffix of its name; strings with units are parsed on the way in.  In a file a
bare number in such a field is an error (validation context `{"file": True}`), in Python it is SI.
"""

from __future__ import annotations

import functools
import hashlib
import json
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator

from forerun import units
from forerun.errors import Problem, SpecError


class Spec(BaseModel):
    """Frozen, keyword-only, unknown keys refused, hashable."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=True, ser_json_inf_nan="strings"
    )

    def content_hash(self) -> str:
        """Sixteen hex digits that change when any field does; the key of every cache."""
        canonical = json.dumps(self.model_dump(mode="json"), sort_keys=True)
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]

    def __hash__(self) -> int:
        return hash((type(self).__name__, self.content_hash()))

    #: fields whose name ends like a unit but that carry none
    unitless: ClassVar[frozenset[str]] = frozenset()

    # one validator a field, not one a model: every wrong unit is reported, each at its own place
    @field_validator("*", mode="before")
    @classmethod
    def _parse_units(cls, value: Any, info: ValidationInfo) -> Any:
        name = info.field_name or ""
        dimension = None if name in cls.unitless else _dimension_of(name)
        if not dimension:
            return value
        return _parse(value, dimension, name, bool(info.context and info.context.get("file")))


_dimension_of = functools.cache(units.dimension_of)


class UnitError(ValueError):
    """A quantity that cannot be read; `problem.where` is the field, with the key inside it."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        super().__init__(f"{problem.what} (try: {problem.fix})")


def _parse(value: Any, dimension: str, where: str, in_file: bool) -> Any:
    if isinstance(value, dict):
        return {k: _parse(v, dimension, f"{where}.{k}", in_file) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return tuple(_parse(v, dimension, f"{where}[{i}]", in_file) for i, v in enumerate(value))
    try:
        if isinstance(value, str):
            return units.parse(value, dimension, where=where)
        if in_file and isinstance(value, (int, float)) and not isinstance(value, bool) and value:
            return units.parse(repr(value), dimension, where=where)  # raises, naming the repair
    except SpecError as error:
        raise UnitError(error.problems[0]) from None
    return value
