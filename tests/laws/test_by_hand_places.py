"""Who goes where and what is there then, several models and adapters among it: worked out on
paper."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from adapting import fitted
from families import fixed, turning
from fleets import both_ways, plain, pool, serve
from serving import PS
from speculating import speculating
from test_by_hand_price import seconds

from forerun.cost.pick import Pick
from forerun.sim.core.rows_log import STATUS
from forerun.sim.core.signatures import HEAD_PS, LOAD_PS, QUEUED
from forerun.spec.caches import ResponseCache
from forerun.spec.deployment import Policy
from forerun.spec.traces._questions import with_questions
from forerun.spec.tuning import Tuning
from forerun.spec.workload import Client, Questions

MS = PS // 1000
IN_TURN = Policy(name="round_robin")


# -- answers of several models ---------------------------------------------------------------------


def test_alike_texts_are_answered_by_what_the_same_model_has_said():
    """One question in 20 wordings, all of them alike enough; two models asked in turn."""
    n = 30
    requests = with_questions(
        plain(np.arange(n)), (Questions(topics=1, questions=1, wordings=20),), seed=1
    )
    requests = replace(requests, model=np.arange(n) % 2)
    cache = ResponseCache(threshold=0.01)
    log = serve(requests, [fixed(0), fixed(1)], responses=cache).log_so_far()
    got = log.answered.asks["got"]
    assert got[:2].tolist() == [-1, -1]
    assert (got[2:] % 2).tolist() == (np.arange(2, n) % 2).tolist()
    assert set(got[2:].tolist()) == {0, 1}  # who is answered by the cache adds nothing to it


# -- models in turn --------------------------------------------------------------------------------


def test_a_turn_policy_is_told_who_waits_since_when_and_how_long_the_weights_take():
    """Two wait for the second model, since 1 and 2 ms, which takes 50 ms to load, the other was
    there at the start; the first of them comes while the first model answers."""

    def turn(replica, engine, model, queued, now_ps, params):
        right = (
            queued[QUEUED, 1] == 2 and queued[HEAD_PS, 1] == MS and queued[LOAD_PS, 1] == 50 * MS
        )
        right = right and queued[LOAD_PS, 0] == 0
        if model == 0 and (right or replica.n_running + replica.n_waiting == 0):
            return 1
        return model if replica.n_running + replica.n_waiting > 0 else 1 - model

    turn.EVERY_STEP = True
    requests = plain(
        [0, 1e-3, 2e-3, 3e-3], osl=np.array([60, 2, 2, 60]), model=np.array([0, 1, 1, 0])
    )
    log = both_ways(serve, requests, turning(2), policies={"turn": turn}).log_so_far()
    rows = log.requests
    # the first is served on, the fourth is not let in any more: it comes when the others are done
    assert rows["scheduled_ps"][1] == rows["done_ps"][0] + 50 * MS
    assert rows["scheduled_ps"][3] == rows["done_ps"][1:3].max() + 50 * MS


# -- adapters --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("value", "n_loads"), [(0, 1), (1, 2)])
def test_a_replica_that_starts_cold_has_no_adapter_and_one_that_was_closed_has_its_own(
    value, n_loads
):
    two = plain([0, 2.0], adapter=np.zeros(2, dtype=np.int64))
    commands = [(1.0, "close", 0), (1.1, "open", 0, value)]
    log = serve(two, fitted([pool()]), commands=commands).log_so_far()
    assert log.fitted["n_loads"].tolist() == [n_loads]


def test_a_request_that_moves_uses_its_adapter_where_it_goes_on():
    """Both replicas have loaded the adapter; at 1.05 s the third, on the first one, moves."""
    requests = plain([0, 0, 1], osl=np.array([2, 2, 100]), adapter=np.zeros(3, dtype=np.int64))
    server = both_ways(
        serve, requests, fitted([pool(replicas=2)]), route=IN_TURN, commands=[(1.05, "move", 0, 1)]
    )
    log, slots = server.log_so_far(), server._state.slots
    assert log.requests["replica"].tolist() == [0, 1, 1]
    assert not slots["n_using"].any()
    assert not slots["n_decoding"].any()
    assert log.fitted["n_loads"].tolist() == [1, 1]
    moved = log.leaps[(log.leaps["replica"] == 1) & (log.leaps["start_ps"] > PS)]
    assert (moved["n_adapted"] == 1).all()


# -- clients ---------------------------------------------------------------------------------------


def test_who_is_sent_again_after_a_timeout_came_when_it_was_first_sent():
    """Its seat is taken for some 0.6 s; it waits 0.1 s from 0.05 s on, three times: 0.05 s after it
    gave up first and twice that after the second time, so that the third begins at 0.4 s."""
    client = Client(first_token_s=0.1, retries=2, retry_on=("timeout",), backoff_s=0.05)
    requests = plain([0, 0.05], osl=np.array([200, 2]))
    log = both_ways(
        serve, requests, [pool(max_num_seqs=1, n_blocks=99)], client=client
    ).log_so_far()
    second = log.requests[log.requests["request"] == 1][0]
    assert (second["arrival_ps"], second["n_retries"]) == (50 * MS, 2)
    assert (second["status"], second["done_ps"]) == (2, 500 * MS)


# -- regions ---------------------------------------------------------------------------------------


def test_the_nearest_place_for_an_answer_is_the_nearest_to_its_kv():
    """Prompts are computed in region 0, clients are in region 1; answers may be in either."""
    split = [pool("prefill", "p"), pool("decode", "far"), pool("decode", "near")]
    pools = [replace(one, region=g) for one, g in zip(split, (0, 1, 0), strict=True)]
    requests = plain([0, 1], osl=8, region=np.ones(2, dtype=np.int64))
    way = ((0.0, 0.02), (0.02, 0.0))
    log = serve(requests, pools, way_s=way, place=Policy(name="nearest")).log_so_far()
    assert log.requests["replica"].tolist() == [2, 2]


def test_who_goes_away_while_nobody_takes_its_kv_leaves_no_blocks():
    """The prompt is computed, answers are closed; the client waits for half a second."""
    split = [pool("prefill", "p"), pool("decode", "d")]
    server = serve(
        plain([0], osl=8), split, commands=[(0.0, "close", 1), (1.0, "open", 1)],
        client=Client(give_up_s=0.5),
    )  # fmt: skip
    row, state = server.log_so_far().requests[0], server._state
    assert (row["status"], row["n_out"], row["done_ps"]) == (STATUS["aborted"], 1, 500 * MS)
    assert not state.replicas["n_blocks"].any()
    assert not state.replicas["n_away"].any()
    assert server._clock.n_live == 0


def test_who_goes_away_while_its_request_is_on_its_way_is_logged():
    """20 ms to the replica; the client waits for 10."""
    pools = [replace(pool(), region=1)]
    requests = plain([0, 1], region=np.array([0, 1]))
    way = ((0.0, 0.02), (0.02, 0.0))
    server = serve(requests, pools, way_s=way, client=Client(first_token_s=0.01))
    rows = server.log_so_far().requests
    assert rows["request"].tolist() == [0, 1]
    assert (rows["status"][0], rows["n_out"][0]) == (STATUS["aborted"], 0)
    assert rows["status"][1] == STATUS["finished"]
    assert server._clock.n_live == 0
    assert not server._state.load[:4].any()


# -- proposals and caps ----------------------------------------------------------------------------


@pytest.mark.parametrize("reads", [12, 14, 16, 18])
def test_accepted_tokens_are_read_as_far_as_a_request_reads(reads):
    """All of three proposals are right: 8, 12, 16, 20 and 24 cached tokens before the steps."""
    one = speculating(
        k=3, acceptance=1.0, kind="ngram", costs=seconds(), n_blocks=99, attended_tokens=reads
    )
    log = both_ways(serve, plain([0], isl=8, osl=21), [one]).log_so_far()
    decodes = log.leaps[log.leaps["n_decode"] > 0]
    assert decodes["n_extra"].tolist() == [3] * 5
    assert decodes["ctx"].tolist() == [min(c, reads) for c in (8, 12, 16, 20, 24)]
    assert decodes["n_still"].tolist() == [int(c >= reads) for c in (8, 12, 16, 20, 24)]


@pytest.mark.parametrize("keeps", [12, 14, 16, 18])
def test_accepted_tokens_are_kept_as_far_as_a_request_keeps(keeps):
    """What is kept is cut after the step: the blocks of a step hold one token and three proposals
    beyond what was kept before."""
    one = speculating(
        k=3, acceptance=1.0, kind="ngram", costs=seconds(), n_blocks=99, kept_tokens=keeps,
        prefix_caching=False,
    )  # fmt: skip
    log = both_ways(serve, plain([0], isl=8, osl=21), [one]).log_so_far()
    decodes = log.leaps[log.leaps["n_decode"] > 0]
    assert decodes["n_extra"].tolist() == [3] * 5
    before = [min(c, keeps) for c in (8, 12, 16, 20, 24)]
    assert decodes["ctx"].tolist() == before


@pytest.mark.parametrize(("reads", "keeps"), [(12, 22), (14, 22), (10, 16), (8, 99)])
def test_accepted_tokens_are_picked_from_as_far_as_a_request_keeps(reads, keeps):
    """The same, where what is read is picked out of what is kept."""
    one = speculating(
        k=3, acceptance=1.0, kind="ngram", costs=seconds(), n_blocks=99, kept_tokens=keeps,
        attended_tokens=reads, prefix_caching=False,
    )  # fmt: skip
    pick = Pick(bytes_share=0.25, flop_share=0.1, step_s=1.0)
    one = replace(one, table=replace(one.table, pick=pick))
    server = both_ways(serve, plain([0], isl=8, osl=21), [one])
    log = server.log_so_far()
    decodes = log.leaps[log.leaps["n_decode"] > 0]
    assert decodes["n_extra"].tolist() == [3] * 5
    for row, had in zip(decodes, (8, 12, 16, 20, 24), strict=True):
        picks = had >= reads
        assert (row["ctx"], row["n_picking"]) == (min(had, reads), picks)
        assert row["scored"] == (min(had, keeps) if picks else 0)
        assert row["n_scored"] == (picks and had < keeps)
    for name in ("n_picking", "scored", "n_scored", "ctx", "n_reading", "n_taking"):
        assert not server._state.replicas[name].any(), name


# -- tuning ----------------------------------------------------------------------------------------


def test_a_step_that_leaves_nothing_to_tune_takes_what_it_takes():
    """No step may last longer than 1 ms with tuning tokens, and none is that short."""
    plain_one = pool()
    slack = {"name": "slack", "params": {"step_s": 1e-3}}
    tunes = pool(tune=slack, tuning=Tuning(tokens=1000, grain=4))
    requests = plain([0, 0.01], isl=np.array([32, 40]), osl=20)
    logs = [serve(requests, [one]).log_so_far() for one in (plain_one, tunes)]
    for name in ("scheduled_ps", "first_token_ps", "done_ps", "max_itl_ps"):
        assert logs[0].requests[name].tolist() == logs[1].requests[name].tolist()


# -- copies ----------------------------------------------------------------------------------------


def to_the_first(request, load, params, memory, rng):
    return 0


@pytest.mark.parametrize(("by", "busy_s"), [("first_token", 24), ("answer", 65.25)])
def test_the_copy_that_comes_later_is_dropped_and_its_replica_is_free(by, busy_s):
    """A prompt of 8 takes 24 s on the first replica and half of that on the second, to which a
    copy goes after 2 s: its first token is there at 14 s, its answer after 19 steps more of 1.5 s,
    1.625 s, ..: at 63.875 s.  The other ends with its step then: its prompt, or the tenth of its
    answer, which take 3 s, 3.25 s, .."""
    slow, fast = seconds(), seconds()
    half = {name: getattr(fast.time_s, name) / 2 for name in ("tokens", "decode", "prefill")}
    fast = replace(fast, time_s=replace(fast.time_s, **half))
    two = [pool(costs=slow), pool(costs=fast, name="fast")]
    client = Client(hedge_s=2.0, hedge_by=by)
    server = both_ways(
        serve, plain([0], isl=8, osl=20), two, client=client, policies={"route": to_the_first}
    )
    log = server.log_so_far()
    row = log.requests[0]
    assert (row["replica"], row["first_token_ps"]) == (1, 14 * PS)
    assert row["done_ps"] == 63.875 * PS
    assert log.replicas["busy_ps"][0] == busy_s * PS
    assert server._clock.n_live == 0


# -- moves -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n_blocks", "goes"), [(9, True), (8, False)])
def test_a_request_moves_only_to_where_all_of_it_will_fit(n_blocks, goes):
    """8 + 26 tokens, of which the last needs none, are 9 blocks; it moves at the fifth or so."""
    two = [pool(costs=seconds(), n_blocks=40), pool(costs=seconds(), name="o", n_blocks=n_blocks)]
    server = both_ways(
        serve, plain([0], isl=8, osl=26), two, commands=[(40.0, "move", 0, 1)],
        policies={"route": to_the_first},
    )  # fmt: skip
    row = server.log_so_far().requests[0]
    assert (row["replica"], row["status"], row["n_preempt"]) == (int(goes), STATUS["finished"], 0)
