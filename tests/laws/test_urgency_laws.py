"""Laws of orders that look at due times and at the workflow a request is part of."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from fleets import assert_laws, both_ways, fleets, pool, serve, sharing, troubles
from flows import assert_order, woven
from serving import PS
from test_tier_laws import with_engine

from forerun.sim.calls import rest_of
from forerun.sim.log import Tenant
from forerun.spec.deployment import Policy
from forerun.spec.requests import Requests

ORDERS = {
    "least_slack": {"tokens_per_s": 500, "token_s": 0.005, "answer_tokens": 20},
    "oracle_least_slack": {"tokens_per_s": 500, "token_s": 0.005},
    "least_attained_service": {"level_s": 0.05},
    "least_attained_path": {"level_s": 0.05},
    "critical_path": {"call_s": 0.2},
    "oracle_critical_path": {"token_s": 0.003},
    "oracle_shortest_rest": {},
}
TENANTS = [Tenant(ttft_s=0.05), Tenant(), Tenant(ttft_s=0.5)]


def ordered(pools, name):
    return with_engine(pools, order=Policy(name=name, params=ORDERS[name]))


@pytest.mark.parametrize("name", ORDERS)
def test_a_leap_equals_stepping_with_every_order(name):
    for seed in range(3):
        requests = woven(sharing(seed, 60, isl=60, ties=seed % 2 == 0), seed)
        requests = replace(requests, tenant=np.arange(60) % 3)
        for pools in fleets().values():
            pools = ordered(pools, name)
            commands = troubles(seed, pools) if seed else ()
            leapt = both_ways(serve, requests, pools, commands=commands, tenants=TENANTS)
            log = assert_laws(leapt, requests, all_sent=False)
            assert_order(log, requests)


def test_the_rest_of_a_path_is_the_longest_to_any_end():
    for seed in range(5):
        requests = woven(sharing(seed, 40), seed)
        starts = requests.successor_starts

        def longest(r, cost):
            after = requests.successors[starts[r] : starts[r + 1]]  # noqa: B023
            return cost[r] + max((longest(a, cost) for a in after), default=0)

        n_calls, tokens = rest_of(requests)
        one = np.ones(len(requests), dtype=int)
        assert n_calls.tolist() == [longest(r, one) for r in range(len(requests))]
        own = requests.isl + requests.osl
        assert tokens.tolist() == [longest(r, own) for r in range(len(requests))]


def test_attained_service_adds_up_over_a_workflow_and_along_its_longest_path():
    for seed in range(3):
        requests = woven(sharing(seed, 50, isl=60), seed)
        server = serve(requests, [pool(replicas=2)])
        rows, calls = server.log_so_far().requests, server._state.calls
        ran = rows["done_ps"] - rows["scheduled_ps"]
        np.testing.assert_array_equal(calls.ran_ps, ran)
        whole = np.bincount(requests.workflow, weights=ran.astype(float))
        flows = server._state.flows.ran_ps[np.unique(calls.workflow)]
        np.testing.assert_allclose(np.sort(flows), np.sort(whole[whole > 0]))
        before = np.repeat(np.arange(50), np.diff(requests.successor_starts))
        path = np.zeros(50)
        for b, a in zip(before, requests.successors, strict=True):
            path[a] = max(path[a], path[b] + ran[b])
        np.testing.assert_array_equal(calls.path_ps, path)


def chains(n, seed, *, long_share=0.2, spread_s=6.0):
    """n workflows that come over `spread_s`: short chains of 2 requests and long ones of 16."""
    draw = np.random.default_rng(seed)
    sizes = np.where(draw.random(n) < long_share, 16, 2)
    start = np.sort(draw.uniform(0, spread_s, n))
    workflow = np.repeat(np.arange(n), sizes)
    inside = np.diff(workflow, append=-1) == 0
    total = len(workflow)
    return Requests(
        start[workflow],
        draw.integers(10, 40, total),
        draw.integers(5, 20, total),
        workflow=workflow,
        session=workflow,
        successors=np.flatnonzero(inside) + 1,
        successor_starts=np.concatenate([[0], np.cumsum(inside)]),
        delay_s=np.zeros(int(inside.sum())),
        deadline_s=np.repeat(np.full(len(sizes), 2.0), sizes),
    ), sizes


def workflow_s(log, requests):
    rows = log.requests
    end = np.zeros(requests.workflow.max() + 1)
    np.maximum.at(end, requests.workflow, rows["done_ps"] / PS)
    start = np.full(len(end), np.inf)
    np.minimum.at(start, requests.workflow, requests.arrival_s)
    return end - start


def told(name, long_share, params=None):
    """(mean time of a workflow, share within its deadline) at saturation, or beyond it."""
    found = []
    for seed in range(3):
        requests, _ = chains(150, seed, spread_s=2.5, long_share=long_share)
        pools = with_engine([pool(n_blocks=60)], order=Policy(name=name, params=params or {}))
        took = workflow_s(serve(requests, pools).log_so_far(), requests)
        found.append((took.mean(), (took <= 2.0).mean()))
    return np.mean(found, axis=0)


def test_knowing_what_a_workflow_has_had_shortens_the_mean_and_lengths_do_so_more():
    plain, _ = told("fcfs", 0.1)
    attained, _ = told("least_attained_service", 0.1, {"level_s": 0.05})
    oracle, _ = told("oracle_shortest_rest", 0.1)
    assert oracle < attained < 0.9 * plain


def test_looking_at_the_rest_of_the_path_keeps_more_deadlines_until_none_can_be_kept():
    _, plain = told("fcfs", 0.1)
    _, due = told("earliest_deadline", 0.1)
    _, urgent = told("critical_path", 0.1, {"call_s": 0.08})
    assert plain < due < urgent
    # overloaded, the most urgent are those that are late already: worse than as they come
    _, plain = told("fcfs", 0.3)
    _, urgent = told("critical_path", 0.3, {"call_s": 0.08})
    assert urgent < plain


def test_who_has_least_slack_comes_first():
    """A late deadline, a near first token, a near deadline with a long prompt."""
    n = 12
    arrival = np.concatenate([np.zeros(n - 3), np.full(3, 1e-4)])
    tenant = np.concatenate([np.full(n - 3, 1), [1, 0, 1]])
    deadline = np.concatenate([np.full(n - 3, np.inf), [9.0, np.inf, 0.3]])
    isl = np.concatenate([np.full(n - 3, 20), [20, 20, 60]])
    requests = Requests(arrival, isl, np.full(n, 10), tenant=tenant, deadline_s=deadline)
    pools = ordered([pool(max_num_seqs=3, n_blocks=64)], "least_slack")
    rows = serve(requests, pools, tenants=TENANTS).log_so_far().requests
    start = rows["scheduled_ps"]
    assert start[10] < start[9]
    assert start[11] < start[9]
    assert start[9] < start[3:9].min()  # the others are never due
