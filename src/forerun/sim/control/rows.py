"""Rows of the engines for replicas at a lower clock or slowed by a fault, and who runs which.

Two things change what a replica runs and may do so at once: the worst fault that holds, and the
level of power that its pool was told.  Each keeps its own coordinate; the row is that of both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from forerun import catalog
from forerun.cost.clocked import at_clock
from forerun.cost.power_cap import lowest
from forerun.sim.control.hardware import Hardware
from forerun.sim.control.slow import factors, slower
from forerun.sim.setup import Served
from forerun.spec.control import Fault
from forerun.spec.power import RowPower

Key = tuple[int, float, int]  # (pool, slowed by, level)


def fed(row: RowPower, pools: Sequence[Served]) -> list[int]:
    """The pools of a row that have replicas, by number."""
    return [
        p for p, served in enumerate(pools)
        if served.pool.replicas > 0 and (not row.pools or served.pool.name in row.pools)
    ]  # fmt: skip


def with_rows(
    pools: Sequence[Served], faults: Sequence[Fault] = (), row: RowPower | None = None
) -> list[Served]:
    """The pools, then every other row that faults and levels of power can ask for.

    Where an encoder runs in front of a model, its row is slowed and clocked with the model's.
    """
    known: dict[tuple[int, int], Served] = {}
    out = list(pools)
    order = keys(pools, faults, row)
    number = {key: n for n, key in enumerate(order, start=len(pools))}
    for p, factor, k in order:
        if (p, k) not in known:
            known[p, k] = at_level(pools[p], row.levels[k]) if row is not None and k else pools[p]
        served = known[p, k]
        if served.encoder >= 0:
            served = replace(served, encoder=number[pools[p].encoder, factor, k])
        out.append(served if factor == 1 else slower(served, factor))
    return out


def keys(pools: Sequence[Served], faults: Sequence[Fault], row: RowPower | None) -> list[Key]:
    """What each further row is for, in their order; pools : those of the deployment, and the rows
    of no replicas that stand behind them."""
    slow = [(p, f, 0) for p in range(len(pools)) for f in factors(faults)]
    if row is None or row.policy.name == "watch":
        return slow
    levels, chosen = range(1, len(row.levels)), set(fed(row, pools))
    chosen |= {pools[p].encoder for p in chosen}
    bases = [*((p, 1.0, 0) for p in range(len(pools))), *slow]
    return [*slow, *((p, f, k) for p, f, _ in bases if p in chosen for k in levels)]


def n_before(pools: Sequence[Served], faults: Sequence[Fault], row: RowPower | None) -> int:
    """How many of the rows of `with_rows` stood there before it."""
    n = len(pools)
    while n + len(keys(pools[:n], faults, row)) > len(pools):
        n -= 1
    return n


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
    return replace(
        served, pool=served.pool.model_copy(update=update), table=table, group=None, course=None,
        levels=(),
    )  # fmt: skip


def setting(served: Served) -> tuple[float, float | None]:
    """(clock as a share of the highest, cap of a device) that a pool has of its own."""
    said, device = served.pool.power, catalog.device(served.pool.device)
    if said is None:
        return 1.0, None
    clock = 1.0
    if said.clock_hz is not None and device.clock_hz is not None:
        clock = said.clock_hz / device.clock_hz
    return clock, said.cap_w


class Rows:
    """Which row each unit runs, by all that holds of it.  Legend: u unit, p pool, k level."""

    def __init__(
        self, hardware: Hardware, faults: Sequence[Fault] = (), row: RowPower | None = None
    ) -> None:
        self.hardware = hardware
        pools = hardware.server.pools
        n_own = n_before(pools, faults, row)
        more = enumerate(keys(pools[:n_own], faults, row), start=n_own)
        self.number = {(p, 1.0, 0): p for p in range(n_own)} | {key: n for n, key in more}
        self.factor = [1.0] * len(hardware.units)
        self.level = [0] * n_own

    def slow(self, u: int, factor: float, now_s: float) -> None:
        """Unit u runs slower by a factor from now on."""
        self.factor[u] = factor
        self._order(u, now_s)

    def set_level(self, p: int, k: int, now_s: float) -> None:
        """Pool p runs at a level of power from now on."""
        self.level[p] = k
        for u in range(len(self.hardware.units)):
            if self.hardware.pool[u] == p:
                self._order(u, now_s)

    def _order(self, u: int, now_s: float) -> None:
        p = int(self.hardware.pool[u])
        row = self.number[p, self.factor[u], self.level[p]]
        for i in self.hardware.lanes(u):
            self.hardware.server.command(now_s, "switch", i, row)
