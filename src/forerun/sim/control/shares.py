"""`Shares`: how prompts and answers divide the SMs of a replica, looked at every so often.

A look reads what only events change, so it sees the same whether steps are leapt over or taken; a
change turns a dial of both lanes, each of which goes on otherwise from its next step boundary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from forerun.cost.table import CostTable, grid
from forerun.errors import PolicyError
from forerun.sim.collect import live_slots
from forerun.sim.control import peek
from forerun.sim.control.dials import SHARES, Dials
from forerun.sim.control.find import find
from forerun.sim.core.rows_request import DECODING, WAITING
from forerun.sim.serve import PS, Server
from forerun.sim.setup import Served
from forerun.spec.slo import Slo
from forerun.spec.sm_share import SmShare


def is_shared(pools: Sequence[Served]) -> bool:
    """Whether a policy decides on some pool's shares while it runs."""
    rules = (served.pool.sm_share for served in pools)
    return any(rule is not None and rule.policy.name != "fixed" for rule in rules)


@dataclass(frozen=True)
class Lanes:
    """What a `share` policy sees of a pool.

    level : the present one.      levels : (prefill, decode) shares of each.
    ttft_s, tpot_s : of the requests that ended since the last look.
    waited_s : how long each prompt has waited so far that is not being computed.
    n_answering, mean_ctx : requests being answered on a replica, of those that are there, and their
    mean length, tokens.
    """

    time_s: float
    level: int
    levels: Sequence[tuple[float, float]]
    ttft_s: np.ndarray
    tpot_s: np.ndarray
    waited_s: np.ndarray
    n_answering: float
    mean_ctx: float
    tables: Sequence[CostTable]  # of answers beside prompts, by level

    @cached_property
    def by_answers(self) -> list[int]:
        """The levels, that with the smallest share for answers first."""
        return sorted(range(len(self.levels)), key=lambda k: self.levels[k][1])

    def next_to(self, way: int) -> int:
        """The level with the next larger (way 1) or smaller (-1) share for answers, if any."""
        order = self.by_answers
        at = order.index(self.level) + way
        return order[min(max(at, 0), len(order) - 1)]

    def step_s(self, level: int) -> float:
        """What a step of those being answered takes at a level while a prompt is computed."""
        table = self.tables[level]
        n = int(min(max(round(self.n_answering), 1), table.max_seqs))
        work = table.time_s
        decode = np.interp(self.mean_ctx, table.knots_ctx, work.decode[n])
        flat = np.interp(n, grid(table.max_tokens), work.tokens) + work.seqs[n]
        return float(flat + decode) + table.host_step_s + table.host_seq_s * n


class _Block:
    """One pool: its rule, its replicas, and what answers cost beside prompts by level."""

    def __init__(self, server: Server, p: int, slo: Slo) -> None:
        served = server.pools[p]
        rule = served.pool.sm_share
        assert rule is not None
        targets = {"ttft_s": rule.ttft_s or slo.ttft_s, "tpot_s": rule.tpot_s or slo.tpot_s}
        self.rule: SmShare = rule.model_copy(update=targets)
        self.name = served.block
        self.policy: Callable[..., Any] = find("share", rule.policy)
        rows = {
            one.lane: q
            for q, one in enumerate(server.pools)
            if one.block == served.block and one.dial is None
        }
        self.tables = [server.pools[rows[4 * k + 3]].table for k in range(len(rule.shares))]
        self.first = np.flatnonzero(server.pool_of_replica == p)
        self.second = np.array(server._state.replicas["partner"])[self.first]
        self.level, self.next_s, self.memory = 0, 0.0, dict[str, Any]()


class Shares:
    """The shares of a server's lanes while it runs.

    slo : whose bounds a policy aims at where `sm_share` names none.
    """

    def __init__(self, dials: Dials, slo: Slo | None = None) -> None:
        self.dials = dials
        self.server = server = dials.server
        self.blocks = [
            _Block(server, p, slo or Slo()) for p, one in enumerate(server.pools)
            if one.block is not None and one.pool.replicas > 0 and one.pool.role == "prefill"
            and one.pool.sm_share is not None and one.pool.sm_share.policy.name != "fixed"
        ]  # fmt: skip
        for block in self.blocks:
            block.next_s = block.rule.every_s
        self.switches: list[dict[str, Any]] = []

    @property
    def next_s(self) -> float:
        """When it looks next at some pool; infinite where it looks at none."""
        return min((block.next_s for block in self.blocks), default=np.inf)

    def act(self, now_s: float) -> None:
        """Look at the pools whose time has come."""
        for block in self.blocks:
            if block.next_s <= now_s:
                self._look(block, now_s)
                block.next_s = now_s + block.rule.every_s

    def _look(self, block: _Block, now: float) -> None:
        """Ask the policy; order what it says.  Raises PolicyError for what is no level."""
        level = block.policy(self._view(block, now), block.rule, block.memory)
        n = len(block.tables)
        if not (isinstance(level, int | np.integer) and 0 <= level < n):
            raise PolicyError.one(
                f"policy {block.rule.policy.name}",
                f"chose level {level!r} for pool {block.name} at {now:.6f} s; there are {n}, "
                f"0 to {n - 1}",
                "return the index of one of lanes.levels",
            )
        if level == block.level:
            return
        for i in [*block.first.tolist(), *block.second.tolist()]:
            self.dials.turn(i, SHARES, int(level) or None, now)
        prefill, decode = block.rule.shares[int(level)]
        self.switches.append(
            {"time_s": now, "pool": block.name, "prefill": prefill, "decode": decode}
        )
        block.level = int(level)

    def _view(self, block: _Block, now: float) -> Lanes:
        state = self.server._state
        rows = peek.ended_rows(self.server)
        since = round((now - block.rule.every_s) * PS)
        rows = rows[(rows["done_ps"] > since) & (rows["first_token_ps"] >= 0)]
        rows = rows[np.isin(rows["replica"], [*block.first, *block.second])]
        ttft = (rows["first_token_ps"] - rows["arrival_ps"]) / PS
        several = rows[rows["n_out"] > 1]
        tpot = (several["done_ps"] - several["first_token_ps"]) / PS / (several["n_out"] - 1)
        live: Any = state.live[live_slots(state)]
        here = live["aborted"] == 0
        waits = here & np.isin(live["replica"], block.first) & (live["phase"] == WAITING)
        decoding = here & np.isin(live["replica"], block.second) & (live["phase"] == DECODING)
        n = int(decoding.sum())
        there = state.replicas["accepts"][block.first] > 0
        there |= state.replicas["n_running"][block.second] > 0
        ctx = (live["isl"] + live["n_out"])[decoding]
        first = waits & (live["first_token_ps"] < 0)
        return Lanes(
            time_s=now, level=block.level, levels=block.rule.shares, ttft_s=ttft, tpot_s=tpot,
            waited_s=now - live["arrival_ps"][first] / PS,
            n_answering=n / max(there.sum(), 1), mean_ctx=float(ctx.mean()) if n else 0.0,
            tables=block.tables,
        )  # fmt: skip
