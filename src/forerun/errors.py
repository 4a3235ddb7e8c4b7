"""Every mistake a user can make ends in one of these: where, what is wrong, what would fix it.

The library raises; only the CLI prints and exits.  One `ForerunError` carries all problems that
were found in one go.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong."""

    where: str  # "forerun.yaml:12:7 deployment.tp", "trace.csv:33", "--rate"
    what: str
    fix: str = ""

    def __str__(self) -> str:
        return f"{self.where}: {self.what}" + (f"\n  try: {self.fix}" if self.fix else "")


class ForerunError(Exception):
    """Base of all expected errors.  `exit_code` is what the CLI exits with."""

    exit_code = 2

    def __init__(self, *problems: Problem) -> None:
        self.problems = problems
        super().__init__("\n".join(str(p) for p in problems))

    @classmethod
    def one(cls, where: str, what: str, fix: str = "") -> Self:
        return cls(Problem(where, what, fix))


class SpecError(ForerunError):
    """A description that is wrong or contradicts itself."""


class ShapeError(SpecError):
    """An operator or a parallel layout whose sizes do not fit together."""


class TraceError(SpecError):
    """A workload file that cannot be read as it is."""


class PolicyError(SpecError):
    """A policy that cannot be found or compiled, or that returned an impossible choice."""


class Infeasible(ForerunError):
    """Nothing meets the goals; the problems name the binding constraint."""

    exit_code = 3


class MissingDependency(ForerunError):
    """An optional package or piece of hardware is not here."""

    exit_code = 5


def nearest(name: str, known: Iterable[str]) -> str:
    """The hint for a name that is not known: "did you mean ...?", or all names when few."""
    known = sorted(known)
    close = difflib.get_close_matches(name.lower(), known, n=3, cutoff=0.5)
    if close:
        return "did you mean " + " or ".join(close) + "?"
    return "one of: " + ", ".join(known) if len(known) <= 12 else f"one of {len(known)} names"
