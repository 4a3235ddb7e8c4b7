"""Prompts and answers on pools of their own, as a closed network of two stations.

    prefill  a simulation with answers of one token; its clients think for R_d, the API server's
             wait and W before each next prompt
    decode   B = X R_d / replicas requests in a batch (Little's law), R_d = transfer + osl step(B),
             at most as many as a replica has slots; what finds none waits for one, W

X is the prefill stage's throughput, so R_d, W and X are found by turns.  No more than
X_most = replicas slots / R_d get through: of C clients each waits so long that X is that, under
open load the k-th request waits for the k-slots'th to end.  Latency to the first token is the
prefill stage's, the API server's, W, the hand-over and one step of decoding.  Energy a token is

    E = (E_prefill / n + (osl - 1) e_step(B) / B) / osl + idle power / (X osl)
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
    replicas, slots = decode.served.pool.replicas, decode.slots(q.isl, q.osl)
    table, transfer = decode.served.table, q.profile.transfer_s
    fullest = max(1.0, min(slots, (q.concurrency or q.n_requests) / replicas))
    step = _step_s(table, fullest, q)
    waited = 0.0 if q.concurrency else waited_open_s(q, prefill.served)
    seated = 0.0  # what a request of a closed loop waits for a slot
    for _ in range(TURNS):
        residence = transfer + q.osl * step
        think = residence + seated + waited if q.concurrency else 0.0
        kept = "full" if energy else "requests"
        log = simulate(q, prefill.served, 1, q.concurrency, think, kept)
        rows = log.requests
        prompt = float(latency.e2el_s(rows).mean())
        if q.concurrency:
            rate = q.concurrency / (prompt + think)
        else:
            rate = len(rows) / ((rows["done_ps"].max() - rows["arrival_ps"].min()) * latency.PS)
        most = replicas * slots / residence
        batch = float(np.clip(rate * residence / replicas, 1.0, fullest))
        found = _step_s(table, batch, q)
        wanted, seat = waited, 0.0
        if q.concurrency:
            seat = max(0.0, seated + q.concurrency * (1 / most - 1 / rate))
            engine = prompt + seat + transfer + q.osl * found
            wanted = waited_closed_s(q, prefill.served, engine)
        settled = abs(wanted - waited) + abs(seat - seated) < 0.02 * think + 1e-3
        if abs(np.log(found / step)) < 0.01 and settled:
            break
        step, waited = float(np.sqrt(step * found)), (waited + wanted) / 2 if waited else wanted
        seated = seat
    if q.concurrency:
        waited, queued, step = wanted, np.full(len(rows), seat), found
        rate = q.concurrency / (q.profile.api_request_s + waited + prompt + seat + transfer
                                + q.osl * step)  # fmt: skip
    else:
        queued = queued_s(rows, replicas * slots, residence)
        ends = rows["done_ps"] * latency.PS + queued + residence
        rate = len(rows) / float(ends.max() - rows["arrival_ps"].min() * latency.PS)
    first = latency.ttft_s(rows) + q.profile.api_request_s + waited + queued + transfer + step
    tpot = np.full(len(rows), step)
    figures = {"ttft_s": first, "tpot_s": tpot, "e2el_s": first + tpot * (q.osl - 1)}
    joule = _energy_j(q, log, rate, decode, batch) if energy else None
    return figures, rate * q.osl, joule


def queued_s(rows: np.ndarray, slots: int, residence: float) -> np.ndarray:
    """What each request waits for one of the slots, first come first served, seconds [N]; each
    keeps one for `residence`."""
    order = np.argsort(rows["done_ps"], kind="stable")
    ready = rows["done_ps"][order] * latency.PS
    start = ready.copy()
    for k in range(slots, len(start), slots):
        before = start[k - slots : k][: len(start) - k]
        np.maximum(ready[k : k + slots], before + residence, out=start[k : k + slots])
    waits = np.empty(len(start))
    waits[order] = start - ready
    return waits


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
