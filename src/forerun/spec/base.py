"""`Spec`: the frozen, strict base of every description.

A field's unit is the suffix of its name; strings with units are parsed on the way in.  In a file a
bare number in such a field is an error (validation context `{"file": True}`), in Python it is SI.
"""

from __future__ import annotations

import functools
import hashlib
import json
from typing import Any, ClassVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError, ValidationInfo, model_validator
from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError
from pydantic_core.core_schema import ErrorType

from forerun import units
from forerun.errors import Problem, SpecError


class Spec(BaseModel):
    """Frozen, keyword-only, unknown keys refused, hashable."""

    model_config = ConfigDict(
        defer_build=True,  # a command pays for the descriptions it uses
        frozen=True,
        extra="forbid",
        allow_inf_nan=True,
        ser_json_inf_nan="strings",
    )

    #: the content hash once it was asked for: a slot, which no copy takes along
    __slots__ = ("_hashed",)

    def content_hash(self) -> str:
        """Sixteen hex digits that change when any field does; the key of every cache."""
        known: str | None = getattr(self, "_hashed", None)
        if known is None:
            canonical = json.dumps(self.model_dump(mode="json"), sort_keys=True)
            known = hashlib.sha256(canonical.encode()).hexdigest()[:16]
            object.__setattr__(self, "_hashed", known)
        return known

    def __hash__(self) -> int:
        return hash((type(self).__name__, self.content_hash()))

    #: fields whose name ends like a unit but that carry none
    unitless: ClassVar[frozenset[str]] = frozenset()

    @model_validator(mode="wrap")
    @classmethod
    def _parse_units(cls, data: Any, validate: Any, info: ValidationInfo) -> Any:
        if not isinstance(data, dict):
            return validate(data)
        in_file = bool(info.context and info.context.get("file"))
        out = dict(data)
        wrong: list[InitErrorDetails] = []
        for name in [key for key in out if key in cls.model_fields]:
            dimension = None if name in cls.unitless else _dimension_of(name)
            if not dimension:
                continue
            try:
                out[name] = _parse(out[name], dimension, name, in_file)
            except UnitError as error:
                custom = PydanticCustomError("value_error", "{error}", {"error": error})
                wrong.append(InitErrorDetails(type=custom, loc=(name,), input=data[name]))
                del out[name]
        if not wrong:
            return validate(out)
        # the other fields are still checked, so that all mistakes are reported at once
        try:
            validate(out)
        except ValidationError as error:
            ours = {detail["loc"] for detail in wrong}
            wrong += [_again(d) for d in error.errors() if d["loc"] not in ours]
        raise ValidationError.from_exception_data(cls.__name__, wrong)


def _again(detail: ErrorDetails) -> InitErrorDetails:
    """A reported error as one that can be raised again."""
    kind: Any = detail["type"]
    if kind not in _PYDANTIC_ERRORS:
        kind = PydanticCustomError(kind, detail["msg"], detail.get("ctx"))
    again = InitErrorDetails(type=kind, loc=detail["loc"], input=detail["input"])
    return again | {"ctx": detail["ctx"]} if "ctx" in detail else again


_PYDANTIC_ERRORS = frozenset(get_args(ErrorType))
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
