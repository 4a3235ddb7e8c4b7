"""Which requests met the SLO, how many a second, and which of its terms fails them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from forerun.metrics import latency
from forerun.spec.slo import Slo

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
    bound: float
    share: float
    alone: float


def bounds(slo: Slo) -> dict[str, float]:
    """The terms that an SLO bounds, with their bounds in seconds."""
    found = {term: getattr(slo, term) for term in TERMS}
    return {term: bound for term, bound in found.items() if bound is not None}


def meets(requests: np.ndarray, term: str, bound: float) -> np.ndarray:
    """Which finished requests meet one bound: bool [N].  An undefined tpot or itl meets any."""
    value = TERMS[term](requests)
    return latency.finished(requests) & ((value <= bound) | np.isnan(value))


def good(requests: np.ndarray, slo: Slo) -> np.ndarray:
    """Which requests finished and met every term: bool [N].

    Rejected, aborted and unfinished requests are not good, whatever their latencies until then.
    """
    ok = latency.finished(requests)
    for term, bound in bounds(slo).items():
        ok = ok & meets(requests, term, bound)
    return ok


def attainment(requests: np.ndarray, slo: Slo) -> float | None:
    """Share of requests that are good, of all that arrived; None when there are none."""
    return float(np.mean(good(requests, slo))) if len(requests) else None


def goodput_per_s(requests: np.ndarray, slo: Slo, duration_s: float) -> float | None:
    """Good requests a second of the run; None for a run of no length."""
    return float(np.sum(good(requests, slo))) / duration_s if duration_s > 0 else None


def failing(requests: np.ndarray, slo: Slo) -> tuple[Failing, ...]:
    """Every term by how many finished requests miss it, most first; empty without requests."""
    done = requests[latency.finished(requests)]
    terms = bounds(slo)
    if not len(done) or not terms:
        return ()
    missed = {term: ~meets(done, term, bound) for term, bound in terms.items()}
    n_missed = np.sum(list(missed.values()), axis=0)
    rows = [
        Failing(t, terms[t], float(m.mean()), float((m & (n_missed == 1)).mean()))
        for t, m in missed.items()
    ]
    return tuple(sorted(rows, key=lambda f: -f.share))


def binding(requests: np.ndarray, slo: Slo) -> str | None:
    """The term that the most finished requests miss; None when all meet all."""
    rows = failing(requests, slo)
    return rows[0].term if rows and rows[0].share > 0 else None
