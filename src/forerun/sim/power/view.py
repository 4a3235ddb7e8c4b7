"""What a power policy sees of a row at a look: a late reading, the budget, and the load of now.

Legend: p pool (a number within the row), k level.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from forerun.cost.table import CostTable
from forerun.sim.control.fleet import Fleet
from forerun.sim.log import UP
from forerun.sim.power.meter import Reading


@dataclass(frozen=True, eq=False)
class PoolOfRow:
    """One pool of a row.

    tables : its costs at each level.     mine : which units of the fleet are its own.
    most_w : what all its replicas can draw at each level.
    """

    name: str
    low: bool  # slowed before others
    tables: Sequence[CostTable]
    mine: np.ndarray
    most_w: Sequence[float]


class RowView:
    """The row as a policy sees it.

    time_s, budget_w : now (infinite without a budget).    levels : clocks to choose from.
    power_w : the row's mean over the meter's window, some time back, with what else it feeds.
    pool_w, prompts_w : the same of each pool, and what its steps with prompts drew above idle;
    prompts : the share of the time of its replicas in such steps.
    level : the number of the level that each pool was last told; `low`: pools to be slowed first.
    waiting, running : requests of each pool now; waiting in front of the fleet is shared.
    """

    def __init__(
        self, pools: Sequence[PoolOfRow], fleet: Fleet, reading: Reading,
        told: Sequence[int], budget_w: float, other_w: float, levels: Sequence[float],
    ) -> None:  # fmt: skip
        self.pools, self.fleet, self.levels = pools, fleet, tuple(levels)
        self.time_s, self.budget_w, self.other_w = fleet.time_s, budget_w, other_w
        self.pool_w, self.prompts_w, self.prompts = (
            np.array([float(each[pool.mine].sum()) for pool in pools])
            for each in (reading.total_w, reading.prompts_w, reading.prompts)
        )
        self.prompts /= [max(self.n_up(p), 1) for p in range(len(pools))]
        self.power_w = float(self.pool_w.sum()) + other_w
        self.level = list(told)
        self.low = [pool.low for pool in pools]
        front = fleet.n_held / len(pools)
        self.waiting = np.array([float(fleet.waiting[pool.mine].sum()) + front for pool in pools])
        self.running = np.array([float(fleet.running[pool.mine].sum()) for pool in pools])

    def n_up(self, p: int) -> int:
        """Replicas of a pool that take requests."""
        return int((self.pools[p].mine & (self.fleet.state == UP)).sum())

    def running_each(self, p: int) -> tuple[float, float]:
        """(requests in a step, cached tokens of each), mean of a pool's replicas."""
        mine = self.pools[p].mine
        n = float(self.fleet.running[mine].sum())
        tokens = float(self.fleet.kv_blocks[mine].sum()) * self.block_tokens(p)
        stages = self.pools[p].tables[0].stages  # as many batches are in flight
        return n / max(self.n_up(p), 1) / stages, tokens / max(n, 1.0)

    def block_tokens(self, p: int) -> int:
        """Tokens of a KV block of a pool."""
        served = self.fleet.server.pools
        return next(s.pool.engine.block_tokens for s in served if s.pool.name == self.pools[p].name)

    def step_s(self, p: int, k: int, requests: float, ctx: float) -> float:
        """What a step of so many decoding requests takes at a level, host time included."""
        table = self.pools[p].tables[k]
        n = min(max(round(requests), 1), table.max_seqs)
        work = table.time_s
        decode = float(np.interp(ctx, table.knots_ctx, work.decode[n]))
        host = table.host_step_s + table.host_seq_s * n
        return float(work.tokens[n] + work.seqs[n]) + decode + host

    def prompt_s(self, p: int, k: int, tokens: int) -> float:
        """What a step of one prompt chunk takes at a level."""
        table = self.pools[p].tables[k]
        q = min(tokens, table.max_tokens, len(table.time_s.tokens) - 1)
        return float(table.time_s.tokens[q] + table.time_s.prefill[q, 0]) + table.host_step_s

    def most_w(self, levels: Sequence[int]) -> float:
        """The most that the row can draw with every pool at a level and every replica up."""
        each = [pool.most_w[k] for pool, k in zip(self.pools, levels, strict=True)]
        return sum(each) + self.other_w
