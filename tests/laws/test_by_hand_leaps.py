"""What others may see in the midst of a long leap, and that memory holds in it: worked out on
paper."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from fleets import assert_laws, both_ways, plain, pool, prompts, serve
from test_by_hand_price import seconds

from forerun.sim.core.signatures import CACHED, KV_BLOCKS


def while_told(row, n, *, fresh):
    """A router that sends the first request to replica 0, and others there only where `row` of
    `load` tells that it has n."""

    def route(request, load, params, memory, rng):
        if request.request == 0:
            return 0
        return 0 if load[row, 0] == n else 1

    route.CACHED_WANTED = route.FRESH = fresh
    return route


# a prompt of 33 tokens in steps of 16 (16 + 32 s), 16 (8 s more, for those before) and 1 (1 + 2 +
# 16 s); the answer's steps begin at 123 s and take 1 s and 0.25 s a cached token: 9.25, 9.5, ..
CHUNKS = {"costs": seconds(), "max_num_batched_tokens": 16, "n_blocks": 100, "replicas": 2}


@pytest.mark.parametrize(("at", "tokens"), [(47, 0), (49, 16), (103, 16), (105, 32)])
def test_a_router_finds_the_blocks_that_a_prompt_has_computed_so_far(at, tokens):
    """The first step ends at 48 s, the second at 104."""
    requests = prompts([1, 2, 3, 4], [1, 2, 3, 4], at=[0, at], isl=33, osl=8)
    route = while_told(CACHED, tokens, fresh=True)
    server = both_ways(serve, requests, [pool(**CHUNKS)], policies={"route": route})
    assert server.log_so_far().requests["replica"].tolist() == [0, 0]


@pytest.mark.parametrize(("at", "tokens"), [(103, 16), (105, 32), (167, 32), (169, 48)])
def test_a_router_finds_the_blocks_of_each_of_many_steps_alike(at, tokens):
    """65 tokens: steps of 16 end at 48, 104, 168 and 240 s, the last three as one leap would."""
    keys = list(range(8))
    requests = prompts(keys, keys, at=[0, at], isl=65, osl=2)
    route = while_told(CACHED, tokens, fresh=True)
    server = both_ways(serve, requests, [pool(**CHUNKS)], policies={"route": route})
    assert server.log_so_far().requests["replica"].tolist() == [0, 0]


@pytest.mark.parametrize(("at", "tokens"), [(185, 8), (186, 0)])
def test_a_router_no_longer_finds_the_one_block_that_a_step_under_way_has_dropped(at, tokens):
    """The first leaves one prefix block, 2 of 8 blocks.  A prompt of 20 tokens is computed from 100
    s to 160; the steps of its answer take 6 s, 6.25, 6.5 and 6.75 s, and the one that computes the
    25th token and wants the 7th block begins at 185.5 s."""
    requests = prompts([1], [], [1], at=[0, 100, at])
    requests = replace(requests, isl=np.array([9, 20, 9]), osl=np.array([1, 12, 1]))
    tight = pool(costs=seconds(), n_blocks=8, replicas=2)

    def route(request, load, params, memory, rng):
        if request.request < 2:
            return 0
        return 0 if load[CACHED, 0] == tokens else 1

    route.CACHED_WANTED = True
    server = both_ways(serve, requests, [tight], policies={"route": route})
    assert server.log_so_far().requests["replica"].tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("at", "n_blocks"),
    [(1, 4), (47, 4), (49, 8), (103, 8), (105, 9), (124, 9), (151, 9), (152, 10), (162, 10)],
)
def test_a_router_that_asks_anew_is_told_of_the_blocks_of_the_step_under_way(at, n_blocks):
    """16, 32 and 33 tokens take 4, 8 and 9 blocks; the fourth step of the answer, from 151.5 s on,
    computes the 37th token: 10."""
    route = while_told(KV_BLOCKS, n_blocks, fresh=True)
    requests = plain([0, at], isl=np.array([33, 4]), osl=np.array([8, 1]))
    server = both_ways(serve, requests, [pool(**CHUNKS)], policies={"route": route})
    assert server.log_so_far().requests["replica"].tolist() == [0, 0]


def test_a_router_that_does_not_ask_anew_is_told_of_the_blocks_at_the_last_event():
    """4 blocks from the start on, none when all has ended: 8 tokens of an answer are some 75 s."""
    for at, n_blocks in ((1, 4), (47, 4), (300, 0)):
        route = while_told(KV_BLOCKS, n_blocks, fresh=False)
        requests = plain([0, at], isl=np.array([33, 4]), osl=np.array([8, 1]))
        log = serve(requests, [pool(**CHUNKS)], policies={"route": route}).log_so_far()
        assert log.requests["replica"].tolist() == [0, 0]


def test_decoders_that_want_a_block_each_in_the_second_step_of_a_leap_stay_within_memory():
    """Five with 7 tokens have 10 of 13 blocks.  The first step of the answer fills these; for the
    second each wants one: the last makes room, so that four have 3 each."""
    requests = plain([0] * 5, isl=7, osl=4)
    log = assert_laws(both_ways(serve, requests, [pool(n_blocks=13)]), requests)
    assert log.requests["n_preempt"].tolist() == [0, 0, 0, 0, 1]
    assert log.requests["recomputed"].tolist() == [0, 0, 0, 0, 8]
    assert log.replicas["peak_blocks"].tolist() == [12]
