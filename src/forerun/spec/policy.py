"""`Policy`: something that decides, by name and with its knobs."""

from __future__ import annotations

from pydantic import model_validator

from forerun.spec.base import Spec


class Policy(Spec):
    """A policy by name (a file in `sim/policies/<kind>/`, or `path/to/file.py:function`)."""

    name: str
    params: dict[str, float] = {}

    @model_validator(mode="before")
    @classmethod
    def _plain_name(cls, data):
        return {"name": data} if isinstance(data, str) else data
