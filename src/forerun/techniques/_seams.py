"""What a technique may change: the seams, as types that hold work and decisions but no times.

Of the nine seams of the design these are open today:

    deployment   settings and policies by name: batch, order, admit, preempt, route, placement of
                 pools; a policy of its own is a file in sim/policies/<kind>/
    rewrite      Graph -> Graph, a pool at a time, before it is priced: operators added, taken away
                 or with other shapes and formats
    price        further work of a step that no operator stands for

The others become fields of `Edit` when the core that reads them exists, and `compose` folds them
like these: kv (footprint, bytes read, fetch, evict, reuse), place, draw (random processes),
schedule (training, checkpoints), scale and power.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from forerun.cost.efficiency import efficiency
from forerun.cost.energy import power
from forerun.cost.generic import peak_flop_per_s
from forerun.cost.table import CostTable, Work
from forerun.errors import Problem, SpecError
from forerun.ops.graph import Graph
from forerun.spec.deployment import Deployment, Pool
from forerun.spec.device import Device

Value = float | str


@dataclass(frozen=True)
class Knob:
    """One setting of a technique.

    neutral : the value at which the technique changes nothing at all.
    low, high : bounds of a number, both allowed; choices : the words of a knob that is not one.
    """

    default: Value
    neutral: Value
    meaning: str
    unit: str = ""
    low: float = -np.inf
    high: float = np.inf
    whole: bool = False
    choices: tuple[str, ...] = ()

    def problem(self, where: str, value: Value) -> Problem | None:
        """What is wrong with a value, if anything."""
        if self.choices:
            if value in self.choices:
                return None
            return Problem(
                where, f"{value!r} is not a choice", "one of: " + ", ".join(self.choices)
            )
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return Problem(where, f"{value!r} is not a number", f"{where}: {self.default:g}")
        if not np.isfinite(value):
            return Problem(where, f"{value:g} is not a finite number", f"{where}: {self.default:g}")
        if self.whole and value != round(value):
            return Problem(where, f"{value:g} is not a whole number", f"{where}: {round(value)}")
        if not self.low <= value <= self.high:
            what = f"{value:g} {self.unit}".strip() + f" is not from {self.low:g} to {self.high:g}"
            return Problem(where, what, f"{where}: {self.default:g}")
        return None


@dataclass(frozen=True, eq=False)
class Extra:
    """Further work of a step on one part of the cost table, for each device of a replica.

    flop, hbm_bytes : float arrays that broadcast to the part's array in `CostTable.time_s`
    (tokens [G_T], seqs [G_S], decode [B+1, K_c], prefill [G_T, K_p]), none negative; kernels is how
    many are launched in a step that has any of it.  Work is taken away by rewriting the graph.
    """

    part: Literal["tokens", "seqs", "decode", "prefill"]
    flop: np.ndarray | float = 0.0
    hbm_bytes: np.ndarray | float = 0.0
    kernels: float = 0.0


Rewrite = Callable[[Graph, Pool], Graph]
Price = Callable[[CostTable, Graph, Pool], Sequence[Extra]]


@dataclass(frozen=True, eq=False)
class Edit:
    """What one technique changes."""

    deployment: Deployment
    rewrite: Rewrite | None = None
    price: Price | None = None


def add_work(table: CostTable, extras: Sequence[Extra], graph: Graph, device: Device) -> CostTable:
    """The table with further work in it, timed by the device's roofline:

        time = pp * (max(flop / sustained rate, bytes / sustained bandwidth) + kernels * launch)

    Raises SpecError for negative work.
    """
    eff = efficiency(device)
    rate, stream = (
        peak_flop_per_s(device, graph.math) * eff.gemm,
        device.hbm_bytes_per_s * eff.gather,
    )
    watts = power(device)
    works = {name: getattr(table, name) for name in ("time_s", "flop", "hbm_bytes", "energy_j")}
    for extra in extras:
        if np.any(np.asarray(extra.flop) < 0) or np.any(np.asarray(extra.hbm_bytes) < 0):
            what = f"a technique adds negative work to `{extra.part}`"
            raise SpecError.one("techniques.price", what, "take work away by rewriting the graph")
        shape = getattr(table.time_s, extra.part).shape
        flop, moved = (np.broadcast_to(x, shape) for x in (extra.flop, extra.hbm_bytes))
        runs = (flop > 0) | (moved > 0)
        time = np.maximum(flop / rate, moved / stream)
        time = time + extra.kernels * eff.launch_s * runs
        joule = watts.dynamic_j(flop, moved, 0.0, time, graph.math)
        n = table.n_devices
        added = {
            "time_s": time * graph.pp, "flop": flop * n, "hbm_bytes": moved * n,
            "energy_j": joule * n,
        }  # fmt: skip
        works = {name: _plus(work, extra.part, added[name]) for name, work in works.items()}
    return replace(table, **works) if extras else table


def _plus(work: Work, part: str, more: np.ndarray) -> Work:
    return replace(work, **{part: getattr(work, part) + more})


def check_knobs(
    technique: str, knobs: Mapping[str, Knob], given: Mapping[str, Value]
) -> dict[str, Value]:
    """All knobs, the given ones in place of the defaults.  Raises SpecError with every mistake."""
    from forerun.errors import nearest

    problems = []
    for name, value in given.items():
        where = f"technique {technique}.{name}"
        if name not in knobs:
            problems.append(Problem(where, "there is no such knob", nearest(name, knobs)))
        elif (found := knobs[name].problem(where, value)) is not None:
            problems.append(found)
    if problems:
        raise SpecError(*problems)
    return {name: given.get(name, knob.default) for name, knob in knobs.items()}
