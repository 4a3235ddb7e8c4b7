"""Laws of fair queueing: what tenants are served is counted exactly, and bounded apart."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from adapting import fitted
from families import asking, engine_turn, model_fleets
from fleets import assert_laws, assert_same, both_ways, fleets, pool, serve, sharing, troubles
from flows import assert_order, woven
from serving import PS, workload
from speculating import kinds
from test_tier_laws import CHAINS, with_engine

from forerun.errors import PolicyError
from forerun.sim.log import Tenant
from forerun.sim.serve import Server
from forerun.spec.deployment import Policy
from forerun.spec.requests import Requests
from forerun.spec.workload import Client

KNOBS = [{}, {"shared": 1}, {"lift": 0}, {"input": 0.5, "output": 4, "shared": 1, "lift": 0}]
MILLION = 10**6


def fair(pools, **knobs):
    return with_engine(pools, order=Policy(name="vtc", params=knobs))


def of_tenants(requests, n, seed=0, skew=1.0):
    """The same requests, each of one of n tenants; the first ones send most."""
    shares = 1.0 / np.arange(1, n + 1) ** skew
    draw = np.random.default_rng(seed + 11)
    return replace(requests, tenant=draw.choice(n, len(requests), p=shares / shares.sum()))


def told(weights):
    return [Tenant(weight=weight) for weight in weights]


def assert_counted(server, requests, log, weights=(), inp=1.0, out=2.0):
    """Without lift, counters are what the log says was computed for whom."""
    n = len(server._state.tenants)
    weight = np.ones(n)
    weight[: len(weights)] = weights
    rows = log.requests
    counted = server._state.lines.served.reshape(-1, n).sum(axis=0)
    for u in range(n):
        own = rows[rows["tag"] == u]
        prompts = (own["isl"] - own["cached"]).sum() * np.rint(MILLION * inp / weight[u])
        assert counted[u] == prompts + own["n_out"].sum() * np.rint(MILLION * out / weight[u])


@pytest.mark.parametrize("knobs", KNOBS)
def test_a_leap_equals_stepping_with_tenants_that_share(knobs):
    for seed in range(5):
        requests = of_tenants(sharing(seed, 60, isl=60, ties=seed % 2 == 0), 4, seed)
        if seed % 2:
            requests = woven(requests, seed)
        for pools in fleets().values():
            pools = fair(pools, **knobs)
            commands = troubles(seed, pools) if seed > 1 else ()
            settings = {"commands": commands, "seed": 3, "tenants": told((1, 2.5))}
            leapt = both_ways(serve, requests, pools, **settings)
            log = assert_laws(leapt, requests, all_sent=False)
            if seed % 2:
                assert_order(log, requests)
            if log.n_unfinished == 0:
                assert not leapt._state.lines.n.any()
                assert not leapt._state.lines.n_decode.any()


def test_a_leap_equals_stepping_with_clients_tiers_turns_and_proposals():
    client = Client(
        first_token_s=0.06, give_up_s=0.4, hedge_s=0.03, retries=3, backoff_s=0.01,
        retry_on=("timeout", "failure", "rejection"),
    )  # fmt: skip
    for seed, knobs in enumerate(KNOBS):
        requests = of_tenants(sharing(seed, 50, isl=60, ties=True, rate=80), 5, seed)
        cases = [({"client": client, "concurrency": (None, 6)[seed % 2]}, p)
                 for p in fleets().values()]  # fmt: skip
        for chain in CHAINS.values():
            cases += [({"tiers": chain}, with_engine(fleets()[name], preemption="swap"))
                      for name in ("one", "split")]  # fmt: skip
        cases += [({}, p) for p in kinds(n_blocks=40).values()]
        for settings, pools in cases:
            leapt = both_ways(serve, requests, fair(pools, **knobs), **settings)
            log = assert_laws(leapt, requests)
        for turn in ("patience", "longest_queue")[seed % 2 :][:1]:
            for pools in model_fleets().values():
                leapt = both_ways(
                    serve, asking(requests, 3, seed), fair(engine_turn(pools, turn), **knobs)
                )
                log = assert_laws(leapt, requests)
                assert (log.requests["status"] == 0).all()


def test_a_switch_between_fair_and_plain_pools_loses_nobody():
    for seed in range(6):
        requests = of_tenants(sharing(seed, 60, isl=60, ties=True), 3, seed)
        plain = fleets()["unequal"]
        for pools in ([*fair(plain[:1]), plain[1]], [plain[0], *fair(plain[1:])]):
            commands = troubles(seed, pools, n=20)
            leapt = both_ways(serve, requests, pools, commands=commands)
            assert_laws(leapt, requests)


def test_one_tenant_is_served_as_it_comes():
    for seed in range(3):
        requests = sharing(seed, 60, isl=60, ties=True)
        for pools in fleets().values():
            plain, same = (serve(requests, p).log_so_far() for p in (pools, fair(pools)))
            assert_same(plain, same)


def test_counters_are_what_the_log_says_was_served():
    for seed in range(4):
        requests = of_tenants(sharing(seed, 60, isl=60, rate=80), 4, seed)
        for pools in fleets().values():
            weights = (1, 2, 0.3)
            server = serve(requests, fair(pools, lift=0), tenants=told(weights), seed=seed)
            log = server.log_so_far()
            once = log.requests["n_preempt"] + log.requests["n_retries"] == 0
            if once.all():
                assert_counted(server, requests, log, weights)


def watched(requests, pools, *, every_s=1e-3, **settings):
    """Time, counters [tenants] and who waits [tenants], again and again while a replica works."""
    server = Server(pools, n_requests=len(requests), leap=False, **settings)
    server.inject(requests)
    times, served, waiting = [], [], []
    while server._state.clock[0].n_done < len(requests):
        server.advance(server.now_s + every_s)
        s = server._state
        line, cost = s.lines, s.tenants.out_cost
        times.append(server.now_s)
        served.append(np.array(line.served + cost * line.n_decode * s.replicas[0].decoded))
        waiting.append(np.array(line.n > 0))
    return np.array(times), np.array(served), np.array(waiting), server.log_so_far()


@pytest.mark.parametrize("weights", [(), (1, 2, 4)])
@pytest.mark.parametrize("reserve", ["chunk", "full"])
def test_no_two_backlogged_tenants_are_served_further_apart_than_the_theorem_says(weights, reserve):
    """|W_f - W_g| <= 2 max(w_in L_in, w_out M) (Sheng et al. 2024, theorem 4.4), over weights."""
    spread = []
    for seed in range(3):
        draw = np.random.default_rng(seed)
        n = 120
        isl = draw.integers(1, 60, n)
        tenant = draw.integers(0, 3, n)
        osl = np.where(tenant == 0, draw.integers(1, 5, n), draw.integers(1, 40, n))
        requests = Requests(np.zeros(n), isl, osl, tenant=tenant)
        pools = fair([pool(n_blocks=40, reserve=reserve)])
        _, served, waiting, log = watched(requests, pools, tenants=told(weights), every_s=2e-3)
        least = min(weights, default=1)
        bound = 2 * max(1.0 * isl.max(), 2.0 * 40 * 4) * MILLION / least
        both = waiting.all(axis=1)
        gap = served[both].max(axis=1) - served[both].min(axis=1)
        assert (gap <= bound).all()
        spread.append(float(gap.max()) / bound)
        fcfs = serve(requests, [pool(n_blocks=40, reserve=reserve)]).log_so_far()
        assert fcfs.requests["done_ps"].max() < 1.3 * log.requests["done_ps"].max()
    assert max(spread) > 0.02  # it does move


def test_weights_divide_what_is_served_while_all_wait():
    n = 300
    tenant = np.arange(n) % 3
    requests = Requests(np.zeros(n), np.full(n, 24), np.full(n, 12), tenant=tenant)
    _, served, waiting, _ = watched(requests, fair([pool()]), tenants=told((1, 2, 4)))
    last = np.flatnonzero(waiting.all(axis=1))[-1]
    tokens = served[last] * np.array([1, 2, 4])
    np.testing.assert_allclose(tokens / tokens[0], [1, 2, 4], rtol=0.15)


def test_a_replica_never_idles_while_somebody_waits():
    for seed in range(4):
        requests = of_tenants(workload(seed, 80, rate=20, isl=60), 4, seed)
        log = serve(requests, fair([pool()])).log_so_far()
        rows = log.requests
        order = np.argsort(rows["arrival_ps"])
        busy, end = 0, 0
        for begin, done in zip(rows["arrival_ps"][order], rows["done_ps"][order], strict=True):
            busy += max(0, done - max(begin, end))
            end = max(end, done)
        # an arrival in a step waits for its end, in which the replica works
        assert busy == log.replicas["busy_ps"][0]


def returning():
    """Tenant 0 sends all the time; tenant 1 comes once, after ten seconds, with as much."""
    n = 400
    arrival = np.concatenate([np.arange(n) * 0.004, np.full(200, 1.0)])
    order = np.argsort(arrival, kind="stable")
    tenant = np.concatenate([np.zeros(n, int), np.ones(200, int)])[order]
    return Requests(arrival[order], np.full(600, 30), np.full(600, 10), tenant=tenant)


def test_who_was_idle_has_saved_nothing_up():
    requests = returning()
    first = {}
    for lift in (1, 0):
        log = serve(requests, fair([pool()], lift=lift)).log_so_far()
        rows = log.requests[log.requests["scheduled_ps"] > PS]
        rows = rows[np.argsort(rows["scheduled_ps"])][:60]
        first[lift] = (rows["tag"] == 1).mean()
    assert first[0] > 0.9  # it would be served alone until it has caught up
    assert 0.35 < first[1] < 0.65


def test_shared_counters_see_what_other_replicas_have_served():
    """Tenant 0 is served by both, tenant 1 by one: there it comes first when the fleet counts."""
    n = 300
    tenant = (np.arange(n) % 3 == 2).astype(int)
    session = np.where(tenant == 0, np.arange(n) % 3, 1)
    requests = Requests(
        np.arange(n) * 1e-3, np.full(n, 30), np.full(n, 10), tenant=tenant, session=session
    )
    done = {}
    for shared in (0, 1):
        pools = fair([pool(replicas=2)], shared=shared)
        rows = serve(requests, pools, route=Policy(name="session_sticky")).log_so_far().requests
        on = rows["replica"] == rows["replica"][2]
        assert set(rows["tag"][on]) == {0, 1}
        done[shared] = rows["done_ps"][on & (rows["tag"] == 1)].mean()
    assert done[1] < 0.9 * done[0]


def test_pools_that_count_differently_are_refused():
    pools = fleets()["unequal"]
    with pytest.raises(PolicyError, match="in different ways"):
        Server([*fair(pools[:1], output=3), *fair(pools[1:])])
    with pytest.raises(PolicyError, match="a token counts 0 to"):
        Server(fair(pools, input=-1))


def test_an_order_of_ones_own_is_asked_again(tmp_path):
    """Earliest deadline between tenants, fewest tokens served among equals."""
    file = tmp_path / "mine.py"
    file.write_text(
        "AGAIN = True\n\n\ndef mine(request, now_ps, params):\n"
        "    return request.priority * 10**15 + request.served\n"
    )
    requests = of_tenants(sharing(1, 60, isl=60, ties=True), 4)
    pools = with_engine([pool(replicas=2)], order=Policy(name=f"{file}:mine"))
    leapt = both_ways(serve, requests, pools)
    assert_laws(leapt, requests)


def test_a_tenant_whose_request_waits_for_its_adapter_is_not_idle():
    """What it was not served meanwhile is not forgotten: two of its next requests come first."""
    n = 6
    requests = Requests(
        np.array([0.0] * (n + 1) + [0.012] * 3), np.full(n + 4, 30), np.full(n + 4, 3),
        tenant=np.array([0] * n + [1] * 4), adapter=np.array([-1] * n + [2] + [-1] * 3),
    )  # fmt: skip
    pools = fitted(fair(with_engine([pool()], max_num_seqs=1)))
    rows = serve(requests, pools).log_so_far().requests
    order = np.argsort(rows["scheduled_ps"], kind="stable")
    # tenant 0 is served two requests before the three come; were tenant 1 taken for idle, its
    # counter would be lifted to theirs, and the second would wait for a request of tenant 0
    assert list(order[:4]) == [0, 1, n + 1, n + 2]
