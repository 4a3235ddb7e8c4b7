"""Decoding requests that go on elsewhere with their KV: a rule asked every so often.

It says how many each replica gives away; the replica's `preempt` policy says which, the fleet's
`place` where to.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from forerun.errors import PolicyError, Problem, SpecError
from forerun.sim.check import encodes
from forerun.sim.control import peek
from forerun.sim.control.fleet import look, pools_of, takes_as
from forerun.sim.control.hardware import Hardware
from forerun.sim.log import UP
from forerun.sim.setup import Served
from forerun.spec.control import Fault, Rebalance

Rule = Callable[["Replicas", Rebalance, dict], Any]


@dataclass(frozen=True, eq=False)
class Replicas:
    """Replicas that can take over each other's requests, as a rule sees them; arrays over them."""

    time_s: float
    block_tokens: np.ndarray
    kv_blocks: np.ndarray  # there are
    kv_blocks_free: np.ndarray
    kv_blocks_wanted: np.ndarray  # by those who wait to start
    waiting: np.ndarray  # requests
    running: np.ndarray
    decoding: np.ndarray  # of them; only these can be given away


class Rebalancer:
    """A rule for all replicas that answer, by the model that they run."""

    def __init__(self, hardware: Hardware, spec: Rebalance, rule: Rule) -> None:
        self.hardware, self.spec, self.rule = hardware, spec, rule
        self.memory: list[dict[str, Any]] = []
        self.n_looks = self.n_ordered = 0
        pools = hardware.server.pools
        able = [p for p, served in enumerate(pools) if takes_as(served) != "prefill"]
        self.able = np.flatnonzero(np.isin(hardware.pool, able))
        self.models = sorted({pools[p].model for p in able})
        self.memory = [{} for _ in self.models]

    @property
    def next_s(self) -> float:
        return (self.n_looks + 1) * self.spec.period_s

    def act(self, now_s: float) -> None:
        """Look, and order what the rule says of each group."""
        self.n_looks += 1
        hardware = self.hardware
        now = look(hardware.server, hardware.units, hardware.state)
        wanted = peek.waiting_blocks(hardware.server)
        decoding = hardware.server._state.replicas["n_decode"]
        engines = hardware.server._state.engines
        row = hardware.server._state.replicas["next_pool"][[u.lanes[0] for u in hardware.units]]
        up_now = self.able[hardware.state[self.able] == UP]
        for m, memory in zip(self.models, self.memory, strict=True):
            up = up_now[engines["model"][row[up_now]] == m]
            if len(up) < 2:
                continue
            lanes = [hardware.lanes(int(u)) for u in up]
            view = Replicas(
                time_s=now_s,
                block_tokens=engines["block_tokens"][row[up]],
                kv_blocks=now.kv_capacity[up],
                kv_blocks_free=now.kv_capacity[up] - now.kv_blocks[up],
                kv_blocks_wanted=np.array([wanted[list(own)].sum() for own in lanes]),
                waiting=now.waiting[up],
                running=now.running[up],
                decoding=np.array([decoding[list(own)].sum() for own in lanes]),
            )
            gives = self._checked(self.rule(view, self.spec, memory), len(up), now_s)
            for own, n in zip(lanes, np.minimum(gives, view.decoding).tolist(), strict=True):
                self._order(now_s, own, n)

    def _order(self, now_s: float, lanes: Sequence[int], n: int) -> None:
        """n requests leave a replica, as evenly as can be from its pipeline stages; with a lane for
        answers, that."""
        self.n_ordered += n
        server = self.hardware.server
        able = [i for i in lanes if server.pools[server.pool_of_replica[i]].pool.role != "prefill"]
        for k, i in enumerate(able):
            own = n // len(able) + (k < n % len(able))
            if own:
                server.command(now_s, "move", i, own)

    def _checked(self, gives: Any, n: int, now_s: float) -> np.ndarray:
        """Whole numbers, one a replica.  Raises PolicyError for anything else."""
        array = np.asarray(gives, dtype=float)
        if array.shape != (n,) or not np.isfinite(array).all() or (array < 0).any():
            raise PolicyError.one(
                f"policy {self.spec.policy.name}",
                f"gives away {gives!r} at {now_s:.6f} s",
                f"return {n} numbers, how many requests each replica gives away",
            )
        return np.rint(array).astype(np.int64)


def check_moves(
    pools: Sequence[Served], rebalance: Rebalance | None, faults: Sequence[Fault] = ()
) -> None:
    """Raises SpecError where requests are to move and have no way, or nowhere to go."""
    problems = []
    able = [served for served in pools if served.pool.role in ("both", "decode")]
    told = {fault.pool for fault in faults if fault.on_notice == "move"}
    movers = [
        one
        for one in able
        if rebalance is not None
        or (one.pool.autoscale and one.pool.autoscale.scale_in == "move")
        or told & {None, one.pool.name}
    ]
    for served in {served.pool.name: served for served in movers}.values():
        if served.port_bytes_per_s <= 0:
            what = f"requests move with their KV, and {served.pool.device} has no network link"
            where = f"deployment.pools.{served.block or served.pool.name}.link"
            problems.append(Problem(where, what, "link: NAME (see forerun show link)"))
    if rebalance is not None:
        where = "deployment.rebalance"
        if encodes(pools):
            what = "moving requests by a rule is not yet combined with images"
            problems.append(Problem(where, what, "text only, or no rebalance"))
        own = pools_of(pools)
        n_of = np.bincount(own, weights=[served.pool.replicas for served in pools])
        most: dict[int, float] = {}
        for p, served in enumerate(pools):
            if served.pool.role in ("both", "decode") and served.dial is None:
                most[served.model] = most.get(served.model, 0) + n_of[own[p]]
        if all(n < 2 for n in most.values()):
            what = "there is no second replica to move requests to"
            problems.append(Problem(where, what, "replicas: 2, or no rebalance"))
    if problems:
        raise SpecError(*problems)
