"""A small case to plan for."""

import numpy as np

from forerun.cost.table import CostTable, Work, grid
from forerun.plan.evaluate import Bench
from forerun.plan.screen import Ready, least_replicas
from forerun.plan.space import ROUTE, Candidate
from forerun.plan.store import Store
from forerun.sim.serve import Served
from forerun.spec.case import Case
from forerun.spec.deployment import Engine, Pool
from forerun.spec.requests import Requests
from forerun.spec.slo import Slo


def case(fleet=None, **changes):
    """A chat-like load of 300 requests that one l40s cannot carry."""
    values = {
        "model": "llama-3.1-8b",
        "fleet": fleet or {"l40s": 4, "h100-sxm": 2},
        "traffic": {
            "rate_per_s": 10, "n_requests": 300,
            "isl": {"kind": "lognormal", "mean": 800, "cv": 0.8, "high": 6000},
            "osl": {"kind": "lognormal", "mean": 150, "cv": 0.6, "high": 1000},
        },
        "slo": {"ttft_s": 0.5, "tpot_s": 0.05, "attainment": 0.95},
    }  # fmt: skip
    return Case.model_validate(values | changes)


def one_at_a_time(step_s, *, device, most=8, rate=250.0, n=400):
    """A replica that takes `step_s` for each request of one token in, one out; no batches.

    At 250 requests a second, evenly spread, a replica of 10 ms carries 100 of them and one of 5 ms
    200: it takes 3 of the one or 2 of the other, on which nobody waits longer than a service.
    """
    zero = np.zeros((2, 1))
    time = Work(grid(1) * step_s, np.zeros(2), zero, zero)
    at = np.zeros(1, dtype=np.int64)
    costs = CostTable(
        max_tokens=1, max_seqs=1, knots_ctx=at, knots_past=at, time_s=time, flop=time,
        hbm_bytes=time, link_bytes=time, energy_j=time, idle_w=100.0, host_step_s=0.0,
        host_seq_s=0.0, n_devices=1, peak_flop_per_s=1.0, peak_hbm_bytes_per_s=1.0, low=0.9,
        high=1.5, sources={"hand": 1.0},
    )  # fmt: skip
    pool = Pool(device=device, engine=Engine(max_num_seqs=1, max_num_batched_tokens=1))
    served = Served(pool=pool, table=costs, n_blocks=64, max_len=64)
    r = Requests(np.arange(n) / rate, np.ones(n, dtype=np.int64), np.ones(n, dtype=np.int64))
    slo = Slo(ttft_s=0.021)
    ready = Ready(Candidate(pool, ROUTE, most), served, least_replicas(served, r, slo))
    return Bench(ready, r, slo, 0, Store())
