"""Rows of the engines for pools at a lower clock: the dial that a power policy turns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from forerun import catalog
from forerun.cost.clocked import at_clock
from forerun.cost.power_cap import lowest
from forerun.sim.control.dials import keys, varied
from forerun.sim.setup import Served
from forerun.spec.power import RowPower

DIAL = "power"


def fed(row: RowPower, pools: Sequence[Served]) -> list[int]:
    """The pools of a row that have replicas, by number."""
    return [
        p for p, served in enumerate(pools)
        if served.pool.replicas > 0 and (not row.pools or served.pool.name in row.pools)
    ]  # fmt: skip


def with_levels(pools: Sequence[Served], row: RowPower | None) -> list[Served]:
    """The rows, then each of them at each lower level of power of those that the row feeds."""
    if row is None or row.policy.name == "watch":
        return list(pools)
    chosen, homes = set(fed(row, pools)), [home for home, _ in keys(pools)]
    turn = {pools[p].group for p in chosen} - {None}
    chosen |= {p for p, served in enumerate(pools) if served.group in turn}
    chosen |= {
        behind for p in chosen for behind in (pools[p].encoder, pools[p].shows, _branch(pools[p]))
    }
    mine = {id(served) for served, home in zip(pools, homes, strict=True) if home in chosen}

    def at(k: int, served: Served) -> Served | None:
        return at_level(served, row.levels[k]) if id(served) in mine else None

    ways: dict[int, Callable[[Served], Served | None]]
    ways = {k: partial(at, k) for k in range(1, len(row.levels))}
    return varied(pools, DIAL, ways)


def _branch(served: Served) -> int:
    """The row that prices its ControlNets; -1 where it has none."""
    return served.branch.row if served.branch is not None else -1


def at_level(served: Served, level: float) -> Served:
    """A pool of no replicas whose devices run at a share of their highest clock, or lower where the
    pool's own clock is; its cap holds."""
    clock, cap_w = setting(served)
    if level >= clock:
        table = served.table
    else:
        held = None if served.waits is None else served.waits.step_s
        device = catalog.device(served.pool.device)
        table = at_clock(served.table, device, max(level, lowest(device)), cap_w, held_s=held)
    update = {"replicas": 0, "name": f"{served.pool.name} at {level:g}", "autoscale": None}
    return replace(served, pool=served.pool.model_copy(update=update), table=table)


def setting(served: Served) -> tuple[float, float | None]:
    """(clock as a share of the highest, cap of a device) that a pool has of its own."""
    said, device = served.pool.power, catalog.device(served.pool.device)
    if said is None:
        return 1.0, None
    clock = 1.0
    if said.clock_hz is not None and device.clock_hz is not None:
        clock = said.clock_hz / device.clock_hz
    return clock, said.cap_w
