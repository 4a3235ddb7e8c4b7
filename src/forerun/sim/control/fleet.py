"""What a controller sees of a fleet at a moment; the same whether steps are leapt over or taken.

Legend: u unit: one replica with all its pipeline stages, which the core runs as `pp` replicas, or
with its two lanes, one for prompts and one for answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from forerun.sim.control import peek
from forerun.sim.core.signatures import OUTSTANDING, RUNNING, WAITING_REQUESTS
from forerun.sim.log import UP
from forerun.sim.serve import PS, Server
from forerun.sim.setup import Served


@dataclass(frozen=True)
class Unit:
    """One replica: its rows in the core, its pool, its number within it, and as what it begins.

    Rows of models that take turns are one pool, the first of them; its replicas begin with one
    after another.  Of lanes for prompts and answers that for answers comes first: it is there when
    prompts come.
    """

    lanes: tuple[int, ...]
    pool: int
    number: int
    row: int


def units_of(server: Server) -> tuple[Unit, ...]:
    """Every replica that there is room for, row by row."""
    out, first = [], 0
    pool_of = pools_of(server.pools)
    partner = np.array(server._state.replicas["partner"])
    for p, served in enumerate(server.pools):
        rows = [q for q, pool in enumerate(pool_of) if pool == pool_of[p]]
        counts = [server.pools[q].pool.replicas for q in rows]
        at = rows.index(p)
        for n in range(served.pool.replicas):
            # round after round, those of each model that has so many
            before = sum(min(own, n) for own in counts) + sum(own > n for own in counts[:at])
            lanes = tuple(range(first, first + served.pool.pp))
            first += served.pool.pp
            if served.block is not None:
                lanes = (int(partner[lanes[0]]), *lanes)
            if not is_other_lane(served):
                out.append(Unit(lanes, pool_of[p], before, p))
    return tuple(out)


def is_other_lane(served: Served) -> bool:
    """Whether the replicas of a row are parts of those of another one: answers beside prompts."""
    return served.block is not None and served.pool.role == "decode"


def takes_as(served: Served) -> str:
    """The role in which the units of a pool take requests: those of two lanes do all."""
    return served.pool.role if served.block is None else "both"


def pools_of(pools: Sequence[Served]) -> list[int]:
    """By row the pool it belongs to: itself, or the first row of models that take turns."""
    first: dict[Any, int] = {}
    return [
        p if served.group is None else first.setdefault(served.group, p)
        for p, served in enumerate(pools)
    ]


@dataclass(frozen=True, eq=False)
class Fleet:
    """All units at `time_s`; arrays are [units] and sums over a unit's lanes."""

    time_s: float
    state: np.ndarray
    waiting: np.ndarray  # requests
    running: np.ndarray
    outstanding: np.ndarray
    kv_blocks: np.ndarray  # in use
    kv_capacity: np.ndarray
    busy_s: np.ndarray  # in steps since the start, on average over its lanes
    idle_s: np.ndarray  # since the last step ended; 0 while in one
    held: np.ndarray  # [2, models] requests that wait in front: without KV, with a computed prompt
    server: Server

    @property
    def n_held(self) -> int:
        """Requests that wait in front of the fleet."""
        return int(self.held.sum())

    def held_for(self, role: str) -> np.ndarray:
        """Those that a pool of a role could take: int64 [models]."""
        return self.held[int(role == "decode") : 1 + int(role in ("both", "decode"))].sum(axis=0)

    @cached_property
    def arrived(self) -> np.ndarray:
        """Requests that have reached the front so far: int64 [models]."""
        return peek.arrived(self.server)

    @cached_property
    def ended(self) -> np.ndarray:
        """Rows of DONE of the requests that have ended so far, in no order."""
        return peek.ended_rows(self.server)


def look(server: Server, units: Sequence[Unit], state: np.ndarray) -> Fleet:
    """The fleet as it is now.  state : int64 [units]."""
    now = server._state
    clock, replicas, load = now.clock[0], now.replicas, now.load
    own = np.array(replicas["memory"]) == np.arange(len(replicas))  # two lanes have one
    in_step = replicas["n_steps"] > 0
    since = np.where(in_step, clock.now_ps - replicas["start_ps"], 0)
    idle = np.where(in_step, 0, clock.now_ps - replicas["ended_ps"])

    def total(values: Any) -> np.ndarray:
        return over_units(np.add, values, units)

    return Fleet(
        time_s=int(clock.now_ps) / PS,
        state=state.copy(),
        waiting=total(load[WAITING_REQUESTS]),
        running=total(load[RUNNING]),
        outstanding=total(load[OUTSTANDING]),
        kv_blocks=total(peek.blocks_in_use(server) * own),
        kv_capacity=total(now.engines["n_blocks"][replicas["pool"]] * own),
        busy_s=total(now.totals["busy_ps"] + since) / PS / total(np.ones(len(replicas))),
        idle_s=over_units(np.minimum, idle, units) / PS,
        held=peek.held(server),
        server=server,
    )


def over_units(how: np.ufunc, values: Any, units: Sequence[Unit]) -> np.ndarray:
    """Values of the core's replicas put together (np.add, np.minimum) for each unit."""
    lanes = [i for unit in units for i in unit.lanes]
    sizes = [len(unit.lanes) for unit in units]
    first = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    return how.reduceat(np.asarray(values)[lanes], first)


class PoolView:
    """One pool as a scale rule sees it.

    shares : float64 [models], its part of the requests in front for each model.
    time_s, elapsed_s : now, and since the last look.      cold_s : what a start takes.
    wanted : replicas rented or being rented, as last decided.
    idle_s : float64 [replicas up], since each last did something; 0 while it works.
    """

    def __init__(
        self, now: Fleet, before: Fleet, mine: np.ndarray, shares: np.ndarray, wanted: int,
        cold_s: float,
    ) -> None:  # fmt: skip
        self.now, self.before, self.mine, self.shares = now, before, mine, shares
        self.wanted, self.cold_s = wanted, cold_s

    @property
    def time_s(self) -> float:
        return self.now.time_s

    @property
    def elapsed_s(self) -> float:
        return self.now.time_s - self.before.time_s

    @property
    def up(self) -> np.ndarray:
        """Which units of the fleet are this pool's and take requests: bool [units]."""
        return self.mine & (self.now.state == UP)

    @property
    def idle_s(self) -> np.ndarray:
        working = self.now.outstanding[self.up] > 0
        return np.where(working, 0.0, self.now.idle_s[self.up])

    def total(self, metric: str) -> float | None:
        """A metric summed over the pool's replicas, requests that wait in front included.

        waiting, running, outstanding : requests.   kv : replicas' worth of KV blocks in use.
        busy : replicas' worth of time in steps since the last look.
        requests_per_s : arrivals since the last look.
        ttft_s : 90th percentile of those that ended since the last look, times the replicas up;
        None when none ended.
        """
        now, up = self.now, self.up
        if metric in ("waiting", "outstanding"):
            front = float(self.shares @ now.held.sum(axis=0))
            return float(getattr(now, metric)[self.mine].sum()) + front
        if metric == "running":
            return float(now.running[self.mine].sum())
        if metric == "kv":
            return float((now.kv_blocks[self.mine] / now.kv_capacity[self.mine]).sum())
        if metric == "ttft_s":
            return self._ttft_s(int(up.sum()))
        if self.elapsed_s <= 0:
            return 0.0
        if metric == "busy":
            spent = now.busy_s - self.before.busy_s
            return float(spent[self.mine].sum()) / self.elapsed_s
        assert metric == "requests_per_s", metric
        return float(self.shares @ (now.arrived - self.before.arrived)) / self.elapsed_s

    def _ttft_s(self, n_up: int) -> float | None:
        rows = self.now.ended
        since = round(self.before.time_s * PS)
        rows = rows[(rows["done_ps"] > since) & (rows["first_token_ps"] >= 0)]
        if not len(rows):
            return None
        wait = (rows["first_token_ps"] - rows["arrival_ps"]) / PS
        return n_up * float(np.quantile(wait, 0.9))
