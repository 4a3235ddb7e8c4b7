"""Laws of prompts and answers on the same devices, each with a share of them."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from fleets import assert_steps_like_leaps, pool, serve, sharing
from flows import woven
from serving import PS, workload
from sharing_devices import lanes

from forerun.sim.check import check_roles
from forerun.spec.deployment import Policy
from forerun.spec.requests import Requests
from forerun.spec.workload import Client


def fleets(**how):
    return {
        "one": lanes(**how),
        "two": lanes(replicas=2, **how),
        "beside others": [*lanes(**how), pool(n_blocks=26, name="other")],
    }


@pytest.mark.parametrize("how", [{}, {"reserve": "full"}, {"reserve": "prompt"}, {"replicas": 1}])
def test_a_leap_equals_stepping_when_lanes_slow_each_other_down(how):
    preempted = turned = 0
    for seed in range(10):
        requests = sharing(seed, 60, isl=60, ties=seed % 2 == 0)
        pools = fleets(**how) if "replicas" not in how else {"tight": lanes(n_blocks=24)}
        for one in pools.values():
            log = assert_steps_like_leaps(requests, one)
            assert log.n_unfinished == 0
            preempted += log.requests["n_preempt"].sum()
            turned += (log.leaps["pool"] == 1).sum() + (log.leaps["pool"] == 3).sum()
    assert preempted > 20 or how.get("reserve") == "full"
    assert turned > 300


@pytest.mark.parametrize("factor", [1.0, 0.9, 3.7])
def test_a_leap_equals_stepping_whatever_the_other_lane_costs(factor):
    for seed in range(6):
        requests = sharing(seed, 50, isl=60, rate=60.0)
        assert_steps_like_leaps(requests, lanes(beside=factor))


@pytest.mark.parametrize("route", ["power_of_two", "prefix_aware", "round_robin"])
def test_a_leap_equals_stepping_behind_any_router(route):
    for seed in range(5):
        requests = sharing(seed, 50, isl=60)
        for pools in fleets().values():
            assert_steps_like_leaps(requests, pools, route=Policy(name=route))


def test_a_leap_equals_stepping_beside_split_phases_that_move_kv():
    came = 0
    for seed in range(6):
        others = [
            pool("prefill", "p", n_blocks=26),
            pool("decode", "d", n_blocks=30),
        ]
        mine = lanes(bytes_per_s=2e6)
        log = assert_steps_like_leaps(sharing(seed, 60, isl=60), [*mine, *others])
        assert log.replicas["n_moved"][2] > 0
        assert (log.replicas["n_moved"][:2] == 0).all()  # the lanes' own stay where they are
        rows = log.requests
        came += ((rows["replica"] == 1) & (rows["prefill_replica"] == 2)).sum()
    assert came > 10  # but they take others'


def test_a_leap_equals_stepping_when_shares_change():
    levels = ((2.0, 1.5), (1.3, 3.0), (4.0, 1.1))
    for seed in range(8):
        draw = np.random.default_rng(seed)
        requests = sharing(seed, 60, isl=60, ties=seed % 2 == 0)
        for switch_s in (0.0, 0.004):
            commands = []
            for time_s in np.sort(draw.uniform(0, 2, 15)).tolist():
                level = int(draw.integers(0, 3))
                commands += [(time_s, "switch", k, 4 * level + 2 * k) for k in (0, 1)]
            pools = lanes(levels=levels, switch_s=switch_s)
            log = assert_steps_like_leaps(requests, pools, commands=commands)
            assert len(np.unique(log.leaps["pool"] // 4)) == 3


@pytest.mark.parametrize(
    "client",
    [
        Client(give_up_s=0.3),
        Client(first_token_s=0.05, retries=2, retry_on=("timeout",), backoff_s=0.02),
        Client(hedge_s=0.02),
    ],
)
def test_a_leap_equals_stepping_when_clients_go_away(client):
    for seed in range(5):
        for pools in (lanes(replicas=2), lanes(n_blocks=24)):
            assert_steps_like_leaps(sharing(seed, 50, isl=60), pools, client=client)


def test_a_leap_equals_stepping_with_workflows_and_closed_loops():
    for seed in range(5):
        requests = sharing(seed, 50, isl=60)
        assert_steps_like_leaps(woven(requests, seed), lanes(replicas=2))
        assert_steps_like_leaps(requests, lanes(replicas=2), concurrency=6, think_s=0.01)


def alone(n=6, gap_s=5.0, isl=100, osl=20):
    """Requests that come one by one, each after the one before has ended."""
    draw = np.random.default_rng(4)
    return Requests(gap_s * np.arange(n), draw.integers(1, isl, n), draw.integers(1, osl, n))


def test_whole_shares_serve_a_request_alone_as_one_engine_does():
    whole = lanes(levels=((1.0, 1.0),), beside=1.0, n_blocks=60)
    a = serve(alone(), [pool(n_blocks=60)]).log_so_far().requests
    b = serve(alone(), whole).log_so_far().requests
    for name in ("scheduled_ps", "first_token_ps", "done_ps", "max_itl_ps", "n_out"):
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def test_a_lane_beside_an_idle_one_is_as_fast_as_alone_and_never_slower_than_beside_a_busy_one():
    for seed in range(5):
        requests = workload(seed, 60, isl=60)
        times = [
            serve(requests, lanes(beside=factor, n_blocks=400)).log_so_far().requests["done_ps"]
            for factor in (1.0, 1.2, 2.0, 4.0)
        ]
        for faster, slower in pairwise(times):
            assert faster.mean() <= slower.mean()
    row = serve(alone(), lanes(beside=9.0, n_blocks=60)).log_so_far().requests
    same = serve(alone(), lanes(beside=1.0, n_blocks=60)).log_so_far().requests
    np.testing.assert_array_equal(row["done_ps"], same["done_ps"])


def test_what_is_left_of_a_step_takes_its_share_of_the_other_price():
    """A prompt of 60 tokens begins while an answer's step is under way, and is joined by it."""
    pools = lanes(levels=((1.0, 1.0),), beside=2.0, n_blocks=200)
    pair = Requests(np.array([0.0, 0.0205]), np.array([8, 60]), np.array([40, 1]))
    log = serve(pair, pools).log_so_far()
    leaps = log.leaps[np.argsort(log.leaps["start_ps"], kind="stable")]
    second = log.requests[1]
    answers = leaps[leaps["replica"] == 1]
    start = second["scheduled_ps"]
    began = answers["start_ps"] + (answers["n_steps"] - 1) * answers["first_ps"]
    at = np.flatnonzero((answers["start_ps"] < start) & (began <= start))[-1]
    step = answers[at]
    assert step["pool"] == 3  # it ended beside the prompt
    assert step["n_steps"] == 1
    before = answers[at - 1]
    price = int(before["first_ps"] + before["n_steps"] * before["slope_ps"])  # of this step, alone
    host = 101 * PS // 1_000_000  # of the step and its sequence: never slower
    both = 2 * (price - host) + host
    done = int(start - step["start_ps"])
    left = -(-(price - done) * both // price)
    assert abs(int(step["first_ps"]) - (done + left)) <= 1


def test_both_lanes_together_never_hold_more_than_the_memory():
    for seed in range(8):
        requests = workload(seed, 60, isl=60, rate=80.0)
        pools = lanes(n_blocks=26)
        log = serve(requests, pools, leap=False).log_so_far()
        assert log.leaps["n_blocks"].max() <= 26
        assert log.replicas["peak_blocks"].max() <= 26
        assert log.replicas["peak_blocks"].max() > 20


def test_a_prompt_goes_on_at_once_where_it_is():
    row = serve(alone(1), lanes(n_blocks=60)).log_so_far()
    first = row.requests["first_token_ps"][0]
    assert row.leaps["start_ps"][row.leaps["replica"] == 1][0] == first
    assert row.requests["away_ps"][0] == 0
    assert row.requests["prefill_replica"][0] == 0
    assert row.requests["replica"][0] == 1


def test_lanes_need_no_link():
    check_roles(lanes())
    check_roles([replace(one, port_bytes_per_s=0.0) for one in lanes(replicas=2)])


def test_the_same_seed_gives_the_same_bytes():
    requests = sharing(3, 60, isl=60)
    a, b = (serve(requests, lanes(replicas=2), seed=5).log_so_far() for _ in range(2))
    for name in ("requests", "leaps", "gaps"):
        assert getattr(a, name).tobytes() == getattr(b, name).tobytes()
