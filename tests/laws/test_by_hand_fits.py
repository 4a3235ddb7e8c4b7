"""What fits a replica and what is turned away, worked out on paper; blocks of 4 tokens."""

from __future__ import annotations

import numpy as np
import pytest
from adapting import fitted
from fleets import both_ways, plain, pool, serve
from serving import PS
from speculating import speculating
from test_by_hand_price import seconds

from forerun.sim.core.rows_log import STATUS
from forerun.sim.core.signatures import TO_LOAD
from forerun.spec.deployment import Policy

MS = PS // 1000
IN_TURN = Policy(name="round_robin")
DONE, REJECTED = STATUS["finished"], STATUS["rejected"]


def statuses(requests, pools, **how):
    server = both_ways(serve, requests, pools, **how)
    rows, state = server.log_so_far().requests, server._state
    assert server._clock.n_live == 0
    assert not state.load[:4].any()
    assert not state.replicas["n_blocks"].any()
    assert not state.replicas["n_away"].any()
    return rows[np.argsort(rows["request"])]["status"].tolist()


ROOMS = {
    "the last token needs none": ({"n_blocks": 4}, (12, 5), (12, 6)),
    "a share kept free": ({"n_blocks": 8, "watermark": 0.25}, (20, 5), (20, 6)),
    "as long as the model allows": ({"n_blocks": 99, "max_len": 30}, (20, 10), (20, 11)),
    "what is kept, and a step": (
        {"n_blocks": 6, "kept_tokens": 8, "max_num_batched_tokens": 16, "prefix_caching": False},
        (90, 9), None,
    ),
    "one token of a step too many": (
        {"n_blocks": 5, "kept_tokens": 8, "max_num_batched_tokens": 16, "prefix_caching": False},
        (12, 9), (13, 9),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ROOMS)
def test_a_request_is_taken_if_it_fits_alone_and_refused_if_it_does_not(name):
    room, fits, too_long = ROOMS[name]
    for lengths, status in ((fits, DONE), (too_long, REJECTED)):
        if lengths is not None:
            one = plain([0], isl=lengths[0], osl=lengths[1])
            assert statuses(one, [pool(**room)]) == [status]


def test_prompts_apart_need_room_for_the_prompt_only():
    """4 blocks where prompts are computed, 6 where answers are: 16 tokens, then 24."""
    split = [pool("prefill", "p", n_blocks=4), pool("decode", "d", n_blocks=6)]
    requests = plain([0, 0, 0], isl=np.array([16, 17, 16]), osl=np.array([9, 2, 10]))
    assert statuses(requests, split) == [DONE, REJECTED, REJECTED]


def test_who_is_sent_where_it_never_fits_is_turned_away_and_nobody_else():
    """6 blocks are wanted; in turn they go to a replica of 4, and to one of 20."""
    two = [pool(n_blocks=4, name="small"), pool(n_blocks=20, name="large")]
    requests = plain([0, 0, 0, 0, 0], isl=np.array([20, 20, 12, 20, 20]), osl=5)
    assert statuses(requests, two, route=IN_TURN) == [REJECTED, DONE, DONE, DONE, REJECTED]


def test_kv_of_who_never_fits_where_its_answer_was_to_be_is_let_go():
    """Prompts of 16 tokens; 24 with the answer, for which one of two replicas has 4 blocks."""
    split = [
        pool("prefill", "p", n_blocks=8), pool("decode", "small", n_blocks=4),
        pool("decode", "large", n_blocks=20),
    ]  # fmt: skip
    requests = plain([0, 1, 2, 3], isl=16, osl=9)
    want = [REJECTED, DONE, REJECTED, DONE]
    assert statuses(requests, split, place=IN_TURN) == want


# -- adapters --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("at", "to_load"), [(0.003, 5 * MS), (0.5, 0)])
def test_a_router_is_told_how_long_an_adapter_has_still_to_load(at, to_load):
    """It loads in 8 ms from 0 on where the first request goes; elsewhere it takes all of that."""

    def route(request, load, params, memory, rng):
        if request.request == 0:
            return 0 if load[TO_LOAD, 0] == 8 * MS and load[TO_LOAD, 1] == 8 * MS else 1
        return 0 if load[TO_LOAD, 0] == to_load and load[TO_LOAD, 1] == 8 * MS else 1

    two = plain([0, at], adapter=np.zeros(2, dtype=np.int64))
    log = serve(two, fitted([pool(replicas=2)]), policies={"route": route}).log_so_far()
    assert log.requests["replica"].tolist() == [0, 0]


# -- proposals -------------------------------------------------------------------------------------


@pytest.mark.parametrize("reserve", ["chunk", "full"])
def test_proposals_fit_the_blocks_that_the_rest_of_the_answer_takes(reserve):
    """8 + 9 tokens, of which the last needs none, are 4 blocks, and there are no more.  Of three
    proposals none is right; with n tokens to come at most n - 1 are proposed."""
    one = speculating(
        k=3, acceptance=0.0, kind="ngram", costs=seconds(), n_blocks=4, reserve=reserve
    )
    log = both_ways(serve, plain([0], isl=8, osl=9), [one]).log_so_far()
    decodes = log.leaps[log.leaps["n_decode"] > 0]
    assert decodes["n_draft"].tolist() == [3, 3, 3, 3, 3, 2, 1, 0]
    assert log.replicas["peak_blocks"].tolist() == [4]


def test_proposals_take_no_blocks_that_there_are_not():
    """Two of 8 tokens have a block each more for the next four; 6 of 7 are taken.  At 9 tokens
    three proposals reach into a fourth block of both, of which the first has the one that is left;
    the second is cut to two."""
    one = speculating(k=3, acceptance=0.0, kind="ngram", costs=seconds(), n_blocks=7)
    log = both_ways(serve, plain([0, 0], isl=8, osl=4), [one]).log_so_far()
    decodes = log.leaps[log.leaps["n_decode"] > 0]
    # two tokens to come after the first step, so at most 1 is proposed: all fit
    assert decodes["n_draft"].tolist() == [4, 2, 0]
    log = both_ways(serve, plain([0, 0], isl=8, osl=9), [one]).log_so_far()
    decodes = log.leaps[log.leaps["n_decode"] > 0]
    assert decodes["n_draft"].tolist()[:2] == [6, 3 + 2]


def test_whether_a_token_is_right_belongs_to_its_place_whatever_was_proposed_before():
    """What each of three lengths finds right and wrong, by place in the answer, goes together."""
    said = {}
    for k in (1, 2, 4):
        one = speculating(k=k, acceptance=0.6, kind="ngram", costs=seconds(), n_blocks=400)
        log = serve(plain([0], isl=8, osl=300), [one], seed=5).log_so_far()
        out = 1  # tokens of the answer so far: the first comes with the prompt
        for row in log.leaps[log.leaps["n_decode"] > 0]:
            for place in range(out, out + min(row["n_extra"] + 1, row["n_draft"])):
                said.setdefault(place, set()).add(bool(place < out + row["n_extra"]))
            out += 1 + row["n_extra"]
        assert out == 300
    assert all(len(one) == 1 for one in said.values())
    assert len(said) > 250
