"""Small cases for the laws of the serving core: tables, workloads and runs."""

from __future__ import annotations

import numpy as np

from forerun.cost.table import CostTable, Work, grid
from forerun.sim.serve import Served, run
from forerun.spec.deployment import Engine, Pool
from forerun.spec.requests import Requests

PS = 10**12


def table(
    max_tokens=64, max_seqs=16, *, flat=2e-3, token=1e-4, ctx=3e-6, knots=(0, 32, 100), eager=0.0
):
    """Costs with a bend at each knot, so that a leap over one would show."""
    tokens, seqs = grid(max_tokens).astype(float), grid(max_seqs).astype(float)
    at = np.array(knots)
    bend = at + np.maximum(0, at - knots[1]) * 0.5  # steeper beyond the second knot
    n = np.arange(max_seqs + 1)[:, None]
    time = Work(
        tokens=np.where(tokens > 0, np.maximum(flat, tokens * token), 0.0),
        seqs=seqs * 1e-5,
        decode=n * bend[None, :] * ctx,
        prefill=tokens[:, None] * (tokens[:, None] + 2 * bend[None, :]) * ctx / 4,
    )
    return CostTable(
        max_tokens=max_tokens, max_seqs=max_seqs, knots_ctx=at, knots_past=at, time_s=time,
        flop=time, hbm_bytes=time, link_bytes=time, energy_j=time, idle_w=100.0, host_step_s=1e-4,
        host_seq_s=1e-6, n_devices=1, peak_flop_per_s=1e15, peak_hbm_bytes_per_s=1e12, low=0.9,
        high=1.1, sources={"test": 1.0}, eager_s=eager,
    )  # fmt: skip


def served(costs=None, *, replicas=1, n_blocks=64, max_len=10_000, pp=1, device="none", **engine):
    costs = costs or table()
    settings = {
        "max_num_seqs": costs.max_seqs,
        "max_num_batched_tokens": costs.max_tokens,
        "block_tokens": 4,
        **engine,
    }
    pool = Pool(device=device, replicas=replicas, pp=pp, engine=Engine(**settings))
    return Served(pool=pool, table=costs, n_blocks=n_blocks, max_len=max_len)


def workload(seed, n, *, rate=40.0, isl=40, osl=30, ties=False):
    """Random requests; with `ties` many arrive at the same moment."""
    draw = np.random.default_rng(seed)
    arrival = np.cumsum(draw.exponential(1 / rate, n))
    if ties:
        arrival = np.round(arrival, 1)
    return Requests(
        arrival_s=arrival,
        isl=draw.integers(1, isl + 1, n),
        osl=draw.integers(1, osl + 1, n),
        priority=draw.integers(0, 3, n),
        session=draw.integers(-1, 5, n),
    )


def simulate(requests, pools, **settings):
    return run(requests, pools if isinstance(pools, list) else [pools], **settings)


def token_times(log):
    """End time of every inter-token gap as the leaps and gaps of a log tell: sorted lists of gaps
    a replica, expanded one by one."""
    special: dict[tuple[int, int], list[tuple[int, int]]] = {}
    resumed: dict[int, list[int]] = {}
    for row in log.gaps:
        if row["resumed"]:
            resumed.setdefault(int(row["replica"]), []).append(int(row["gap_ps"]))
        else:
            key = (int(row["replica"]), int(row["end_ps"]))
            special.setdefault(key, []).append((int(row["gap_ps"]), int(row["count"])))
    out = {replica: list(gaps) for replica, gaps in resumed.items()}
    for row in log.leaps:
        replica, now = int(row["replica"]), int(row["start_ps"])
        gaps = out.setdefault(replica, [])
        gaps += [0] * int(row["n_extra"])  # tokens that came together
        for step in range(int(row["n_steps"])):
            length = int(row["first_ps"]) + step * int(row["slope_ps"])
            now += length
            normal = int(row["n_decode"])
            if step == 0 and normal:
                for gap, count in special.get((replica, now), []):
                    gaps += [gap] * count
                    normal -= count
            gaps += [length] * normal
    return {replica: sorted(gaps) for replica, gaps in out.items()}
