"""What a claim file says: `papers/<key>.yaml`, read strictly, every mistake with its line."""

from __future__ import annotations

import importlib
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, ValidationInfo, WrapValidator, model_validator

from forerun.errors import SpecError, nearest
from forerun.spec import yaml
from forerun.spec.base import Spec
from forerun.spec.bridge import problems_of
from forerun.spec.deployment import Policy

FOLDER = Path(__file__).parent / "papers"
MEASURES = Path(__file__).parent / "measures"

Status = Literal[
    "reproduced", "ratio-only", "input-dependent", "not-reproduced", "not-reproducible-here"
]
#: best first
STATUSES: tuple[Status, ...] = (
    "reproduced", "ratio-only", "input-dependent", "not-reproduced", "not-reproducible-here"
)  # fmt: skip


class Claim(Spec):
    """One published number.  Each measure adds the fields of its own setup (`measures/<name>.py`).

    value, tolerance : the number and how far ours may be from it; `relative` tolerances are shares
    of the value, others are in its unit.
    needs_data : files of the folder of published measurements without which nothing can be checked.
    not_here : why this cannot be reproduced at all; nothing is run then.
    explanation : what we think of the result, for a reader who meets its status.
    """

    name: str
    says: str  # the paper's claim, in one sentence
    where: str  # "figure 5", "table 2", "abstract"
    measure: str  # a file in claims/measures
    value: float
    unit: str = "x"
    tolerance: float = Field(ge=0)
    relative: bool = True
    tolerance_why: str
    technique: Policy  # with the knobs the paper used
    needs_data: tuple[str, ...] = ()
    not_here: str | None = None
    explanation: str = ""

    unitless = frozenset({"unit"})

    def within(self, value: float | None) -> bool:
        """Whether our number is near enough to the published one."""
        if value is None:
            return False
        allowed = self.tolerance * (abs(self.value) if self.relative else 1.0)
        return abs(value - self.value) <= allowed + 1e-12


def _by_measure(data: Any, _handler: Any, info: ValidationInfo) -> Claim:
    """A claim checked by the fields of its measure."""
    if isinstance(data, Claim):
        return data
    name = data.get("measure") if isinstance(data, dict) else None
    if name not in measures():
        fix = nearest(str(name), measures())
        raise ValueError(f"{name!r} is not a measure (try: {fix})")
    return measure(str(name)).Claim.model_validate(data, context=info.context)


class Paper(Spec):
    """A published system and what it claims."""

    paper: str  # the key: the name of this file
    title: str
    version: str
    url: str
    read_in: str  # where the numbers were read
    technique: str
    claims: tuple[Annotated[Claim, WrapValidator(_by_measure)], ...]

    @model_validator(mode="after")
    def _names_differ(self) -> Paper:
        if not self.claims:
            raise ValueError("there is no claim (try: claims: [...])")
        seen = [claim.name for claim in self.claims]
        for name in seen:
            if seen.count(name) > 1:
                raise ValueError(f"two claims are called {name!r} (try: another name)")
        return self


def names() -> tuple[str, ...]:
    """Keys of the papers that have claims here; nothing is parsed."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.yaml")))


def measures() -> tuple[str, ...]:
    """The kinds of numbers that can be measured."""
    return tuple(sorted(path.stem for path in MEASURES.glob("[a-z]*.py")))


def measure(name: str) -> ModuleType:
    """The module of a measure: its `Claim` and `measure(claim, how) -> Found`."""
    return importlib.import_module(f"forerun.claims.measures.{name}")


def load(paper: str | Path) -> Paper:
    """The claims of a paper by its key, or those in a file.

    Raises SpecError with the nearest keys, or with every mistake of the file and its line.
    """
    path = paper if isinstance(paper, Path) else FOLDER / f"{paper}.yaml"
    if not isinstance(paper, Path) and paper not in names():
        raise SpecError.one(f"paper {paper!r}", "has no claims here", nearest(paper, names()))
    return _load(path)


@cache
def _load(path: Path) -> Paper:
    text, name = yaml.read_text(path)
    root = yaml.parse(text, name)
    try:
        found = Paper.model_validate(root.plain(), context={"file": True})
    except ValidationError as error:
        raise SpecError(*problems_of(error, root, Paper)) from None
    if found.paper != path.stem:
        what = f"says it is {found.paper!r}"
        raise SpecError.one(f"{name} paper", what, f"paper: {path.stem}")
    return found
