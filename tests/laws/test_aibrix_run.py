"""KV kept below memory against a measured fleet: AIBrix's benchmark of vLLM on eight A100s.

Each user sends one prompt of 21,073 tokens, whose beginning (1,000 tokens of system prompt, 20,000
of history) had been served before.  `naive` spreads requests and computes every prompt;
`ps_stack_high_low` sends a user to the same replica, which keeps KV in host memory (LMCache).  The
size of that memory and the rate to it are not in the data: 120 GB and 25 GB/s are ours.
"""

from __future__ import annotations

import csv
import gzip

import numpy as np
import pytest

from forerun import catalog
from forerun.sim.prepare import prepare
from forerun.sim.serve import run
from forerun.sim.tiers import Tier
from forerun.spec.deployment import Deployment, Engine, Policy, Pool
from forerun.spec.requests import Requests

BLOCK = 256  # LMCache's chunk
RATES = (0.1, 0.5, 0.9, 1.3, 1.7, 2.1, 2.5, 2.9, 3.3, 3.7, 4.1)
DRAM = Tier("dram", 120e9, 25e9, 1e-4)


@pytest.fixture(scope="module")
def measured(shared_data):
    """Rows (launch_time, user_id, prompt_tokens, generation_tokens, ttft) by setup and rate."""
    path = shared_data / "aibrix_kvcache_bench" / "requests_v0_2_1.csv.gz"
    names = ("launch_time", "user_id", "prompt_tokens", "generation_tokens", "ttft")
    out: dict[tuple[str, float], list[list[float]]] = {}
    with gzip.open(path, "rt") as file:
        for row in csv.DictReader(file):
            key = row["setup"], float(row["qps"])
            out.setdefault(key, []).append([float(row[name]) for name in names])
    return {key: np.array(sorted(rows)) for key, rows in out.items()}


def fleet(**engine):
    pool = Pool(device="a100-sxm-80gb", replicas=8, engine=Engine(**engine))
    deployment = Deployment(pools=(pool,))
    return prepare(catalog.model("llama-3.1-8b"), deployment, mean_len=21_000)


def requests(rows, *, served_before):
    """The measured arrivals; served before: all users' prompts come first, one in three seconds."""
    at, user, isl, osl = rows[:, 0] - rows[0, 0], *rows[:, 1:4].astype(np.int64).T
    if served_before:
        each = np.unique(user)
        at = np.concatenate([3.0 * np.arange(len(each)), at + 3.0 * len(each) + 60])
        user = np.concatenate([each, user])
        isl = np.concatenate([np.full(len(each), isl[0]), isl])
        osl = np.concatenate([np.full(len(each), 2), osl])
    n = isl // BLOCK
    starts = np.concatenate([[0], np.cumsum(n)])
    place = np.arange(starts[-1]) - np.repeat(starts[:-1], n)
    own = (np.repeat(user, n) + 1) * 100_000 + place
    hashes = np.where(place < 1000 // BLOCK, place, own)
    return Requests(
        at, isl, osl, session=user, block_hashes=hashes, block_starts=starts, hash_tokens=BLOCK
    )


def ttft_s(log, n):
    rows = log.requests[-n:]
    return (rows["first_token_ps"] - rows["arrival_ps"]) / 1e12


@pytest.fixture(scope="module")
def both(measured):
    """Median TTFT by rate: {setup: (measured, simulated)}."""
    out = {"naive": ([], []), "ps_stack_high_low": ([], [])}
    computing, keeping = fleet(prefix_caching=False), fleet()
    for rate in RATES:
        rows = measured["naive", rate]
        sent = requests(rows, served_before=False)
        log = run(sent, computing, route=Policy(name="round_robin"), log="requests")
        out["naive"][0].append(np.median(rows[:, 4]))
        out["naive"][1].append(np.median(ttft_s(log, len(rows))))
        rows = measured["ps_stack_high_low", rate]
        sent = requests(rows, served_before=True)
        route = Policy(name="session_sticky")
        log = run(sent, keeping, route=route, tiers=[DRAM], log="requests")
        out["ps_stack_high_low"][0].append(np.median(rows[:, 4]))
        out["ps_stack_high_low"][1].append(np.median(ttft_s(log, len(rows))))
    return {setup: (np.array(a), np.array(b)) for setup, (a, b) in out.items()}


def test_a_prompt_computed_alone_takes_as_long_as_measured(both):
    real, ours = both["naive"]
    assert ours[0] == pytest.approx(real[0], rel=0.05)


def test_keeping_kv_is_faster_at_every_rate_as_measured(both):
    for which in (0, 1):
        assert (both["ps_stack_high_low"][which] < both["naive"][which]).all()


def test_the_rate_at_which_computing_saturates_is_that_measured(both):
    """The first rate whose median is twice that of an empty fleet: 3.7 measured, 4.1 simulated."""
    real, ours = (RATES[int(np.argmax(t > 2 * t[0]))] for t in both["naive"])
    assert ours == pytest.approx(real, rel=0.15)


def test_what_is_kept_comes_sooner_than_measured_by_what_is_not_modelled(both):
    """Tokenising 21,000 tokens, routing and LMCache's own work are not in our TTFT: measured
    0.20 s at every rate, ours 0.03 to 0.15 s."""
    real, ours = both["ps_stack_high_low"]
    assert (ours < real).all()
    assert (real - ours < 0.2).all()
