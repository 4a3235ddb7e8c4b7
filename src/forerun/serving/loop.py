"""The loop of a question against one pool, and the API server that stands before it.

The API server serves one request at a time for S = api_request_s + osl * api_token_s, at each of
its doors.  With C requests in flight a round takes C S at least, so what the rest of a round does
not take of that is waited for, before the first token:

    W = max(C S - api_request_s - the engine's part of the round, 0)
    W = rho / (1 - rho) S / 2                                         under open load

A client comes back to the engine after W; api_request_s, which is short beside a round, is added to
the round and its time to the first token, and does not thin out what the engine sees.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from forerun.metrics import work
from forerun.serving.question import Question
from forerun.sim.log import Log
from forerun.sim.serve import Served, run
from forerun.spec.requests import Requests

TURNS = 6  # of finding what is waited for in a closed loop
#: of the arguments of `simulated`
Simulate = Callable[[Question, Served, int, int | None, float, str], Log]


def simulated(
    q: Question, served: Served, osl: int, concurrency: int | None, think_s: float, kept: str
) -> Log:
    """The requests of a question, with answers of osl tokens, through one pool.

    kept : "full", or "requests" for a log without steps.
    """
    n = q.n_requests
    arrival = np.zeros(n)
    if q.concurrency is None and q.rate_per_s is not None and np.isfinite(q.rate_per_s):
        gaps = np.random.default_rng(0).exponential(1 / q.rate_per_s, n)
        arrival = np.cumsum(gaps)
    answers = np.full(n, osl)
    if q.profile.early and osl > 1:
        least = max(1, round((1 - q.profile.early) * osl))
        answers = np.random.default_rng(0).integers(least, osl + 1, n)
    requests = Requests(arrival, np.full(n, q.isl), answers)
    return run(requests, [served], concurrency=concurrency, think_s=think_s, log=kept)


def serve_s(q: Question, served: Served) -> float:
    """S of one door: a replica has one for each group of attention."""
    doors = served.pool.replicas * served.pool.dp
    return (q.profile.api_request_s + q.osl * q.profile.api_token_s) / doors


def waited_open_s(q: Question, served: Served) -> float:
    """What an open load waits for the API server, on average."""
    rate = q.rate_per_s or 0.0
    if not np.isfinite(rate):
        return 0.0
    each = serve_s(q, served)
    busy = min(0.99, each * rate)
    return each * busy / (1 - busy) / 2


def waited_closed_s(q: Question, served: Served, engine_s: float) -> float:
    """What a closed loop waits, whose round takes the engine so long."""
    whole = (q.concurrency or 0) * serve_s(q, served)
    return max(0.0, whole - q.profile.api_request_s - engine_s)


def dynamic_j(log: Log) -> float:
    """Energy of the work in a log, without what idle devices draw."""
    assert log.leaps is not None
    return float(work.by_replica(log.leaps, log, "energy_j").sum())


def idle_w(log: Log) -> float:
    """What the devices of a log draw when idle."""
    return float(work.of_replica(log, "idle_w").sum())
