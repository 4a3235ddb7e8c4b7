"""`screen`: what need not be simulated, each with the sentence that says why.

Every rule is a bound: a candidate turned away here misses the SLO (or the budget) in any
simulation of it, also at the optimistic end of its costs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from forerun import catalog
from forerun.errors import ForerunError
from forerun.metrics.figure import text
from forerun.metrics.goodput import bounds as slo_bounds
from forerun.ops.check import check_parallel
from forerun.plan import bounds
from forerun.plan.space import Candidate
from forerun.sim.prepare import prepare
from forerun.sim.serve import Served
from forerun.spec.model import Model
from forerun.spec.requests import Requests
from forerun.spec.slo import Budget, Slo

Reason = Literal["layout", "memory", "context", "fleet", "latency", "throughput", "budget", "slo"]


@dataclass(frozen=True)
class Ready:
    """A candidate that may do: priced, with the least number of replicas to start from."""

    candidate: Candidate
    served: Served  # of one replica
    least: int = 1


@dataclass(frozen=True)
class Pruned:
    """A candidate that does not do, and why."""

    candidate: Candidate
    reason: Reason
    sentence: str
    ready: Ready | None = None  # where it could run all the same


def screen(
    candidate: Candidate,
    model: Model,
    requests: Requests,
    slo: Slo,
    budget: Budget,
    usd_per_device_hour: float | None,
) -> Ready | Pruned:
    """The candidate ready to be simulated, or the reason not to."""
    pool, device = candidate.pool, catalog.device(candidate.device)
    wrong = check_parallel(model, pool, device)
    if wrong:
        return Pruned(candidate, "layout", wrong[0].what)
    try:
        served = prepare(model, candidate.deployment(1), mean_len=mean_len(requests))[0]
    except ForerunError as error:
        first = error.problems[0]
        hint = f"; try: {first.fix}" if first.fix else ""
        return Pruned(candidate, "memory", first.what + hint)
    ready = Ready(candidate, served)
    reason = _context(ready, requests, slo) or _latency(ready, requests, slo)
    if reason is not None:
        return Pruned(candidate, *reason, ready)
    ready = Ready(candidate, served, least_replicas(served, requests, slo))
    n = candidate.pool.devices_per_replica
    if candidate.most < 1:
        what = f"one replica takes {n} x {device.name}, the fleet has fewer"
        return Pruned(candidate, "fleet", what, ready)
    if ready.least > candidate.most:
        what = (
            f"the {candidate.most} replicas that the fleet has devices for cannot carry the load "
            f"even with full batches all the time: it takes at least {ready.least}"
        )
        return Pruned(candidate, "throughput", what, ready)
    dear = over_budget(budget, ready, usd_per_device_hour)
    return Pruned(candidate, "budget", dear, ready) if dear else ready


def mean_len(requests: Requests) -> int:
    """Tokens of a usual request, as `forerun simulate` takes it."""
    return round(float((requests.isl + requests.osl).mean())) if len(requests) else 1


def _context(ready: Ready, r: Requests, slo: Slo) -> tuple[Reason, str] | None:
    """Requests too long for a replica are rejected, and miss the SLO."""
    served = ready.served
    engine = served.pool.engine
    held = served.n_blocks // served.pool.pp
    room = (held - int(engine.watermark * held)) * engine.block_tokens
    fits = (r.isl + r.osl <= served.max_len) & (r.isl + r.osl - 1 <= room)
    if int(fits.sum()) >= bounds.needed(slo, len(r)):
        return None
    most = min(served.max_len, room)
    share = text(float(1 - fits.mean()), "share")
    return "context", f"{share} of requests are longer than the {most:,} tokens a replica holds"


def _latency(ready: Ready, r: Requests, slo: Slo) -> tuple[Reason, str] | None:
    new = bounds.computed(r, ready.served.pool.engine.prefix_caching)
    found = bounds.alone(ready.served.table, new).latencies(r)
    if int(bounds.reachable(slo, found).sum()) >= bounds.needed(slo, len(r)):
        return None
    terms = slo_bounds(slo)
    miss = {t: float(np.mean(found[t] > b)) for t, b in terms.items()}
    term = max(miss, key=lambda t: miss[t])
    rank = min(bounds.needed(slo, len(r)), len(r)) - 1
    least = float(np.sort(np.nan_to_num(found[term], nan=0.0))[rank])
    return "latency", (
        f"{text(miss[term], 'share')} of requests cannot meet {term} <= {text(terms[term], 's')} "
        f"even alone on an idle replica, at the optimistic end of the cost model; "
        f"{text(least, 's')} is the least bound it could keep"
    )


def least_replicas(served: Served, r: Requests, slo: Slo) -> int:
    """Fewer replicas than this cannot keep the SLO; 1 where nothing is known (closed loops)."""
    if r.meta.get("concurrency") or not len(r):
        return 1
    table = served.table
    kept = served.pool.engine.prefix_caching and r.block_hashes is not None
    work, new = bounds.least(table, table.time_s, kept=kept), bounds.computed(r, kept)
    lanes = 0.0
    for part, horizon in bounds.horizons(slo, r).items():
        busy = work.prompts(new) if part == "prompts" else work.whole(r, new)
        lanes = max(lanes, bounds.busy_lanes(table.low * busy, horizon, r, slo))
    return max(1, math.ceil(lanes / served.pool.pp - 1e-6))


def over_budget(budget: Budget, ready: Ready, usd_per_device_hour: float | None) -> str:
    """Why even the least number of replicas is over the budget; "" when it is not."""
    n = ready.candidate.n_devices(ready.least)
    name = f"{n} x {ready.candidate.device}"
    if budget.usd_per_hour is not None and usd_per_device_hour is not None:
        usd = n * usd_per_device_hour
        if usd > budget.usd_per_hour:
            return (
                f"at least {name} are needed: {text(usd, 'USD/h')}, "
                f"the budget is {text(budget.usd_per_hour, 'USD/h')}"
            )
    idle = ready.served.table.idle_w * ready.least
    if budget.power_w is not None and idle > budget.power_w:
        return (
            f"at least {name} are needed, which idle at {text(idle, 'W')}, "
            f"the budget is {text(budget.power_w, 'W')}"
        )
    return ""
