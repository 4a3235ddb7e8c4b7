"""Laws of adapters beside what else changes a step or a replica: proposals, models, tenants."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from adapting import WAYS, assert_adapters, assert_same_adapters, fitted, fitting, naming
from families import asking, engine_turn, fixed, model_fleets, turning
from fleets import assert_laws, both_ways, fleets, pool, serve, sharing, troubles
from seeing import looking, seeing_fleets
from serving import PS
from speculating import kinds, speculating
from test_encoder_laws import disturbed
from test_fair_laws import KNOBS, assert_counted, fair, of_tenants, told

from forerun.errors import SpecError
from forerun.sim.adapters import numbered
from forerun.sim.serve import Server
from forerun.spec.deployment import Policy
from forerun.spec.requests import Requests
from forerun.spec.traces._columns import take
from forerun.spec.workload import Client


def way(number):
    return list(WAYS.values())[number % len(WAYS)]


def every_other(number):
    """Half of the ways, by turns, so that this file stays short."""
    return range(number % 2, len(WAYS), 2)


def equal(n, *, osl=9, adapter=None):
    """n equal requests that come together, with these adapters."""
    named = None if adapter is None else np.array(adapter)
    return Requests(np.zeros(n), np.full(n, 32), np.full(n, osl), adapter=named)


# -- proposals -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", kinds())
def test_a_leap_equals_stepping_where_what_is_proposed_has_adapters(kind):
    accepted = adapted = lost = 0
    for seed in every_other(list(kinds()).index(kind)):
        requests = naming(sharing(seed, 45, isl=60, ties=seed % 2 == 0, rate=80), seed=seed)
        pools = fitted(kinds(n_blocks=34)[kind], **way(seed))
        orders = troubles(seed, pools) if seed % 3 == 1 else ()
        leapt = both_ways(serve, requests, pools, seed=seed, commands=orders)
        log = assert_laws(leapt, requests)
        assert_adapters(leapt, pools)
        for name in ("n_draft", "draft_ranks"):
            assert not log.fitted[name].any(), name
        assert (log.leaps["n_adapted"] <= log.leaps["n_tokens"]).all()
        accepted += log.replicas["n_extra"].sum()
        adapted += (log.leaps["n_adapted"] * (log.leaps["n_draft"] > 0)).sum()
        lost += log.replicas["n_preempt"].sum()
    assert accepted > 200
    assert adapted > 500
    assert lost > 0 or kind in ("full", "static")  # memory is tight enough to tell something


def test_adapters_beside_nothing_proposed_write_the_log_of_adapters_alone():
    requests = naming(sharing(4, 60, isl=60))
    for how in WAYS.values():
        plain, asked = (
            serve(requests, fitted([one], **how), seed=3).log_so_far()
            for one in (
                pool(replicas=2, n_blocks=40),
                speculating(kind="ngram", params={"k": 0}, replicas=2, n_blocks=40),
            )
        )
        assert_same_adapters(plain, asked)


def test_adapters_that_cost_nothing_leave_proposals_as_they_were():
    free = dict.fromkeys(("launch_s", "rank_s", "token_s", "rank_flop_s"), 0.0)
    free |= {"near_s": np.zeros(1), "far_s": np.zeros(1)}
    requests = sharing(2, 50, isl=60)
    named = replace(requests, adapter=np.zeros(50, dtype=np.int64))
    for pools in kinds(n_blocks=30).values():
        with_one = fitted(pools, n=1, **free)
        plain = serve(requests, pools, seed=3).log_so_far()
        again = serve(named, with_one, seed=3).log_so_far()
        assert plain.requests.tobytes() == again.requests.tobytes()
        assert plain.replicas.tobytes() == again.replicas.tobytes()


def test_a_step_that_verifies_pays_adapters_for_what_is_proposed_too():
    """By hand: two decoders, two tokens proposed for each, ranks 8 and 16 or one of them twice."""
    us = PS // 10**6

    def step(adapters, **how):
        one = fitted([speculating(k=2, acceptance=0.0)], max_adapters=3, near_s=np.zeros(6), **how)
        log = serve(equal(2, adapter=adapters), one).log_so_far()
        rows = log.leaps[(log.leaps["n_draft"] == 4) & (log.leaps["n_chunks"] == 0)]
        return int(rows["first_ps"][0]), rows[0]

    plain, row = step([-1, -1])
    assert row["n_adapted"] == 0
    other, row = step([0, 1])
    assert (row["n_adapters"], row["n_adapted"]) == (2, 6)
    assert other - plain == (100 + (8 + 16) * 20 + 6 * 10) * us
    same, row = step([1, 1])
    assert (row["n_adapters"], row["n_adapted"]) == (1, 6)
    assert same - plain == (100 + 16 * 20 + 6 * 10) * us  # ranks are read once, for all six
    half, row = step([1, -1])
    assert (row["n_adapters"], row["n_adapted"]) == (1, 3)
    assert half - plain == (100 + 16 * 20 + 3 * 10) * us
    gathered, _ = step([1, 1], gathered=True)
    assert gathered - plain == (100 + 6 * 16 * 20 + 6 * 10) * us
    computed, _ = step([0, 1], rank_flop_s=1e-3)
    assert computed - plain == (100 + 3 * (8 + 16) * 1000) * us


def test_a_policy_that_knows_what_steps_take_proposes_less_where_adapters_cost_more_a_token():
    known = {"prior": 0.8, "weight": 1e9}
    proposed = []
    for token_s in (0.0, 1e-4, 1e-3):
        one = speculating(k=5, policy="goodput", params=known, acceptance=0.8, n_blocks=4000)
        pools = fitted([one], n=1, token_s=token_s, near_s=np.zeros(1), far_s=np.zeros(1))
        log = serve(equal(4, osl=300, adapter=[0] * 4), pools).log_so_far()
        rounds = log.leaps[log.leaps["n_decode"] > 0]
        proposed.append(rounds["n_draft"].sum() / rounds["n_decode"].sum())
        ends = {}
        for k in range(6):
            one = speculating(k=5, params={"k": k}, acceptance=0.8, n_blocks=4000)
            ends[k] = (
                serve(
                    equal(4, osl=300, adapter=[0] * 4), [replace(one, adapters=pools[0].adapters)]
                )
                .log_so_far()
                .end_ps
            )
        assert log.end_ps < 1.03 * min(ends.values())  # by brute force over all lengths
    assert proposed[0] > proposed[1] > proposed[2]


def test_a_router_sends_requests_that_speculate_where_their_adapters_are():
    requests = naming(sharing(1, 120, isl=40, rate=40))
    pools = fitted([speculating(replicas=3)], n_slots=2)
    aware, blind = (
        serve(requests, pools, route=Policy(name=name)).log_so_far().fitted["n_loads"].sum()
        for name in ("near_adapter", "round_robin")
    )
    assert aware < 0.6 * blind


# -- models, apart and in turn ---------------------------------------------------------------------

TURNS = ("while_wanted", "longest_queue", "oldest_first", "patience")


def of_each(pools, n=4, **how):
    """The same pools, whose models have n, n + 1, .. adapters; those of the last model none."""
    last = max(one.model for one in pools)
    out = []
    for one in pools:
        own = None if one.model == last else fitting(n + one.model, **how)
        out.append(replace(one, adapters=own))
    return out


def naming_own(requests, n=4, n_models=3, seed=0):
    """Requests for a random model and one of its adapters, or none; the last model has none."""
    asked = asking(requests, n_models, seed)
    draw = np.random.default_rng(seed + 11)
    named = draw.integers(-1, n + asked.model)
    return replace(asked, adapter=np.where(asked.model == n_models - 1, -1, named))


@pytest.mark.parametrize("turn", TURNS)
@pytest.mark.parametrize("name", model_fleets())
def test_a_leap_equals_stepping_with_adapters_of_several_models(name, turn):
    loads = turns = 0
    for seed in every_other(TURNS.index(turn)):
        requests = naming_own(sharing(seed, 60, isl=60, ties=seed % 2 == 0, rate=80), seed=seed)
        pools = engine_turn(of_each(model_fleets(n_resident=1 + seed % 2)[name], **way(seed)), turn)
        orders = troubles(seed, pools) if seed % 3 == 1 else ()
        route = Policy(name=("near_adapter", "prefers_loaded", "round_robin")[seed % 3])
        leapt = both_ways(serve, requests, pools, seed=3, commands=orders, route=route)
        log = assert_laws(leapt, requests)
        assert_adapters(leapt, pools)
        assert_of_its_model(leapt)
        loads += log.fitted["n_loads"].sum()
        turns += log.loads["n"].sum()
    assert loads > 50
    assert turns > 25 or name == "apart"


def assert_of_its_model(server):
    """No replica has adapters of a model that it does not run."""
    state = server._state
    starts = numbered([p.adapters for p in server.pools], [p.model for p in server.pools])
    for i, slots in enumerate(state.slots["held"]):
        m = state.engines.model[state.replicas.pool[i]]
        held = np.flatnonzero(slots)
        assert ((starts[m] <= held) & (held < starts[m + 1])).all()


def test_adapters_never_outlast_the_turn_of_their_model():
    switched = 0
    for seed in range(4):
        requests = naming_own(sharing(seed, 60, isl=60, rate=80), seed=seed)
        pools = of_each(turning(replicas=2), **way(seed + 4))
        server = Server(pools, n_requests=60, hash_tokens=8, seed=seed)
        server.inject(requests)
        for t in np.linspace(0, 4, 200):
            server.advance(float(t))
            assert_of_its_model(server)
            switched += int(server._state.slots["held"].any())
        server.advance()
        assert_laws(server, requests)
    assert switched > 100


def test_adapters_of_models_apart_are_as_in_a_fleet_of_each_model_alone():
    """Models that share nothing but the router do not meet."""
    requests = naming_own(sharing(3, 60, isl=60, rate=80), n_models=2, seed=3)
    requests = replace(requests, adapter=np.maximum(requests.adapter, -1))
    pools = [replace(fixed(m), adapters=fitting(5)) for m in (0, 1)]
    both = serve(requests, pools, seed=3).log_so_far()
    for m in (0, 1):
        mine = np.flatnonzero(requests.model == m)
        own = take(requests, mine, model=np.zeros(len(mine), dtype=np.int64))
        alone = serve(own, [replace(pools[m], model=0)], seed=3).log_so_far()
        for name in ("first_token_ps", "done_ps", "cached"):
            np.testing.assert_array_equal(
                both.requests[mine][name], alone.requests[name], err_msg=name
            )
        np.testing.assert_array_equal(both.fitted["n_loads"][m], alone.fitted["n_loads"][0])


def test_an_adapter_comes_again_with_its_model_and_after_its_weights():
    """By hand: a request for each model in turn, each for its own adapter 0 (rank 8: 8 ms)."""
    n = 4
    requests = Requests(
        np.arange(n) * 1.0, np.full(n, 32), np.full(n, 3),
        model=np.arange(n) % 2, adapter=np.zeros(n, dtype=np.int64),
    )  # fmt: skip
    pools = [replace(one, adapters=fitting()) for one in turning(2, load_s=0.05)]
    log = serve(requests, pools).log_so_far()
    ms = PS // 1000
    waited = (log.requests["scheduled_ps"] - log.requests["arrival_ps"]) // ms
    assert waited.tolist() == [8, 58, 58, 58]  # the first model is there
    assert (log.fitted["n_loads"][0], log.fitted["n_evicted"][0]) == (4, 3)
    assert log.fitted["n_there"][0] == 0


def test_the_adapters_of_two_models_are_not_the_same():
    """One model's adapter 0 says nothing of the other's: each has its own rank and its own load."""
    requests = Requests(
        np.arange(4) * 1.0, np.full(4, 32), np.full(4, 3),
        model=np.array([0, 1, 0, 1]), adapter=np.zeros(4, dtype=np.int64),
    )  # fmt: skip
    ranks = (np.array([8]), np.array([16]))
    pools = [
        replace(fixed(m), adapters=fitting(
            1, ranks=ranks[m], load_bytes=ranks[m] * 1e3, near_s=ranks[m] * 1e-3, far_s=np.zeros(1)
        ))
        for m in (0, 1)
    ]  # fmt: skip
    log = serve(requests, pools).log_so_far()
    assert log.fitted["n_loads"].tolist() == [1, 1]
    assert log.fitted["bytes"].tolist() == [8e3, 16e3]
    with pytest.raises(SpecError, match="adapters up to 1, and there are 1"):
        serve(replace(requests, adapter=np.array([0, 0, 0, 1])), pools)


# -- tenants ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("knobs", range(len(KNOBS)))
def test_a_leap_equals_stepping_where_tenants_share_adapters(knobs):
    apart = 0
    for seed in every_other(knobs):
        requests = of_tenants(sharing(seed, 60, isl=60, ties=seed % 2 == 0, rate=80), 4, seed)
        requests = naming(requests, seed=seed)
        client = Client(first_token_s=0.06, hedge_s=0.02, retries=2) if seed % 5 == 4 else None
        for name, pools in fleets().items():
            pools = fair(fitted(pools, **way(seed)), **KNOBS[knobs])
            if name == "unequal" and seed % 4 == 1:
                pools = [pools[0], *fitted([pool(replicas=1, n_blocks=26)], **way(seed))]
            orders = troubles(seed, pools) if seed % 3 == 1 else ()
            leapt = both_ways(
                serve, requests, pools, seed=3, commands=orders, client=client,
                tenants=told((1, 2.5)),
            )  # fmt: skip
            log = assert_laws(leapt, requests, all_sent=client is None)
            assert_adapters(leapt, pools)
            assert not leapt._state.lines.n.any()
            assert not leapt._state.lines.n_decode.any()
            apart += log.fitted["wait_ps"].sum()
    assert apart > 0


@pytest.mark.parametrize("turn", TURNS[1::2])
def test_a_leap_equals_stepping_with_tenants_adapters_models_and_proposals(turn):
    for seed in range(len(WAYS)):
        requests = of_tenants(sharing(seed, 50, isl=60, ties=True, rate=80), 3, seed)
        fleet = list(model_fleets(n_resident=1 + seed % 2).values())[seed % 4]
        pools = fair(engine_turn(of_each(fleet, **way(seed)), turn))
        leapt = both_ways(serve, naming_own(requests, seed=seed), pools, seed=3)
        assert_laws(leapt, requests)
        assert_adapters(leapt, pools)
        assert not leapt._state.lines.n.any()
        pools = fair(fitted(list(kinds(n_blocks=40).values())[seed % 10], **way(seed)))
        leapt = both_ways(serve, naming(requests, seed=seed), pools, seed=3)
        assert_laws(leapt, requests)
        assert_adapters(leapt, pools)
        assert not leapt._state.lines.n.any()


def test_counters_count_what_was_computed_whoever_waits_for_adapters():
    for seed, how in enumerate(WAYS.values()):
        requests = naming(of_tenants(sharing(seed, 60, isl=60, rate=80), 4, seed), seed=seed)
        pools = fair(fitted(fleets()["one"], **how), lift=0)
        server = serve(requests, pools, seed=3, tenants=told((1, 2)))
        assert_counted(server, requests, server.log_so_far(), weights=(1, 2))


def test_who_waits_for_an_adapter_has_not_been_away():
    """A tenant's counter is lifted where it comes back, not where its adapter has come."""
    for how in ({}, {"paged": True}):
        n = 40
        tenant = np.arange(n) % 2
        requests = Requests(
            np.zeros(n), np.full(n, 32), np.full(n, 12),
            tenant=tenant, adapter=np.where(tenant == 0, -1, 2),
        )  # fmt: skip
        one = pool(n_blocks=40, max_num_seqs=2)
        server = serve(requests, fair(fitted([one], near_s=np.full(6, 0.15), **how)))
        # all the while the adapter of the second tenant came, the first was served, and then ...
        began = server.log_so_far().requests["scheduled_ps"]
        order = np.argsort(began, kind="stable")
        first = int(np.flatnonzero(tenant[order] == 1)[0])
        assert first > 2
        ahead = tenant[order][first : 2 * first]
        assert ahead.all()  # ... the second one, until it had as much


def test_a_fair_engine_without_tenants_serves_adapters_as_they_come():
    requests = naming(sharing(5, 60, isl=60, rate=80))
    for how in WAYS.values():
        plain, shared = (
            serve(requests, pools, seed=3).log_so_far()
            for pools in (
                fitted(fleets()["one"], **how), fair(fitted(fleets()["one"], **how))
            )
        )  # fmt: skip
        assert_same_adapters(plain, shared)


# -- images ----------------------------------------------------------------------------------------


def but_encoders(pools, **how):
    """Adapters of the pools that compute prompts and answers; encoders have none."""
    return [one if one.pool.role == "encode" else fitted([one], **how)[0] for one in pools]


@pytest.mark.parametrize("name", seeing_fleets())
def test_a_leap_equals_stepping_where_requests_with_adapters_show_images(name):
    apart = again = 0
    for seed in range(len(WAYS)):
        requests = naming(looking(seed, 40, isl=60, ties=seed % 2 == 0, rate=80), seed=seed)
        pools = but_encoders(seeing_fleets()[name], **way(seed))
        orders = disturbed(seed, pools) if seed % 2 else ()
        client = Client(first_token_s=0.06, retries=2) if seed % 5 == 4 else None
        leapt = both_ways(serve, requests, pools, seed=3, commands=orders, client=client)
        log = assert_laws(leapt, requests, all_sent=client is None)
        assert_adapters(leapt, pools)
        apart += log.fitted["wait_ps"].sum()
        again += log.requests["n_retries"].sum()
        encoders = np.flatnonzero([one.pool.role == "encode" for one in pools])
        on = np.isin(leapt._state.replicas.pool, encoders)
        assert not log.fitted[on]["n_asked"].any()
    assert apart > 0
    assert again > 0


def test_the_encoder_of_a_request_that_waits_for_its_adapter_can_fail():
    """Its images are encoded again, wherever it waits meanwhile."""
    requests = replace(
        looking(1, 6, share=1.0, isl=40), adapter=np.full(6, 2), arrival_s=np.zeros(6)
    )
    for how in ({}, {"in_order": True}, {"paged": True}):
        pools = but_encoders(seeing_fleets()["apart"], near_s=np.full(6, 0.3), **how)
        orders = [(0.1, "fail", 0, 0), (0.1, "fail", 1, 0), (0.5, "open", 0, 0)]
        leapt = both_ways(serve, requests, pools, seed=3, commands=orders)
        log = assert_laws(leapt, requests)
        assert_adapters(leapt, pools)
        assert (log.requests["status"] == 0).all()
        assert log.requests["n_retries"].min() >= 1
        assert (log.requests["first_token_ps"] > PS // 2).all()
