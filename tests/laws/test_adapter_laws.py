"""Laws of adapters: slots, batches, loads, who waits and what a step costs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from adapting import WAYS, assert_adapters, assert_same_adapters, fitted, naming
from fleets import assert_laws, both_ways, fleets, pool, serve, sharing, troubles
from flows import assert_order, woven
from serving import PS
from test_tier_laws import CHAINS, assert_stores, used, with_engine

from forerun.errors import SpecError
from forerun.sim.serve import Server
from forerun.spec.deployment import Policy
from forerun.spec.requests import Requests
from forerun.spec.workload import Client

LOADED = Policy(name="near_adapter")


@pytest.mark.parametrize("way", WAYS)
def test_a_leap_equals_stepping_with_adapters(way):
    loads = apart = 0
    for seed in range(5):
        requests = naming(sharing(seed, 60, isl=60, ties=seed % 2 == 0, rate=80), seed=seed)
        for pools in fleets().values():
            pools = fitted(pools, **WAYS[way])
            route = LOADED if seed % 2 else Policy(name="round_robin")
            leapt = both_ways(serve, requests, pools, seed=3, route=route)
            log = assert_laws(leapt, requests)
            assert_adapters(leapt, pools)
            assert (log.requests["status"] == 0).all()
            loads += log.fitted["n_loads"].sum()
            apart += log.fitted["wait_ps"].sum()
    assert loads > 150  # the cases are hard enough to tell something
    assert apart > 0 or WAYS[way].get("in_order")


def test_a_leap_equals_stepping_whatever_happens_to_replicas_with_adapters():
    for seed in range(12):
        requests = naming(sharing(seed, 50, isl=60, ties=seed % 2 == 0), seed=seed)
        for pools in fleets().values():
            pools = fitted(pools, **list(WAYS.values())[seed % len(WAYS)])
            leapt = both_ways(serve, requests, pools, seed=3, commands=troubles(seed, pools))
            assert_laws(leapt, requests)
            assert_adapters(leapt, pools)


@pytest.mark.parametrize("chain", ["own then shared", "node then network"])
def test_a_leap_equals_stepping_with_adapters_tiers_and_swapped_requests(chain):
    found = 0
    for seed in range(5):
        requests = naming(sharing(seed, 50, isl=60, ties=seed % 2 == 0, rate=80), 3, seed)
        for pools in fleets().values():
            pools = fitted(pools, n=3, **list(WAYS.values())[seed % len(WAYS)])
            pools = with_engine(pools, preemption="swap" if seed % 2 else "recompute")
            leapt = both_ways(
                serve, requests, pools, seed=3, route=Policy(name="prefix_aware"),
                tiers=CHAINS[chain], fetch=Policy(name="always"),
            )  # fmt: skip
            assert_laws(leapt, requests)
            assert_adapters(leapt, pools)
            assert_stores(leapt)
            found += used(leapt)[0]
    assert found > 100


@pytest.mark.parametrize("client", [None, Client(first_token_s=0.06, hedge_s=0.02, retries=2)])
def test_a_leap_equals_stepping_with_adapters_in_workflows_of_impatient_clients(client):
    for seed in range(6):
        requests = naming(woven(sharing(seed, 50, isl=60, ties=True), seed), seed=seed)
        for pools in fleets().values():
            pools = fitted(pools, **list(WAYS.values())[seed % len(WAYS)])
            leapt = both_ways(serve, requests, pools, client=client)
            log = assert_laws(leapt, requests, all_sent=client is None)
            assert_adapters(leapt, pools)
            if client is None:
                assert_order(log, requests)


@pytest.mark.parametrize("way", ["beside", "in step", "in order"])
def test_with_one_adapter_that_costs_nothing_the_log_is_that_of_a_fleet_without_any(way):
    free = dict.fromkeys(("launch_s", "rank_s", "token_s", "rank_flop_s"), 0.0)
    free |= {"near_s": np.zeros(1), "far_s": np.zeros(1)}
    for seed in range(4):
        requests = sharing(seed, 60, isl=60)
        named = replace(requests, adapter=np.zeros(60, dtype=np.int64))
        pools = list(fleets().values())[seed]
        plain, with_one = (
            serve(r, p, seed=3).log_so_far()
            for r, p in ((requests, pools), (named, fitted(pools, n=1, **free, **WAYS[way])))
        )
        assert plain.requests.tobytes() == with_one.requests.tobytes()
        assert plain.replicas.tobytes() == with_one.replicas.tobytes()
        for name in set(plain.leaps.dtype.names) - {"n_adapters", "n_adapted"}:
            np.testing.assert_array_equal(plain.leaps[name], with_one.leaps[name], err_msg=name)
        assert (with_one.leaps["n_adapters"] == 1).all()


def test_requests_without_adapters_meet_a_fleet_as_if_it_had_none():
    requests = sharing(2, 60, isl=60)
    for pools in fleets().values():
        plain, able = (serve(requests, p, seed=3).log_so_far() for p in (pools, fitted(pools)))
        assert plain.requests.tobytes() == able.requests.tobytes()
        assert plain.leaps.tobytes() == able.leaps.tobytes()
        assert not able.fitted["n_loads"].any()


def some(adapters, *, at=None, isl=32, osl=3):
    n = len(adapters)
    at = np.zeros(n) if at is None else np.asarray(at, dtype=float)
    return Requests(at, np.full(n, isl), np.full(n, osl), adapter=np.array(adapters))


def one(adapters, *, at=None, osl=3, **how):
    return serve(some(adapters, at=at, osl=osl), fitted([pool()], **how)).log_so_far()


def test_a_request_starts_when_its_adapter_has_come():
    log = one([0, -1])
    assert log.requests["scheduled_ps"][1] == 0
    began = log.requests["scheduled_ps"][0]
    steps = log.leaps["start_ps"]
    assert began == steps[steps >= 8 * PS // 1000].min()  # the first boundary after that
    assert log.fitted["wait_ps"][0] == began


def test_adapters_come_one_after_another():
    log = one([0, 1, 2], n_slots=3, max_adapters=3)
    began = log.requests["scheduled_ps"] * 1000 // PS
    assert log.fitted["free_ps"][0] == (8 + 16 + 32) * PS // 1000
    assert (began >= [8, 24, 56]).all()


def test_a_step_that_waits_for_its_adapters_is_longer_by_their_loading():
    waits, comes = (one([0], in_step=flag).requests[0] for flag in (True, False))
    assert waits["scheduled_ps"] == 0
    assert waits["first_token_ps"] == comes["first_token_ps"]
    assert comes["scheduled_ps"] == 8 * PS // 1000


def test_the_adapter_used_longest_ago_makes_room_and_has_to_come_again():
    log = one([0, 1, 2, 0, 1, 0], at=[0, 1, 2, 3, 4, 5], n_slots=2)
    # 2 takes the place of 0, 0 that of 1, 1 that of 2; then 0 is there
    assert (log.fitted["n_loads"][0], log.fitted["n_evicted"][0]) == (5, 3)
    assert log.fitted["n_there"][0] == 1


def test_an_adapter_in_use_is_not_taken_away():
    log = one([0, 1], at=[0, 0.01], osl=40, n_slots=1)
    first, second = log.requests
    assert second["scheduled_ps"] >= first["done_ps"] + 16 * PS // 1000


def test_a_batch_has_at_most_so_many_adapters():
    log = one([0, 1, 2, 3, 4, 5] * 3, n_slots=6, max_adapters=2)
    assert log.leaps["n_adapters"].max() == 2
    log = one([0, 1, 2, 3, 4, 5] * 3, n_slots=6, max_adapters=6)
    assert log.leaps["n_adapters"].max() > 2


def test_those_behind_a_request_that_waits_for_its_adapter_go_on_unless_order_is_kept():
    overtakes, waits = (one([2, -1], in_order=flag).requests for flag in (False, True))
    assert overtakes["scheduled_ps"][1] == 0
    assert waits["scheduled_ps"][1] >= 32 * PS // 1000


def test_what_the_host_does_not_keep_comes_from_further_away():
    log = one([0, 1, 0, 1], at=[0, 1, 2, 3], n_slots=1, host_slots=1)
    assert log.fitted["n_far"][0] == 4
    assert log.fitted["load_ps"][0] == 2 * 5 * (8 + 16) * PS // 1000
    log = one([0, 1, 0, 1], at=[0, 1, 2, 3], n_slots=1, host_slots=2)
    assert log.fitted["n_far"][0] == 2


def test_a_step_pays_for_different_adapters_their_ranks_and_its_tokens():
    def step(adapters, **how):
        log = one(adapters, n_slots=3, max_adapters=3, near_s=np.zeros(6), osl=9, **how)
        decode = log.leaps[(log.leaps["n_decode"] == len(adapters)) & (log.leaps["n_chunks"] == 0)]
        return int(decode["first_ps"][0]), decode[0]

    plain, _ = step([-1, -1])
    same, row = step([1, 1])
    other, _ = step([0, 1])
    us = PS // 10**6
    assert (row["n_adapters"], row["n_adapted"]) == (1, 2)
    assert same - plain == (100 + 16 * 20 + 2 * 10) * us
    assert other - plain == (100 + (8 + 16) * 20 + 2 * 10) * us
    gathered, _ = step([1, 1], gathered=True)
    assert gathered - plain == (100 + 2 * 16 * 20 + 2 * 10) * us
    computed, _ = step([1, 1], rank_flop_s=1e-3)
    assert computed - plain == (100 + 2 * 16 * 1000) * us


def test_prefixes_computed_with_one_adapter_are_of_no_use_with_another():
    hashes = np.tile(np.arange(4), 4)
    requests = replace(
        some([0, 0, 1, -1], at=[0, 1, 2, 3]),
        block_hashes=hashes, block_starts=np.arange(5) * 4, hash_tokens=8,
    )  # fmt: skip
    log = serve(requests, fitted([pool()])).log_so_far()
    assert log.requests["cached"].tolist() == [0, 24, 0, 0]


def test_a_router_can_prefer_replicas_that_have_the_adapter():
    draw = np.random.default_rng(1)
    requests = some(draw.integers(0, 6, 120), at=np.arange(120) * 0.05)
    pools = fitted([pool(replicas=3)], n_slots=2)
    aware, blind = (
        serve(requests, pools, route=Policy(name=name)).log_so_far().fitted["n_loads"].sum()
        for name in ("near_adapter", "round_robin")
    )
    assert aware < blind / 3


def test_an_aborted_request_that_stands_apart_is_not_waited_for():
    for victim in (0, 1, 2):
        logs = []
        for leap in (True, False):
            pools = fitted([pool()], n_slots=1)
            server = Server(pools, n_requests=4, leap=leap)
            server.inject(some([0, 1, 1, 2], at=[0, 0.005, 0.006, 0.007], osl=20))
            server.advance(0.02)
            assert server.abort(victim)
            server.advance()
            assert_adapters(server, pools)
            logs.append(server.log_so_far())
        assert_same_adapters(*logs)
        assert (logs[0].requests["status"] == 0).sum() == 3


def test_adapters_and_kv_together_never_have_more_blocks_than_there_are():
    full = 0
    for seed in range(3):
        requests = naming(sharing(seed, 60, isl=60, rate=80), seed=seed)
        for name, way in WAYS.items():
            pools = fitted(list(fleets().values())[seed], **way)
            server = Server(pools, n_requests=60, hash_tokens=8)
            server.inject(requests)
            for t in np.linspace(0, 2, 60) if "paged" in name else ():
                server.advance(float(t))
                s = server._state
                each = 8 // 4
                adapters = (s.slots["blocks"] * (s.slots["n_using"] > 0)).sum(axis=1)
                kept = s.stores.n_idle * each + s.fitted.idle_blocks
                assert (adapters <= s.replicas.n_blocks).all()
                total = s.replicas.n_blocks + kept
                assert (total <= s.engines.n_blocks[s.replicas.pool]).all()
                full += (total == s.engines.n_blocks[s.replicas.pool]).sum()
    assert full > 100


def test_in_ample_memory_blocks_serve_as_slots_for_all_do():
    ample = [pool(replicas=2, n_blocks=900)]
    for seed in range(3):
        requests = naming(sharing(seed, 50, isl=60, rate=80), seed=seed)
        for way in ("beside", "in step", "in order"):
            slots = fitted(ample, **WAYS[way], n_slots=6)
            paged = fitted(ample, **WAYS[way], paged=True)
            a, b = (serve(requests, pools, seed=3).log_so_far() for pools in (slots, paged))
            assert a.requests.tobytes() == b.requests.tobytes()
            assert b.fitted["n_evicted"].sum() == 0


def test_idle_adapters_and_prefixes_make_room_in_the_order_that_was_said():
    def evicted(leaves):
        requests = naming(sharing(1, 80, isl=60, rate=80), seed=1)
        pools = fitted([pool(n_blocks=40)], paged=True, leaves=leaves)
        server = serve(requests, pools)
        return int(server._state.stores.n_evicted.sum()), int(server._state.fitted.n_loads.sum())

    by = {leaves: evicted(leaves) for leaves in ("prefixes", "adapters", "at_once")}
    assert by["prefixes"][0] > by["adapters"][0]  # prefixes make room for adapters that stay ...
    assert by["prefixes"][1] < by["adapters"][1]  # ... and come less often


def test_an_adapter_that_there_is_not_is_refused_before_the_run():
    with pytest.raises(SpecError, match="adapters up to 6, and there are 6"):
        one([6])


def test_adapters_beside_stages_are_refused_before_the_run():
    with pytest.raises(SpecError, match="pp, dp or cp"):
        serve(some([0]), fitted([pool(pp=2)]))
