"""Laws of fine-tuning beside requests: what steps take, what it costs them, when it ends."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from adapting import WAYS, fitted, naming
from control import drive, scaled
from families import turning
from fleets import (
    assert_laws,
    assert_same,
    both_ways,
    fleets,
    pool,
    serve,
    sharing,
    troubles,
)
from flows import woven
from serving import PS, table
from speculating import kinds
from test_tier_laws import CHAINS, with_engine

from forerun.errors import SpecError
from forerun.sim.log import UP
from forerun.spec.control import Fault
from forerun.spec.deployment import Policy
from forerun.spec.requests import Requests
from forerun.spec.tuning import Tuning
from forerun.spec.workload import Client

POLICIES = {
    "idle_only": Policy(name="idle_only", params={"tokens": 24}),
    "fixed": Policy(name="fixed", params={"tokens": 20}),
    "slack": Policy(name="slack", params={"step_s": 0.012}),
}
BACKLOG = 3_001


def tuned(pools, policy="fixed", tokens=BACKLOG, **how):
    how = Tuning(**{"tokens": tokens, "sequence": 64, "grain": 4, **how})
    return with_engine(pools, tune=POLICIES.get(policy, policy), tuning=how)


def assert_tuned(server, tokens=BACKLOG):
    """Every token of the backlog was trained on once, or is left; steps hold them all."""
    log = server.log_so_far()
    assert (log.tuned["left"] >= 0).all()
    np.testing.assert_array_equal(log.tuned["left"] + log.tuned["n_tokens"], tokens)
    rows = log.leaps
    in_steps = np.bincount(
        rows["replica"], rows["n_tuned"] * rows["n_steps"], minlength=len(log.tuned)
    )
    np.testing.assert_array_equal(in_steps, log.tuned["n_tokens"])
    assert (rows["n_tokens"] + rows["n_tuned"] <= 64).all()
    return log


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("tokens", [BACKLOG, 10**6])
def test_a_leap_equals_stepping_with_tuning(policy, tokens):
    done = 0
    for seed in range(4):
        requests = sharing(seed, 50, isl=60, ties=seed % 2 == 0)
        for pools in fleets().values():
            pools = tuned(pools, policy, tokens)
            leapt = both_ways(serve, requests, pools, seed=3)
            log = assert_laws(leapt, requests)
            assert_tuned(leapt, tokens)
            assert (log.requests["status"] == 0).all()
            done += log.tuned["n_tokens"].sum()
    assert done > 10_000


@pytest.mark.parametrize("policy", POLICIES)
def test_a_fleet_that_controllers_look_at_trains_as_one_that_nobody_looks_at(policy):
    never = Fault(effect="slow", at_s=(1e6,), mttr_s=1.0, factor=2.0)
    slow = Fault(effect="slow", mtbf_s=0.2, mttr_s=0.2, factor=2.5)
    for seed, pools in enumerate(fleets().values()):
        requests, pools = sharing(seed, 50, isl=60), tuned(pools, policy, 10**6)
        looked = drive(requests, pools, faults=(never,), seed=3).server.log_so_far()
        plain = serve(requests, pools, seed=3).log_so_far()
        assert_same(looked, plain)
        np.testing.assert_array_equal(looked.tuned, plain.tuned)
        assert looked.end_ps == plain.end_ps
        leapt = both_ways(drive, requests, pools, faults=(slow,), seed=3).server
        assert_tuned(leapt, 10**6)


@pytest.mark.parametrize("policy", POLICIES)
def test_a_leap_equals_stepping_with_tuning_whatever_else_a_fleet_does(policy):
    for seed in range(6):
        requests = naming(sharing(seed, 50, isl=60, ties=seed % 2 == 0), 3, seed)
        flows = woven(requests, seed)
        way = list(WAYS.values())[seed % len(WAYS)]
        for pools in fleets().values():
            pools = fitted(tuned(pools, policy), n=3, **way)
            client = Client(first_token_s=0.06, hedge_s=0.02, retries=2)
            ways = [
                {"commands": troubles(seed, pools)},
                {"tiers": CHAINS["own then shared"], "fetch": Policy(name="always")},
                {"concurrency": 3},
                {"client": client},
            ]
            settings = ways[seed % len(ways)]
            wanted = flows if seed % 2 else requests
            leapt = both_ways(serve, wanted, pools, seed=3, **settings)
            assert_laws(leapt, wanted, all_sent=False)
            assert_tuned(leapt)


@pytest.mark.parametrize("policy", POLICIES)
def test_a_leap_equals_stepping_with_tuning_on_replicas_that_come_and_go(policy):
    rules = ({"min_replicas": 0}, {"policy": "keep_alive", "keep_alive_s": 0.1, "min_replicas": 0})
    crash = Fault(mtbf_s=0.5, mttr_s=0.15)
    done = 0
    for seed, pools in enumerate([*fleets().values(), *fleets().values()]):
        requests = sharing(seed, 50, isl=60, ties=seed % 2 == 0)
        tokens = (2_000, 10**6)[seed % 2]
        pools = tuned(scaled(pools, len(pools) - 1, replicas=2, **rules[seed // 4]), policy, tokens)
        faults = (crash,) * (seed % 2)
        leapt = both_ways(drive, requests, pools, faults=faults, cold_s=0.05, seed=3)
        log = assert_tuned(leapt.server, tokens)
        assert (log.requests["status"] == 0).all()
        assert_only_while_up(leapt.log())
        done += log.tuned["n_tokens"].sum()
    assert done > 10_000


def assert_only_while_up(log):
    """Every step that tunes alone begins while its replica is open."""
    alone = log.leaps[(log.leaps["n_tuned"] > 0) & (log.leaps["n_tokens"] == 0)]
    for row in alone:
        mine = log.spans[(log.spans["replica"] == row["replica"]) & (log.spans["state"] == UP)]
        start = row["start_ps"]
        assert ((mine["from_ps"] <= start) & (start <= mine["to_ps"])).any()


def test_a_replica_that_tunes_is_not_idle_until_its_backlog_is_done():
    rule = {"policy": "keep_alive", "keep_alive_s": 0.1, "min_replicas": 0, "initial_replicas": 1}
    stays, goes = (
        drive(some([0, 3.0]), tuned(scaled([pool()], **rule), "fixed", tokens)).log()
        for tokens in (10**7, 400)
    )
    assert len(stays.spans[stays.spans["state"] == UP]) == 1
    assert len(goes.spans[goes.spans["state"] == UP]) == 2
    assert stays.tuned["n_tokens"][0] > 10 * goes.tuned["n_tokens"][0] == 4000


def test_without_tokens_to_take_the_log_is_that_of_a_fleet_that_tunes_nothing():
    none = Policy(name="fixed", params={"tokens": 0})
    for seed in range(4):
        requests = sharing(seed, 60, isl=60)
        pools = list(fleets().values())[seed]
        plain, able = (serve(requests, p, seed=3).log_so_far() for p in (pools, tuned(pools, none)))
        assert plain.requests.tobytes() == able.requests.tobytes()
        assert plain.leaps.tobytes() == able.leaps.tobytes()
        assert not able.tuned["n_tokens"].any()


def some(at, *, isl=32, osl=10):
    n = len(at)
    return Requests(np.asarray(at, dtype=float), np.full(n, isl), np.full(n, osl))


def one(at, policy, *, costs=None, osl=10, **how):
    pools = [pool(costs=costs or table())]
    return serve(some(at, osl=osl), tuned(pools, policy, **how)).log_so_far()


def test_tuning_fills_what_requests_leave_and_ends_with_the_last_of_them():
    log = one([0, 2], "idle_only", tokens=10**9)
    alone = log.leaps[log.leaps["n_tuned"] > 0]
    assert (alone["n_tokens"] == 0).all()
    assert log.tuned["alone_ps"][0] > 1.8 * PS
    assert log.tuned["beside_ps"][0] == 0
    last = log.requests["done_ps"].max()
    assert log.end_ps == last


def test_requests_wait_for_a_step_that_tunes_and_no_longer():
    log = one([1.0001], "idle_only", tokens=10**9)
    step = log.leaps[0]
    wait = log.requests["scheduled_ps"][0] - log.requests["arrival_ps"][0]
    assert 0 < wait <= step["first_ps"]


def test_a_backlog_that_is_done_leaves_the_rest_of_the_time_idle():
    log = one([0, 50], "fixed", tokens=1001)
    assert log.tuned["left"][0] == 0
    assert log.replicas["busy_ps"][0] < PS


def test_no_step_that_tunes_beside_requests_is_longer_than_the_slack_policy_allows():
    log = one([0, 0.01, 0.02], "slack", osl=60, tokens=10**9)
    beside = log.leaps[(log.leaps["n_tuned"] > 0)]
    last = beside["first_ps"] + (beside["n_steps"] - 1) * beside["slope_ps"]
    assert (last <= 12 * PS // 1000).all()
    assert len(np.unique(beside["n_tuned"])) > 1


def test_a_tuning_token_costs_its_products_forward_and_backward_and_its_attention():
    costs = replace(table())
    (with_it,) = (one([0], "fixed", costs=costs, tokens=10**6, osl=2).leaps[:1],)
    row = with_it[0]
    plain = one([0], Policy(name="fixed", params={"tokens": 0}), costs=costs, osl=2).leaps[0]
    products = costs.time_s.tokens
    attention = np.interp(32, costs.knots_past, costs.time_s.prefill[20])
    n = int(row["n_tokens"])
    added = products[n + 20] - products[n] + 2 * products[20] + 3 * attention
    assert row["first_ps"] - plain["first_ps"] == pytest.approx(added * PS, rel=1e-9)


def test_what_cannot_tune_is_refused_before_the_run():
    for pools, words in (
        (turning(2), "takes turns"),
        ([pool(pp=2)], "stages"),
        (next(iter(kinds(n_blocks=30).values())), "proposals"),
    ):
        pools = pools if isinstance(pools, list) else [pools]
        with pytest.raises(SpecError, match=words):
            serve(some([0]), tuned(pools))
    with pytest.raises(SpecError, match="do not fit a step"):
        serve(some([0]), tuned([pool()], grain=65))
