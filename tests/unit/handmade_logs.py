"""Logs small enough to check by hand, and random ones to check laws on."""

from __future__ import annotations

import numpy as np

from forerun.cost.table import CostTable, Work, grid
from forerun.sim.core.rows_log import DONE, GAP, LEAP, STATUS, TOTALS
from forerun.sim.log import Log

S = 10**12  # picoseconds in a second


def rows(dtype: np.dtype, *records: dict) -> np.ndarray:
    """Records of a row type; fields not named are 0, but that no other replica did the prompt."""
    out = np.zeros(len(records), dtype)
    if dtype is DONE:
        out["prefill_replica"] = -1
    for i, record in enumerate(records):
        for name, value in record.items():
            out[i][name] = value
    return out


def table(**changes) -> CostTable:
    """A replica whose step does 10 flop a token, 5 a sequence, 1 a cached token of each decoding
    request, and q*(1 + p) for a chunk of q after p; bytes are twice, joules a hundredth of it."""

    def work(scale: float) -> Work:
        tokens, knots = grid(128), np.array([0, 1000])
        return Work(
            tokens=scale * 10.0 * tokens,
            seqs=scale * 5.0 * grid(4),
            decode=scale * np.arange(5)[:, None] * knots[None, :].astype(float),
            prefill=scale * tokens[:, None] * (1.0 + knots[None, :]),
        )

    values = dict(
        max_tokens=128, max_seqs=4,
        knots_ctx=np.array([0, 1000]), knots_past=np.array([0, 1000]),
        time_s=work(1e-3), flop=work(1), hbm_bytes=work(2), link_bytes=work(0),
        energy_j=work(0.01), idle_w=10.0, host_step_s=0.1, host_seq_s=0.05, n_devices=2,
        peak_flop_per_s=1000.0, peak_hbm_bytes_per_s=4000.0, low=0.8, high=1.5,
        sources={"roofline": 1.0}, by_operator={"matmul": 0.7, "attention": 0.3},
    )  # fmt: skip
    return CostTable(**(values | changes))


def three_requests(**changes) -> Log:
    """One replica of two devices, times in whole seconds:

    0-2   computes the 100-token prompt of request 0          -> its first token at 2
    2-5   computes the 50-token prompt of request 1 (came at 1) -> its only token at 5
    5-6-8 decodes request 0 in steps of 1 s and 2 s            -> tokens at 6 and 8
    Request 2 came at 4 and was rejected.  Request 0 waited from 2 to 6 for its second token.
    """
    requests = rows(
        DONE,
        dict(request=0, arrival_ps=0, scheduled_ps=0, first_token_ps=2 * S, done_ps=8 * S,
             isl=100, osl=3, n_out=3, max_itl_ps=4 * S),
        dict(request=1, arrival_ps=S, scheduled_ps=2 * S, first_token_ps=5 * S, done_ps=5 * S,
             isl=50, osl=1, n_out=1),
        dict(request=2, arrival_ps=4 * S, scheduled_ps=-1, first_token_ps=-1, done_ps=4 * S,
             isl=999, osl=9, status=STATUS["rejected"], replica=-1),
    )  # fmt: skip
    leaps = rows(
        LEAP,
        dict(start_ps=0, first_ps=2 * S, n_steps=1, n_tokens=100, n_seqs=1, n_chunks=1, chunk=100,
             n_blocks=7, n_running=1),
        dict(start_ps=2 * S, first_ps=3 * S, n_steps=1, n_tokens=50, n_seqs=1, n_chunks=1,
             chunk=50, n_blocks=10, n_running=2, n_waiting=1),
        dict(start_ps=5 * S, first_ps=S, slope_ps=S, n_steps=2, n_tokens=1, n_seqs=1, n_decode=1,
             ctx=101, n_blocks=7, n_running=1),
    )  # fmt: skip
    values = dict(
        requests=requests,
        leaps=leaps,
        gaps=rows(GAP, dict(end_ps=6 * S, gap_ps=4 * S, count=1)),
        start_ps=0, end_ps=8 * S, n_unfinished=0,
        replicas=rows(TOTALS, dict(busy_ps=8 * S, n_steps=4, n_tokens=152, n_out=4, n_done=2,
                                   peak_blocks=10, peak_running=2)),
        pool_of_replica=np.array([0]), tables=(table(),), pools=("main",),
        kv_blocks=np.array([10]), seed=0,
    )  # fmt: skip
    return Log(**(values | changes))


def many_requests(n: int = 600, seed: int = 0, replicas: int = 2) -> Log:
    """A made-up run, consistent within itself: each replica serves one request at a time, the
    prompt in one step and then `osl - 1` decode steps that grow, first come, first served."""
    rng = np.random.default_rng(seed)
    arrival = np.cumsum(rng.integers(S // 100, S // 5, n))
    free = np.zeros(replicas, np.int64)
    done, leaps, totals = [], [], np.zeros(replicas, TOTALS)
    for i in range(n):
        r = int(np.argmin(free))
        isl, osl = int(rng.integers(1, 128)), int(rng.integers(1, 20))
        start = max(int(arrival[i]), int(free[r]))
        first = start + isl * S // 2000
        leaps.append(dict(start_ps=start, first_ps=first - start, n_steps=1, replica=r,
                          n_tokens=isl, n_seqs=1, n_chunks=1, chunk=isl, n_blocks=8, n_running=1,
                          n_waiting=int(start > arrival[i])))  # fmt: skip
        step, slope, k = int(rng.integers(S // 200, S // 50)), S // 10_000, osl - 1
        span = k * step + slope * k * (k - 1) // 2
        if k:
            leaps.append(dict(start_ps=first, first_ps=step, slope_ps=slope, n_steps=k, replica=r,
                              n_tokens=1, n_seqs=1, n_decode=1, ctx=isl, n_blocks=9,
                              n_running=1))  # fmt: skip
        done.append(dict(request=i, arrival_ps=arrival[i], scheduled_ps=start, replica=r,
                         first_token_ps=first, done_ps=first + span, isl=isl, osl=osl, n_out=osl,
                         max_itl_ps=step + slope * (k - 1) if k else 0))  # fmt: skip
        free[r] = first + span
        totals[r]["busy_ps"] += free[r] - start
        totals[r]["n_steps"] += osl
        totals[r]["n_tokens"] += isl + k
        totals[r]["n_out"] += osl
        totals[r]["n_done"] += 1
        totals[r]["peak_blocks"], totals[r]["peak_running"] = 9, 1
    return Log(
        requests=rows(DONE, *done), leaps=rows(LEAP, *leaps), gaps=np.zeros(0, GAP),
        start_ps=0, end_ps=int(free.max()), n_unfinished=0, replicas=totals,
        pool_of_replica=np.zeros(replicas, np.int64), tables=(table(),), pools=("main",),
        kv_blocks=np.array([10]), seed=seed,
    )  # fmt: skip


def expanded_gaps_ps(log: Log) -> np.ndarray:
    """Every inter-token gap, one entry each, by walking over each step of each leap."""
    out: list[int] = []
    for leap in log.leaps:
        end = int(leap["start_ps"])
        for i in range(int(leap["n_steps"])):
            step = int(leap["first_ps"] + i * leap["slope_ps"])
            end += step
            here = log.gaps[(log.gaps["end_ps"] == end) & (log.gaps["replica"] == leap["replica"])]
            moved = here[here["resumed"] == 0]["count"].sum() if i == 0 else 0
            out += [step] * int(leap["n_decode"] - moved)
    for gap in log.gaps:
        out += [int(gap["gap_ps"])] * int(gap["count"])
    return np.array(out, np.int64)
