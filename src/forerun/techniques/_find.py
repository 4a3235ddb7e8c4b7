"""Techniques by name (the file in this folder) or by value (a module of the same make)."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from forerun.errors import SpecError, nearest
from forerun.spec.case import Case
from forerun.spec.deployment import Deployment
from forerun.techniques._seams import Edit, Knob, Value, check_knobs

_FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Technique:
    """A published idea, ready to be applied."""

    name: str
    doc: str
    papers: tuple[str, ...]
    knobs: Mapping[str, Knob]
    conflicts: Mapping[str, str]  # another technique -> why not both
    needs: Callable[[Case], list[str]]  # why the regime does not apply to a case and its deployment
    baseline: Callable[[Deployment], Deployment]
    edit: Callable[..., Edit]

    @property
    def does(self) -> str:
        """What it does, in one sentence."""
        return self.doc.strip().partition("\n")[0]

    @property
    def neutral(self) -> dict[str, Value]:
        return {name: knob.neutral for name, knob in self.knobs.items()}

    def apply(self, deployment: Deployment, **knobs: Value) -> Edit:
        """Its change to a deployment.  Raises SpecError for a knob that is unknown or out of
        bounds, or a deployment it cannot change."""
        return self.edit(deployment, **check_knobs(self.name, self.knobs, knobs))


def names() -> tuple[str, ...]:
    """The techniques that ship with Forerun; nothing is imported."""
    return tuple(sorted(p.stem for p in _FOLDER.glob("[a-z]*.py")))


@cache
def find(technique: str | ModuleType) -> Technique:
    """The technique of that name, or of a module that holds one.

    Raises SpecError with the nearest names when there is none.
    """
    if isinstance(technique, ModuleType):
        return _from(technique, technique.__name__.rpartition(".")[2])
    if technique not in names():
        what = "is not known"
        raise SpecError.one(f"technique {technique!r}", what, nearest(technique, names()))
    return _from(importlib.import_module(f"forerun.techniques.{technique}"), technique)


def _from(module: ModuleType, name: str) -> Technique:
    parts = ("PAPERS", "KNOBS", "CONFLICTS", "needs", "baseline", "edit")
    missing = [part for part in parts if not hasattr(module, part)]
    if missing:
        what = f"its file does not define {', '.join(missing)}"
        raise SpecError.one(f"technique {name}", what, "see forerun/techniques/__init__.py")
    found: dict[str, Any] = {part.lower(): getattr(module, part) for part in parts}
    return Technique(name=name, doc=module.__doc__ or "", **found)
