"""`fit`: does a model fit on a device, what does it leave for context, and what would help."""

from __future__ import annotations

from dataclasses import dataclass

from forerun.cost.memory import Memory, memory, repairs, smallest_tp
from forerun.errors import Problem, ShapeError
from forerun.ops.check import check_parallel, notes_parallel
from forerun.ops.lower import lower
from forerun.spec.deployment import Pool
from forerun.spec.device import Device
from forerun.spec.model import Model

#: contexts for which a fit states the concurrency, with the longest possible beside them
CONTEXTS = (1024, 8192, 32768)


@dataclass(frozen=True)
class Fit:
    """An answer to "will it fit": `memory` is None when the layout itself is impossible."""

    model: str
    device: str
    pool: Pool
    params: float  # of the whole model, counted
    memory: Memory | None
    problems: tuple[Problem, ...]
    smallest_tp: int | None  # that fits in one domain with the pool's formats
    suggestions: tuple[str, ...]
    assumed: tuple[str, ...]

    @property
    def fits(self) -> bool:
        return not self.problems

    @property
    def max_context(self) -> int:
        return self.memory.max_context if self.memory else 0

    def concurrency(self) -> dict[int, int]:
        """Requests at once by context: the usual contexts below the longest, and the longest."""
        if self.memory is None or not self.max_context:
            return {}
        some = [c for c in CONTEXTS if c < self.max_context]
        return {c: self.memory.max_concurrency(c) for c in (*some, self.max_context)}


def fit(model: Model, device: Device, *, pool: Pool | None = None) -> Fit:
    """Whether a pool's replica of a model fits on a device, and what would make it.

    pool : default one device with the default engine.  Never raises for a layout that is wrong: the
    problems are in the answer, with their repairs.
    """
    pool = pool or Pool(device=device.name)
    problems = check_parallel(model, pool, device)
    found = None
    if not problems:
        try:
            found = memory(model, pool, device)
            problems = list(found.problems)
        except ShapeError as error:
            problems = list(error.problems)
    suggestions = tuple(repairs(model, pool, device)) if problems else ()
    notes = notes_parallel(model, pool, device)
    whole = lower(model, Pool(device=device.name))
    return Fit(
        model=model.name, device=device.name, pool=pool, params=whole.params(), memory=found,
        problems=tuple(problems), smallest_tp=smallest_tp(model, pool, device),
        suggestions=suggestions,
        assumed=tuple(dict.fromkeys((*whole.assumed, *notes, *(found.assumed if found else ())))),
    )  # fmt: skip
