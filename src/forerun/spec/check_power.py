"""What contradicts itself in clocks, caps and budgets, told before a run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

from forerun.errors import Problem, nearest
from forerun.spec.deployment import Deployment, Pool
from forerun.spec.power import RowPower

Sentences = Iterator[tuple[str, str, str]]  # (where, what is wrong, what would mend it)


def check_power(deployment: Deployment) -> list[Problem]:
    """Everything that is wrong with a deployment's power, short of what its devices can do."""
    row = deployment.power
    if row is None:
        return []
    found = [*check_row(row), *check_fed(row, deployment.pools)]
    return [Problem(f"deployment.power.{where}", what, fix) for where, what, fix in found]


def check_row(row: RowPower) -> Sentences:
    """Levels, budgets and times of one row."""
    levels = row.levels
    if not levels or levels[0] != 1 or any(a <= b for a, b in pairwise(levels)):
        yield "levels", f"{list(levels)} do not fall from 1", "levels: [1.0, 0.8, 0.6, 0.3]"
    elif levels[-1] <= 0:
        yield "levels", f"{levels[-1]:g} is no clock", "levels: [1.0, 0.8, 0.6, 0.3]"
    if row.gco2e_per_h is not None and not row.carbon:
        what = "grams an hour are no watts without the carbon of the grid"
        yield "carbon", what, "carbon: [{at_s: 0 h, intensity_gco2e_per_kwh: 300 gCO2e/kWh}]"
    for name in ("budgets", "carbon"):
        yield from check_course(row, name)
    budget = row.budget_w is not None or row.budgets or row.gco2e_per_h is not None
    if row.policy.name in ("row_budget", "fixed_cap") and not budget:
        yield "budget_w", f"is missing ({row.policy.name} keeps to it)", "budget_w: 10 kW"
    if row.policy.name == "slack" and row.tpot_s is None:
        yield "tpot_s", "is missing (slack is what is left of it)", "tpot_s: 50 ms"
    if row.trip_s is not None and not budget:
        yield "trip_s", "nothing trips without a budget", "budget_w: 10 kW"
    if row.repeat_s is not None and not row.budgets and not row.carbon:
        yield "repeat_s", "nothing repeats", "budgets or carbon with a time of day"


def check_course(row: RowPower, name: str) -> Sentences:
    """A course begins at 0, goes on, and ends within its day."""
    times = [one.at_s for one in getattr(row, name)]
    if not times:
        return
    if times[0] != 0:
        what = f"begins at {times[0]:g} s: what holds before is not said"
        yield f"{name}.0.at_s", what, "at_s: 0 h"
    for k, (a, b) in enumerate(pairwise(times)):
        if b <= a:
            yield f"{name}.{k + 1}.at_s", f"{b:g} s is not after {a:g} s", "times in order"
    if row.repeat_s is not None and times[-1] >= row.repeat_s:
        what = f"{times[-1]:g} s lies beyond the {row.repeat_s:g} s after which it repeats"
        yield f"{name}.{len(times) - 1}.at_s", what, "a time within repeat_s"


def check_fed(row: RowPower, pools: Sequence[Pool]) -> Sentences:
    """Whom the row feeds, and whether their rows are free to be switched."""
    names = [pool.name for pool in pools]
    for name in row.pools:
        if name not in names:
            yield "pools", f"no pool is called {name!r}", nearest(name, names)
    if row.policy.name == "watch":
        return
    for pool in pools:
        if row.pools and pool.name not in row.pools:
            continue
