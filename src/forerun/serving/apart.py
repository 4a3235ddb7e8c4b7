"""Prompts and answers on pools of their own, as a closed network of two stations.

    prefill  a simulation with answers of one token; its clients think for R_d and the API server's
             wait before each next prompt
    decode   B = X R_d / replicas requests in a batch (Little's law), R_d = transfer + osl step(B)

X is the prefill stage's throughput, so R_d and X are found by turns.  Latency to the first token is
the prefill stage's, the API server's, the hand-over and one step of decoding.  Energy a token is

    E = (E_prefill / n + (osl - 1) e_step(B) / B) / osl + idle power / (X osl)

What waits for a seat of the decode pool is left out.
"""

from __future__ import annotations

import numpy as np

from forerun.cost.step import step_time, step_work
from forerun.cost.table import CostTable
from forerun.metrics import latency
from forerun.serving.loop import (
    TURNS,
    Simulate,
    dynamic_j,
    idle_w,
    simulated,
    waited_closed_s,
    waited_open_s,
)  # fmt: skip
from forerun.serving.question import Question
from forerun.serving.station import Station
from forerun.sim.log import Log


def served_apart(
    q: Question,
    prefill: Station,
    decode: Station,
    *,
    energy: bool,
    simulate: Simulate = simulated,
) -> tuple[dict[str, np.ndarray], float, float | None]:
    """(latencies of each request by figure, output tokens a second, joules an output token)."""
    replicas, seats = decode.served.pool.replicas, decode.served.seats
    table, transfer = decode.served.table, q.profile.transfer_s
    step = _step_s(table, min(seats, max(1.0, (q.concurrency or q.n_requests) / replicas)), q)
    waited = 0.0 if q.concurrency else waited_open_s(q, prefill.served)
    for _ in range(TURNS):
        residence = transfer + q.osl * step
        think = residence + waited if q.concurrency else 0.0
        kept = "full" if energy else "requests"
        log = simulate(q, prefill.served, 1, q.concurrency, think, kept)
        rows = log.requests
        span = (rows["done_ps"].max() - rows["arrival_ps"].min()) * latency.PS
        rate = len(rows) / span
        batch = float(np.clip(rate * residence / replicas, 1.0, seats))
        found = _step_s(table, batch, q)
        if q.concurrency:
            rest = float(latency.e2el_s(rows).mean()) + transfer + q.osl * found
            wanted = waited_closed_s(q, prefill.served, rest)
        else:
            wanted = waited
        if abs(np.log(found / step)) < 0.01 and abs(wanted - waited) < 0.02 * think + 1e-3:
            break
        step, waited = float(np.sqrt(step * found)), (waited + wanted) / 2 if waited else wanted
    first = latency.ttft_s(rows) + q.profile.api_request_s + waited + transfer + step
    tpot = np.full(len(rows), step)
    figures = {"ttft_s": first, "tpot_s": tpot, "e2el_s": first + tpot * (q.osl - 1)}
    joule = _energy_j(q, log, rate, decode, batch) if energy else None
    return figures, rate * q.osl, joule


def _energy_j(q: Question, log: Log, rate: float, decode: Station, batch: float) -> float:
    """Joules an output token, of both pools."""
    table, n = decode.served.table, max(1, round(batch))
    ctx = q.isl + q.osl / 2
    one = step_work(table, table.energy_j, n_tokens=n, n_seqs=n, n_decode=n, decode_ctx=ctx)
    request = dynamic_j(log) / len(log.requests) + (q.osl - 1) * one / n
    idle = idle_w(log) + table.idle_w * decode.served.pool.replicas
    return (request + idle / rate) / q.osl


def _step_s(table: CostTable, batch: float, q: Question) -> float:
    """A decode step in the middle of the answers."""
    n = max(1, round(batch))
    ctx = q.isl + q.osl / 2
    return step_time(table, n_tokens=n, n_seqs=n, n_decode=n, decode_ctx=ctx).value
