"""Laws of replicas that change roles while they hold KV for each other: nobody waits for ever."""

from __future__ import annotations

import numpy as np
import pytest
from families import asking, engine_turn, model_fleets
from fleets import VERBS, both_ways, pool, serve, sharing, troubles
from test_turn_control_laws import TURNS, assert_ended

from forerun.spec.requests import Requests


def split(**how):
    return [pool("prefill", "p", **how), pool("decode", "d", **how)]


def disturbed(seed, pools, verbs):
    """Random orders, after which every replica is told to be what it was at first."""
    own = [p for p, one in enumerate(pools) for _ in range(one.pool.replicas)]
    after = [(3.0, "switch", i, p) for i, p in enumerate(own)]
    return [*troubles(seed, pools, n=16, verbs=verbs), *after]


@pytest.mark.parametrize("verbs", [("switch",), VERBS])
@pytest.mark.parametrize("kind", ["memory", "turns"])
def test_requests_all_end_whatever_roles_replicas_are_told_to_take(kind, verbs):
    """Blocks are scarce, so that replicas wait for memory; or they wait for a model's turn."""
    n_untied = 0
    for seed in range(24):
        pools = split(replicas=2, n_blocks=24)
        requests = sharing(seed, 60, isl=60, ties=seed % 2 == 0)
        if kind == "turns":
            pools = engine_turn(model_fleets(n_resident=1 + seed % 2)["split"], TURNS[seed % 4])
            requests = asking(requests, 3, seed)
        server = both_ways(serve, requests, pools, commands=disturbed(seed, pools, verbs))
        assert_ended(server.log_so_far(), server._state, 60)
        n_untied += server._state.clock["n_untied"][0]
    assert n_untied > 5 or "fail" in verbs  # which loses KV before it is waited for


def some(*, isl, osl, at_s):
    return Requests(np.array(at_s), np.array(isl), np.array(osl))


def test_kv_that_only_its_own_replica_is_left_to_fetch_is_computed_again():
    # both compute prompts from 20 ms on.  10 blocks of 4 tokens: the prompts of the first and the
    # last stay, one a replica, and the second waits for the room of the first.  At 107 ms replica 0
    # decodes: the last goes to it, the first, which it has computed, is computed anew by replica 1
    requests = some(at_s=[0.036, 0.046, 0.047], isl=[16, 32, 32], osl=[8, 2, 8])
    orders = [(0.02, "switch", 1, 0), (0.107, "switch", 0, 1)]
    pools = split(replicas=1, n_blocks=10)
    log = both_ways(serve, requests, pools, commands=orders).log_so_far()
    first, second, last = log.requests
    assert log.requests["status"].tolist() == [0, 0, 0]
    assert log.requests["recomputed"].tolist() == [16, 0, 0]
    # the second waited where it is answered
    assert log.requests["prefill_replica"].tolist() == [1, -1, 1]
    assert second["scheduled_ps"] == 107_000_000_000
    assert first["first_token_ps"] < second["first_token_ps"] < first["done_ps"]
    assert (first["n_retries"], second["n_retries"], last["n_retries"]) == (1, 0, 0)


def test_of_two_replicas_that_wait_for_each_other_one_gives_up_what_it_holds():
    # 12 blocks of 4 tokens.  At 98 ms both compute prompts: replica 1 holds the first (16 and its
    # answer so far: 5 blocks), which was preempted there, for somebody who decodes; replica 0 holds
    # the third (8) for replica 1, where it waits for 9.  At 128 ms replica 0 decodes, and has 4
    # blocks for the first.  It gives the third up: the first comes in 1 + 17 / 2 ms, and replica 1
    # computes the third in the room that it leaves
    requests = some(at_s=[0.05, 0.055, 0.079, 0.089], isl=[16, 32, 32, 32], osl=[16, 16, 16, 8])
    orders = [(0.098, "switch", 1, 0), (0.128, "switch", 0, 1)]
    server = both_ways(serve, requests, split(replicas=1, n_blocks=12), commands=orders)
    log = server.log_so_far()
    assert server._state.clock["n_untied"][0] == log.meta["untied"] == 1
    assert log.requests["n_retries"].tolist() == [0, 0, 1, 0]
    assert log.requests["recomputed"].tolist() == [16, 0, 32, 0]
    assert log.requests["n_preempt"].tolist() == [1, 0, 0, 0]
    begins = log.leaps[log.leaps["start_ps"] > 128_000_000_000]
    assert begins["start_ps"][:2].tolist() == [137_500_000_000, 137_500_000_000]
    assert sorted(begins["replica"][:2].tolist()) == [0, 1]


def test_kv_that_is_lost_while_nobody_decodes_is_computed_again_at_once():
    # the last replica, which decodes, is closed until 300 ms; the first, which has computed the
    # prompt, is gone at 100 ms, and another one computes it
    pools = [pool("prefill", "p", replicas=2, n_blocks=10), pool("decode", "d", n_blocks=10)]
    orders = [(0.0, "close", 2, 0), (0.1, "fail", 0, 0), (0.3, "open", 2, 0)]
    asked = some(at_s=[0.05], isl=[16], osl=[4])
    log = both_ways(serve, asked, pools, commands=orders).log_so_far()
    (row,) = log.requests
    assert (row["prefill_replica"], row["recomputed"], row["n_retries"]) == (1, 16, 1)
    began = [(int(leap["replica"]), int(leap["start_ps"]) / 1e9) for leap in log.leaps]
    assert began == [(0, 50), (1, 100), (2, 300 + 1 + 17 / 2)]


def test_roles_that_stay_are_not_looked_at():
    server = serve(sharing(1, 60, isl=60), split(replicas=2, n_blocks=24))
    assert server._state.clock["roles_change"][0] == 0
    assert "untied" not in server.log_so_far().meta
