"""Laws of several models on one fleet: who is sent where, and models that take turns."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from families import asking, engine_turn, fixed, model_fleets, turning
from fleets import assert_laws, assert_same, both_ways, pool, serve, sharing, troubles
from flows import assert_order, woven
from serving import PS
from test_tier_laws import CHAINS, assert_stores, used, with_engine

from forerun.errors import PolicyError, SpecError
from forerun.sim.core.rows_request import HELD
from forerun.sim.serve import Server
from forerun.spec.deployment import Policy
from forerun.spec.requests import Requests

TURNS = ["oldest_first", "while_wanted", "longest_queue", "patience"]


def assert_turns(server, requests):
    """Every step of a replica is of the model that its row serves, and begins after its weights."""
    log = server.log_so_far()
    rows = log.requests
    np.testing.assert_array_equal(rows["model"], requests.model)
    model_of = np.array([one.model for one in server.pools])
    ran = {(int(leap["replica"]), int(model_of[leap["pool"]])) for leap in log.leaps}
    for row in rows[rows["status"] == 0]:
        assert (int(row["replica"]), int(row["model"])) in ran
    loads = log.loads
    spent = log.replicas["busy_ps"] + loads["load_ps"] + log.replicas["lost_ps"]
    assert (spent <= log.end_ps).all()
    return log


@pytest.mark.parametrize("turn", TURNS)
def test_a_leap_equals_stepping_with_models_that_take_turns(turn):
    loads = 0
    for seed in range(5):
        requests = asking(sharing(seed, 50, isl=60, ties=seed % 2 == 0), 3, seed)
        how = {"n_resident": 1 + seed % 2, "base": seed % 3 == 0}
        for pools in model_fleets(**how).values():
            pools = engine_turn(pools, turn)
            leapt = both_ways(serve, requests, pools, seed=3, route=Policy(name="prefix_aware"))
            log = assert_laws(leapt, requests)
            assert_turns(leapt, requests)
            assert not leapt._state.n_parked.any()
            assert (log.requests["status"] == 0).all()
            loads += log.loads["n"].sum()
    assert loads > 40  # the cases are hard enough to tell something


def test_a_leap_equals_stepping_whatever_happens_to_replicas_of_many_models():
    retried = 0
    for seed in range(10):
        requests = asking(sharing(seed, 50, isl=60, ties=seed % 2 == 0), 3, seed)
        for pools in model_fleets(n_resident=1 + seed % 2).values():
            pools = engine_turn(pools, TURNS[seed % 4])
            commands = troubles(seed, pools)
            leapt = both_ways(serve, requests, pools, commands=commands, seed=3)
            log = assert_laws(leapt, requests)
            retried += log.requests["n_retries"].sum()
            held = (leapt._state.live.phase == HELD).sum()
            assert log.n_unfinished <= held  # a model's only pool may be gone
    assert retried > 20


def test_with_one_model_the_log_is_that_of_a_fleet_without_any():
    for seed in range(4):
        requests = sharing(seed, 60, isl=60)
        plain = [pool(replicas=3, n_blocks=30)]
        named = replace(requests, model=np.zeros(60, dtype=np.int64))
        grouped = [replace(plain[0], group=0, load_s=9.0, n_resident=2)]
        logs = [serve(r, p, seed=3).log_so_far() for r, p in ((requests, plain), (named, grouped))]
        assert logs[0].requests.tobytes() == logs[1].requests.tobytes()
        assert logs[0].leaps.tobytes() == logs[1].leaps.tobytes()


def some(models, *, at=None, isl=32, osl=3):
    n = len(models)
    at = np.zeros(n) if at is None else np.asarray(at, dtype=float)
    return Requests(at, np.full(n, isl), np.full(n, osl), model=np.array(models))


def test_a_request_goes_to_a_replica_that_serves_its_model():
    requests = asking(sharing(1, 40), 3)
    log = serve(requests, model_fleets()["apart"]).log_so_far()
    where = log.pool_of_replica[log.requests["replica"]]
    np.testing.assert_array_equal(where, requests.model)


def test_a_replica_loads_a_model_that_is_asked_for_and_gives_nothing_meanwhile():
    log = serve(some([0, 1]), turning(2, load_s=0.05)).log_so_far()
    first, second = log.requests
    assert second["scheduled_ps"] == first["done_ps"] + 50 * PS // 1000
    assert log.loads["n"].tolist() == [1]
    assert log.loads["load_ps"].tolist() == [50 * PS // 1000]
    assert log.loads["bytes"].tolist() == [1e6]


def test_weights_that_are_there_need_no_loading():
    requests = some([0, 1, 0, 1], at=[0, 1, 2, 3])
    one, two = (serve(requests, turning(2, n_resident=n)).log_so_far().loads[0] for n in (1, 2))
    assert (one["n"], one["n_cold"]) == (3, 3)
    assert (two["n"], two["n_cold"], two["load_ps"]) == (3, 0, 0)


def test_the_weights_that_were_used_longest_ago_make_room():
    # 0 and 1 are there at first; 2 takes the place of 1, which has to come again
    requests = some([0, 2, 0, 1], at=[0, 1, 2, 3])
    loads = serve(requests, turning(3, n_resident=2)).log_so_far().loads[0]
    assert (loads["n"], loads["n_cold"]) == (3, 2)


@pytest.mark.parametrize(("n_resident", "loads_ms"), [(2, 0), (1, 2 * 50)])
def test_a_replica_told_to_run_a_model_that_nobody_asks_for_turns_back(n_resident, loads_ms):
    # the first runs when the order comes, and the second waits for its seat: when the first is
    # done the replica takes model 1 up, finds nobody, and loads model 0 again where it has to
    pools = turning(2, n_resident=n_resident, load_s=0.05, max_num_seqs=1)
    served = both_ways(serve, some([0, 0]), pools, commands=[(0.001, "switch", 0, 1)])
    first, second = served.log_so_far().requests
    assert second["scheduled_ps"] == first["done_ps"] + loads_ms * PS // 1000


def test_of_models_with_one_base_only_the_difference_is_loaded():
    loads = serve(some([0, 1]), turning(2, base=True)).log_so_far().loads[0]
    assert (loads["load_ps"], loads["bytes"]) == (10 * PS // 1000, 2e5)


def test_each_block_that_some_model_there_has_is_not_loaded_again():
    # 0 has a and b, 1 has b and c, 2 has a and c: half is there with one other, all with two
    uses = [(0, 1), (1, 2), (0, 2)]

    def loads(models, n_resident):
        pools = turning(3, n_resident=n_resident)
        pools = [
            replace(one, blocks=tuple((k, 0.5) for k in uses[one.model]), load_latency_s=0.01)
            for one in pools
        ]
        at = range(len(models))
        return serve(some(models, at=at), pools).log_so_far().loads[0]

    one = loads([0, 1], 1)
    assert (one["bytes"], one["load_ps"]) == (5e5, (10 + 20) * PS // 1000)
    assert loads([0, 2], 2)["bytes"] == 0  # a of 0 and c of 1, which is there from the start
    assert loads([0, 2, 1, 0], 1)["bytes"] == 3 * 5e5


def test_a_policy_that_waits_loads_less_often_and_lets_others_wait_longer():
    requests = asking(sharing(3, 200, isl=40, rate=80), 2)
    often, seldom = (
        serve(requests, engine_turn(turning(2), turn)).log_so_far()
        for turn in ("oldest_first", "while_wanted")
    )
    assert often.loads["n"].sum() > 2 * seldom.loads["n"].sum()
    waits = [(log.requests["scheduled_ps"] - log.requests["arrival_ps"]) for log in (often, seldom)]
    assert waits[0].mean() > waits[1].mean()


def test_the_model_whose_first_request_waits_longest_is_next():
    requests = some([0, 2, 1, 0, 1, 2], at=[0, 0.001, 0.002, 0.003, 0.004, 0.005])
    log = serve(requests, turning(3)).log_so_far()
    at = log.requests["scheduled_ps"]
    assert at[0] < at[1] == at[5] < at[2] == at[4] < at[3]


def test_prefixes_of_one_model_are_of_no_use_to_another():
    same = sharing(0, 1, isl=40)
    hashes = np.tile(np.arange(4), 3)
    requests = replace(
        some([0, 1, 1], at=[0, 1, 2], isl=32),
        block_hashes=hashes,
        block_starts=np.array([0, 4, 8, 12]),
        hash_tokens=same.hash_tokens,
    )
    log = serve(requests, turning(2)).log_so_far()
    assert log.requests["cached"].tolist() == [0, 0, 24]


def test_an_ordered_switch_to_another_model_waits_until_the_replica_is_empty():
    pools = turning(2, load_s=0.05)
    requests = some([0, 1], at=[0, 0.5], osl=30)
    log = serve(requests, pools, commands=[(0.01, "switch", 0, 1)]).log_so_far()
    first, second = log.requests
    assert first["n_out"] == 30
    assert second["scheduled_ps"] == PS // 2  # its weights were there
    assert log.loads["drain_ps"][0] == first["done_ps"] - 10 * PS // 1000


def test_a_choice_of_a_model_that_nobody_waits_for_is_named():
    def stubborn(replica, engine, model, queued, now_ps, params):
        return 2

    with pytest.raises(PolicyError, match=r"policy stubborn, replica 0 .*chose model 2"):
        serve(some([0, 1]), turning(3), policies={"turn": stubborn})


def test_a_model_that_nobody_serves_is_refused_before_the_run():
    with pytest.raises(SpecError, match="models 0 to 1"):
        serve(some([0, 5]), turning(2))


def test_a_split_fleet_that_serves_half_of_a_model_is_refused_before_the_run():
    half = [fixed(0, role="prefill"), fixed(0, role="decode"), fixed(1, role="prefill")]
    with pytest.raises(SpecError, match="no pool with the role decode serves a model"):
        serve(some([0]), half)


@pytest.mark.parametrize("chain", ["own then shared", "node then network"])
def test_a_leap_equals_stepping_with_turns_tiers_and_swapped_requests(chain):
    found = turns = 0
    for seed in range(4):
        requests = asking(sharing(seed, 50, isl=60, ties=seed % 2 == 0, rate=80), 3, seed)
        for name, pools in model_fleets(n_resident=1 + seed % 2).items():
            pools = engine_turn(pools, TURNS[seed % 4])
            pools = with_engine(pools, preemption="swap" if seed % 2 else "recompute")
            commands = troubles(seed, pools) if seed == 3 and name != "split" else ()
            leapt = both_ways(
                serve, requests, pools, seed=3, route=Policy(name="prefix_aware"),
                tiers=CHAINS[chain], fetch=Policy(name="always"), commands=commands,
            )  # fmt: skip
            assert_laws(leapt, requests)
            assert_stores(leapt)
            found += used(leapt)[0]
            turns += leapt.log_so_far().loads["n"].sum()
    assert found > 100
    assert turns > 20


@pytest.mark.parametrize("concurrency", [None, 3])
def test_a_leap_equals_stepping_with_turns_in_workflows(concurrency):
    for seed in range(5):
        requests = woven(asking(sharing(seed, 50, isl=60, ties=True), 3, seed), seed)
        for pools in model_fleets(n_resident=1 + seed % 2).values():
            pools = engine_turn(pools, TURNS[seed % 4])
            leapt = both_ways(serve, requests, pools, concurrency=concurrency)
            log = assert_laws(leapt, requests, all_sent=False)
            assert_order(log, requests)


def test_an_aborted_request_is_not_waited_for():
    for victim in (0, 1, 2):
        logs = []
        for leap in (True, False):
            server = Server(turning(2), n_requests=3, leap=leap)
            server.inject(some([0, 1, 1], at=[0, 0.005, 0.3], osl=20))
            server.advance(0.02 if victim < 2 else 0.31)
            assert server.abort(victim)
            server.advance()
            assert not server._state.n_parked.any()
            logs.append(server.log_so_far())
        assert_same(*logs)
        assert (logs[0].requests["status"] == 0).sum() == 2


def test_what_one_model_wrote_to_a_tier_is_found_when_it_has_its_next_turn():
    same = np.tile(np.arange(4), 3)
    requests = replace(
        some([0, 1, 0], at=[0, 1, 2], isl=32),
        block_hashes=same, block_starts=np.array([0, 4, 8, 12]), hash_tokens=8,
    )  # fmt: skip
    server = serve(requests, turning(2), tiers=CHAINS["own then shared"])
    assert server.log_so_far().requests["cached"].tolist() == [0, 0, 24]


def test_a_tier_below_models_with_kv_of_different_sizes_is_refused():
    pools = turning(2)
    pools[1] = replace(pools[1], kv_token_bytes=2000.0)
    with pytest.raises(SpecError, match="tokens of KV of different sizes"):
        serve(some([0]), pools, tiers=CHAINS["own then shared"])
