"""Where theory has a closed form, the simulator must meet it: one sequence at a time, one token."""

from __future__ import annotations

import numpy as np
import pytest
from serving import PS, served, simulate

from forerun.cost.table import CostTable, Work, grid
from forerun.spec.requests import Requests

N = 400_000
MEAN = 50  # tokens of a prompt, so ms of service
MAX_TOKENS = 2048


def one_ms_a_token():
    """A step that takes a millisecond a prompt token and nothing else."""
    tokens = grid(MAX_TOKENS).astype(float)
    knots = np.array([0])
    time = Work(
        tokens=tokens * 1e-3,
        seqs=np.zeros(2),
        decode=np.zeros((2, 1)),
        prefill=np.zeros((len(tokens), 1)),
    )
    return CostTable(
        max_tokens=MAX_TOKENS, max_seqs=1, knots_ctx=knots, knots_past=knots, time_s=time,
        flop=time, hbm_bytes=time, link_bytes=time, energy_j=time, idle_w=0.0, host_step_s=0.0,
        host_seq_s=0.0, n_devices=1, peak_flop_per_s=1.0, peak_hbm_bytes_per_s=1.0, low=1.0,
        high=1.0, sources={},
    )  # fmt: skip


def lengths(kind, draw):
    if kind == "M/D/1":
        return np.full(N, MEAN)
    if kind == "M/M/1":  # exponential, in whole ms: geometric with the same mean
        return np.minimum(draw.geometric(1 / MEAN, N), MAX_TOKENS)
    return np.where(draw.random(N) < 0.1, 10 * MEAN - 45, 5)  # M/G/1: 455 ms or 5 ms, mean 50


@pytest.mark.parametrize("kind", ["M/M/1", "M/D/1", "M/G/1"])
@pytest.mark.parametrize("load", [0.3, 0.7])
def test_mean_wait_meets_pollaczek_and_khinchin(kind, load):
    #   W = lambda * E[S^2] / (2 * (1 - rho));  for M/M/1 that is rho / (mu - lambda)
    draw = np.random.default_rng(7)
    isl = lengths(kind, draw)
    service = isl * 1e-3
    rate = load / service.mean()
    arrival = np.cumsum(draw.exponential(1 / rate, N))
    pool = served(
        one_ms_a_token(), n_blocks=10_000, max_num_seqs=1, max_num_batched_tokens=MAX_TOKENS
    )
    log = simulate(Requests(arrival, isl, np.ones(N, int)), pool, log="requests")
    wait = (log.requests["scheduled_ps"] - log.requests["arrival_ps"]) / PS
    rho = rate * service.mean()
    expected = rate * (service**2).mean() / (2 * (1 - rho))
    # spread of the mean over 20 stretches of the run, which are close to independent
    parts = wait.reshape(20, -1).mean(axis=1)
    error = 4 * parts.std(ddof=1) / np.sqrt(20)
    assert abs(wait.mean() - expected) < error
    assert error < 0.12 * expected  # the run is long enough for that to mean something
    busy = log.replicas["busy_ps"].sum() / PS
    assert busy == pytest.approx(service.sum(), rel=1e-12)


def test_a_busy_server_serves_at_the_rate_its_steps_allow():
    isl = np.full(1000, MEAN)
    log = simulate(
        Requests(np.zeros(1000), isl, np.ones(1000, int)),
        served(one_ms_a_token(), n_blocks=10_000, max_num_seqs=1, max_num_batched_tokens=2048),
    )
    assert log.end_ps == 1000 * MEAN * PS // 1000
