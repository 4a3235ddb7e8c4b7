"""Rows of the engines for replicas that run slower than their pool: no replicas of their own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace

from forerun.cost.table import CostTable, Work
from forerun.sim.setup import Served
from forerun.spec.control import Fault


def factors(faults: Sequence[Fault]) -> list[float]:
    """By how much faults slow replicas down, each once."""
    return sorted({f.factor for f in faults if f.effect == "slow" and f.factor > 1})


def slower(served: Served, factor: float) -> Served:
    """A pool of no replicas whose steps take `factor` times as long on the device, and as much work
    and energy above idle; host time stays."""
    pool = served.pool.model_copy(
        update={"replicas": 0, "name": f"{served.pool.name} x {factor:g}", "autoscale": None}
    )
    return replace(served, pool=pool, table=stretched(served.table, factor), group=None)


def stretched(table: CostTable, factor: float) -> CostTable:
    """The same work in `factor` times the time."""
    time = table.time_s
    longer = Work(**{f.name: getattr(time, f.name) * factor for f in fields(Work)})
    mixed = None if table.mixed_decode is None else table.mixed_decode * factor
    return replace(
        table, time_s=longer, mixed_decode=mixed,
        mixed_cross_s=table.mixed_cross_s * factor,
    )  # fmt: skip
