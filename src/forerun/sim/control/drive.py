"""The clock between controllers: advance to the next of them, let it act, go on.

Nothing here happens in the core's loop; what controllers decide are commands and later looks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from forerun.sim.control import peek
from forerun.sim.control.cold import WARM, Cold
from forerun.sim.control.experts import Experts, has_course
from forerun.sim.control.faults import Faults
from forerun.sim.control.find import find
from forerun.sim.control.hardware import Hardware
from forerun.sim.control.scaler import Scaler
from forerun.sim.control.slow import with_slow
from forerun.sim.log import Log
from forerun.sim.serve import LONGEST_S, Server
from forerun.sim.setup import Served
from forerun.spec.control import Fault

DAY_S = 86_400.0


def is_controlled(pools: Sequence[Served], faults: Sequence[Fault]) -> bool:
    """Whether anything changes while the fleet runs."""
    scaled = any(served.pool.autoscale is not None for served in pools)
    return bool(faults) or scaled or has_course(pools)


class Control:
    """Everything that changes the fleet of a server while it runs.

    The server runs `with_slow(pools, faults)`.  colds : cold starts by pool, none takes time when
    absent.
    """

    def __init__(
        self, server: Server, faults: Sequence[Fault] = (), colds: Sequence[Cold] = ()
    ) -> None:
        self.server = server
        pools = [served.pool for served in server.pools]
        rules = [find("scale", p.autoscale.policy) if p.autoscale else None for p in pools]
        draws = [find("fault", fault.process) for fault in faults]
        self.hardware = Hardware(
            server,
            colds=[*colds, *[WARM] * (len(pools) - len(colds))],
            wanted=[first_replicas(p) for p in pools],
            pays_while_down=[p.autoscale is None for p in pools],
        )
        self.scalers = [
            Scaler(self.hardware, p, pool.autoscale, rule)
            for p, (pool, rule) in enumerate(zip(pools, rules, strict=True))
            if pool.autoscale is not None and rule is not None and pool.replicas > 0
        ]
        self.experts = Experts(self.hardware.dials)
        self.faults = Faults(self.hardware, faults, draws, server.seed)
        self.changes_fleet = bool(faults or self.scalers)
        self.patience_s = DAY_S + max(
            [c.time_s for c in colds]
            + [f.mttr_s + max(f.at_s, default=0.0) for f in faults]
            + [(s.spec.repeat_s or 0.0) for s in self.scalers]
            + [row.at_s for s in self.scalers for row in s.spec.schedule],
            default=0.0,
        )

    def run(self, progress: Callable[[int, int], None] | None = None) -> None:
        """From now until every request has ended, or nothing can happen to those that are left.

        progress : called now and then with (requests arrived, requests in all).
        """
        server = self.server
        stuck_since, done = server.now_s, peek.progress(server)
        while not peek.at_rest(server):
            now, due = self._reach(np.inf)
            if now == np.inf or peek.at_rest(server):
                break
            if peek.progress(server) != done or peek.next_arrival_s(server) < np.inf:
                stuck_since, done = now, peek.progress(server)
            elif now - stuck_since > self.patience_s:
                break
            self._act(now, due or [])
            if progress is not None:
                progress(peek.n_arrived(server), server.n_injected)
        peek.end_at_last_event(server)

    def advance(self, until_s: float) -> None:
        """As `Server.advance` to a time, with everything that changes the fleet until then: for a
        server whose requests come one by one."""
        while True:
            now, due = self._reach(until_s)
            if due is None:
                return
            self._act(now, due)

    def _reach(self, until_s: float) -> tuple[float, list[Scaler] | None]:
        """Advance to the next look; who looks then, or None if `until_s` came before it."""
        each = [self.hardware.next_s, self.experts.next_s, *(s.next_s for s in self.scalers)]
        now = min(each) if min(each) < LONGEST_S else np.inf  # the clock does not reach later ones
        due = [scaler for scaler in self.scalers if scaler.next_s <= now]
        self.server.advance(min(now, until_s))
        return (now, due) if now <= until_s else (until_s, None)

    def _act(self, now: float, due: list[Scaler]) -> None:
        self.experts.act(now)
        self.hardware.catch_up(now)
        for scaler in due:
            scaler.act(now)

    def log(self) -> Log:
        """The server's log with what its replicas were paid and up for, and what was decided."""
        log = self.server.log_so_far()
        if not self.changes_fleet:
            return log
        spans = self.hardware.spans(self.server.now_s)
        assumed = [*log.meta["assumed"], *(a for c in self.hardware.colds for a in c.assumed)]
        told = {"assumed": tuple(dict.fromkeys(assumed)), "control": self.told()}
        return replace(log, spans=spans, meta={**log.meta, **told})

    def told(self) -> dict[str, Any]:
        """Cold starts, counts and decisions, as plain values."""
        hardware = self.hardware
        own = [p for p, served in enumerate(self.server.pools) if served.pool.replicas > 0]
        return {
            "cold_starts": {
                self.server.pools[p].pool.name: dict(hardware.colds[p].stages) for p in own
            },
            "n_starts": hardware.n_starts,
            **{f"n_{why}": n for why, n in hardware.counts.items()},
            "decisions": [
                {"time_s": t, "pool": self.server.pools[s.p].pool.name, "replicas": n}
                for s in self.scalers
                for t, n in s.decisions
            ],
        }


def first_replicas(pool: Any) -> int:
    """How many replicas of a pool are up at the start."""
    rule = pool.autoscale
    if rule is None:
        return pool.replicas
    return rule.min_replicas if rule.initial_replicas is None else rule.initial_replicas


def run_controlled(
    requests: Any,
    pools: Sequence[Served],
    *,
    faults: Sequence[Fault] = (),
    colds: Sequence[Cold] = (),
    progress: Callable[[int, int], None] | None = None,
    **settings: Any,
) -> Log:
    """Simulate a workload on a fleet that changes, to its end.  settings : those of `Server`."""
    if requests.block_hashes is not None:
        settings.setdefault("hash_tokens", requests.hash_tokens)
    server = Server(with_slow(pools, faults), n_requests=len(requests), **settings)
    control = Control(server, faults, colds)
    server.inject(requests)
    control.run(progress)
    return control.log()
