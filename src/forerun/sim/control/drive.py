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
from forerun.sim.control.fleet import is_other_lane, pools_of
from forerun.sim.control.hardware import Hardware
from forerun.sim.control.rebalancer import Rebalancer, check_moves
from forerun.sim.control.scaler import Scaler
from forerun.sim.control.shares import Shares, is_shared
from forerun.sim.control.slow import with_slow
from forerun.sim.log import Log
from forerun.sim.power.controller import PowerControl
from forerun.sim.power.rows import with_levels
from forerun.sim.serve import Server
from forerun.sim.settings import LONGEST_S
from forerun.sim.setup import Served
from forerun.spec.control import Fault, Rebalance
from forerun.spec.power import RowPower
from forerun.spec.slo import Slo

Looking = Scaler | PowerControl | Rebalancer | Shares
DAY_S = 86_400.0


def with_rows(
    pools: Sequence[Served], faults: Sequence[Fault] = (), power: RowPower | None = None
) -> list[Served]:
    """The pools, then every other row that levels of power and faults can ask for."""
    return with_slow(with_levels(pools, power), faults)


def is_controlled(
    pools: Sequence[Served],
    faults: Sequence[Fault],
    power: RowPower | None = None,
    rebalance: Rebalance | None = None,
) -> bool:
    """Whether anything changes while the fleet runs."""
    acts = power is not None and power.policy.name != "watch"
    scales = any(served.pool.autoscale is not None for served in pools)
    other = rebalance is not None or has_course(pools) or is_shared(pools)
    return bool(faults) or acts or scales or other


class Control:
    """Everything that changes the fleet of a server while it runs.

    The server runs `with_rows(pools, faults, power)`.  colds : cold starts by pool, none takes time
    when absent.  slo : whose bounds a policy of shares aims at where its pool names none.
    """

    def __init__(
        self,
        server: Server,
        faults: Sequence[Fault] = (),
        colds: Sequence[Cold] = (),
        power: RowPower | None = None,
        rebalance: Rebalance | None = None,
        slo: Slo | None = None,
    ) -> None:
        check_moves(server.pools, rebalance, faults)
        self.server = server
        pools = [served.pool for served in server.pools]
        rules = [find("scale", p.autoscale.policy) if p.autoscale else None for p in pools]
        draws = [find("fault", fault.process) for fault in faults]
        self.hardware = Hardware(
            server,
            colds=[*colds, *[WARM] * (len(pools) - len(colds))],
            wanted=wanted_at_first(server.pools),
            moves=[bool(p.autoscale and p.autoscale.scale_in == "move") for p in pools],
            pays_while_down=[p.autoscale is None for p in pools],
        )
        self.scalers = [
            Scaler(self.hardware, p, pool.autoscale, rule)
            for p, (pool, rule) in enumerate(zip(pools, rules, strict=True))
            if pool.autoscale is not None and rule is not None and p in self.hardware.pool
        ]
        self.experts = Experts(self.hardware.dials)
        self.faults = Faults(self.hardware, faults, draws, server.seed)
        self.power: list[PowerControl] = []
        if power is not None and power.policy.name != "watch":
            chosen = find("power", power.policy)
            self.power.append(PowerControl(self.hardware, power, chosen))
            self.power[0].begin()
        self.rebalancers: list[Rebalancer] = []
        if rebalance is not None:
            rule = find("rebalance", rebalance.policy)
            self.rebalancers.append(Rebalancer(self.hardware, rebalance, rule))
        self.shares = Shares(self.hardware.dials, slo)
        # whether replicas come, go or draw another power
        self.changes_fleet = bool(faults or self.scalers or self.power)
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

    def _reach(self, until_s: float) -> tuple[float, list[Looking] | None]:
        """Advance to the next look; who looks then, or None if `until_s` came before it."""
        looking: list[Looking] = [*self.scalers, *self.power, *self.rebalancers, self.shares]
        each = [self.hardware.next_s, self.experts.next_s, *(one.next_s for one in looking)]
        now = min(each) if min(each) < LONGEST_S else np.inf  # the clock does not reach later ones
        due = [one for one in looking if one.next_s <= now]
        self.server.advance(min(now, until_s))
        return (now, due) if now <= until_s else (until_s, None)

    def _act(self, now: float, due: list[Looking]) -> None:
        self.experts.act(now)
        self.hardware.catch_up(now)
        for one in due:
            one.act(now)

    def log(self) -> Log:
        """The server's log with what its replicas were paid and up for, and what was decided."""
        log = self.server.log_so_far()
        if self.shares.blocks:
            lanes = log.meta["lanes"] | {"switches": self.shares.switches}
            log = replace(log, meta={**log.meta, "lanes": lanes})
        if not (self.changes_fleet or self.rebalancers):
            return log
        spans = self.hardware.spans(self.server.now_s) if self.changes_fleet else None
        assumed = [*log.meta["assumed"], *(a for c in self.hardware.colds for a in c.assumed)]
        told = {"assumed": tuple(dict.fromkeys(assumed)), "control": self.told()}
        return replace(log, spans=spans, meta={**log.meta, **told})

    def told(self) -> dict[str, Any]:
        """Cold starts, counts and decisions, as plain values."""
        hardware = self.hardware
        moved = [
            {"looks": one.n_looks, "ordered": one.n_ordered, "policy": one.spec.policy.name}
            for one in self.rebalancers
        ]
        return {
            **({"rebalance": moved[0]} if moved else {}),
            "cold_starts": self._cold_starts(),
            "n_starts": hardware.n_starts,
            **{f"n_{why}": n for why, n in hardware.counts.items()},
            "decisions": [
                {"time_s": t, "pool": self.server.pools[s.p].pool.name, "replicas": n}
                for s in self.scalers
                for t, n in s.decisions
            ],
            **({"power": self.power[0].told_words()} if self.power else {}),
        }

    def _cold_starts(self) -> dict[str, dict[str, float]]:
        """By pool; where models take turns, by pool and model."""
        server, hardware = self.server, self.hardware
        names = server.models or range(1 + max(served.model for served in server.pools))
        out = {}
        for p in np.unique(hardware.pool).tolist():
            for q in hardware.rows[p]:
                served = server.pools[q]
                of = "" if len(hardware.rows[p]) == 1 else f" with {names[served.model]}"
                out[f"{served.pool.name}{of}"] = dict(hardware.colds[q].stages)
        return out


def wanted_at_first(pools: Sequence[Served]) -> list[int]:
    """How many replicas of each pool are up at the start; none of what is no pool of its own."""
    out = [0] * len(pools)
    for p, first in enumerate(pools_of(pools)):
        rule = pools[p].pool.autoscale
        if is_other_lane(pools[p]):
            continue
        if rule is None:
            out[first] += pools[p].pool.replicas
        elif p == first:
            n = rule.min_replicas if rule.initial_replicas is None else rule.initial_replicas
            out[p] = n
    return out
