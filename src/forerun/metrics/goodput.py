"""Which requests met the SLO, how many a second, and which of its terms fails them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from forerun.metrics import latency
from forerun.sim.log import Log
from forerun.spec.slo import Slo, SloClass

#: term of an Slo -> the latency it bounds
TERMS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "ttft_s": latency.ttft_s,
    "tpot_s": latency.tpot_s,
    "itl_s": latency.max_itl_s,
    "e2el_s": latency.e2el_s,
}


@dataclass(frozen=True)
class Failing:
    """One term of an SLO: the share of requests that miss it, and that miss nothing else."""

    term: str
    bound: float  # the tightest, where classes differ
    share: float
    alone: float
    same: bool = True  # every request has this bound


@dataclass(frozen=True, eq=False)
class Goals:
    """What each tenant is promised, where classes differ: a class or the case's SLO, by number."""

    of_tenant: tuple[Slo | SloClass, ...]
    base: Slo

    def bound_of(self, requests: np.ndarray, term: str) -> np.ndarray:
        """The bound of each request: float64 [N], inf where it has none."""
        known = [getattr(said, term) for said in (*self.of_tenant, self.base)]
        each = np.array([np.inf if bound is None else bound for bound in known])
        return each[np.minimum(requests["tag"], len(each) - 1)]


def goals(slo: Slo, log: Log) -> Slo | Goals:
    """The SLO, by tenant where the run's tenants are of classes."""
    tenants = log.meta.get("tenants", ())
    if not slo.classes:
        return slo
    own = tuple(slo if t.slo_class is None else slo.classes[t.slo_class] for t in tenants)
    return Goals(own, slo)


def classes_met(requests: np.ndarray, slo: Slo, log: Log) -> bool:
    """Whether of each class, and of those without one, as many requests are good as are asked."""
    own = goals(slo, log)
    tenants = log.meta.get("tenants", ())
    for name in (*slo.classes, None):
        members = [u for u, tenant in enumerate(tenants) if tenant.slo_class == name]
        share = attainment(requests[np.isin(requests["tag"], members)], own)
        said = slo.attainment if name is None else slo.classes[name].attainment
        if share is not None and share < (said or slo.attainment):
            return False
    return True


def bounds_any(slo: Slo) -> bool:
    """Whether any request has a bound."""
    return bool(bounds(slo)) or bool(slo.classes)


def bounds_of(requests: np.ndarray, slo: Slo | Goals) -> dict[str, float | np.ndarray]:
    """The terms that bound any request, with one bound or one for each."""
    if isinstance(slo, Slo):
        return dict(bounds(slo))
    each = {term: slo.bound_of(requests, term) for term in TERMS}
    return {term: bound for term, bound in each.items() if np.isfinite(bound).any()}


def bounds(slo: Slo) -> dict[str, float]:
    """The terms that an SLO bounds, with their bounds in seconds."""
    found = {term: getattr(slo, term) for term in TERMS}
    return {term: bound for term, bound in found.items() if bound is not None}


def meets(requests: np.ndarray, term: str, bound: float | np.ndarray) -> np.ndarray:
    """Which finished requests meet one bound, or each its own: bool [N].

    An undefined tpot or itl meets any.
    """
    value = TERMS[term](requests)
    return latency.finished(requests) & ((value <= bound) | np.isnan(value))


def good(requests: np.ndarray, slo: Slo | Goals) -> np.ndarray:
    """Which requests finished and met every term: bool [N].

    Rejected, aborted and unfinished requests are not good, whatever their latencies until then.
    """
    ok = latency.finished(requests)
    for term, bound in bounds_of(requests, slo).items():
        ok = ok & meets(requests, term, bound)
    return ok


def attainment(requests: np.ndarray, slo: Slo | Goals) -> float | None:
    """Share of requests that are good, of all that arrived; None when there are none."""
    return float(np.mean(good(requests, slo))) if len(requests) else None


def goodput_per_s(requests: np.ndarray, slo: Slo, duration_s: float) -> float | None:
    """Good requests a second of the run; None for a run of no length."""
    return float(np.sum(good(requests, slo))) / duration_s if duration_s > 0 else None


def failing(requests: np.ndarray, slo: Slo | Goals) -> tuple[Failing, ...]:
    """Every term by how many finished requests miss it, most first; empty without requests."""
    done = requests[latency.finished(requests)]
    terms = bounds_of(done, slo)
    if not len(done) or not terms:
        return ()
    missed = {term: ~meets(done, term, bound) for term, bound in terms.items()}
    n_missed = np.sum(list(missed.values()), axis=0)
    rows = [
        Failing(
            t,
            float(np.min(terms[t])),
            float(m.mean()),
            float((m & (n_missed == 1)).mean()),
            bool(np.min(terms[t]) == np.max(terms[t])),
        )
        for t, m in missed.items()
    ]
    return tuple(sorted(rows, key=lambda f: -f.share))


def binding(requests: np.ndarray, slo: Slo) -> str | None:
    """The term that the most finished requests miss; None when all meet all."""
    rows = failing(requests, slo)
    return rows[0].term if rows and rows[0].share > 0 else None
