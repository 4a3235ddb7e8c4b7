"""What a router is told of the load of a replica, at moments worked out on paper.

Steps of 16 tokens, one request at a time.  The first has a prompt of 33 and an answer of 8: steps
to 48, 104 and 123 s (see test_by_hand_leaps), then 7 of 1 s and 0.25 s a cached token: 70 s.  The
second comes at 1 s, with 20 tokens and an answer of one: from 193 s on 16 (16 + 32 s) and 4 (4 + 8
s, and 8 for those before), until 261 s.
"""

from __future__ import annotations

import numpy as np
import pytest
from fleets import plain, pool, prompts, serve
from serving import PS
from test_by_hand_price import seconds

from forerun.sim.core.signatures import OUTSTANDING, OUTSTANDING_TOKENS, RUNNING, WAITING_REQUESTS
from forerun.spec.workload import Client

SMALL = {"costs": seconds(), "max_num_batched_tokens": 16, "max_num_seqs": 1, "n_blocks": 100}


def third_goes(row, at, n, **how):
    """Where the third goes: to replica 0, as the others, only where `row` tells that it has n."""

    def route(request, load, params, memory, rng):
        if request.request < 2:
            return 0
        return 0 if load[row, 0] == n else 1

    requests = plain([0, 1, at], isl=np.array([33, 20, 4]), osl=np.array([8, 1, 1]))
    two = [pool(replicas=2, prefix_caching=False, **SMALL)]
    server = serve(requests, two, policies={"route": route}, **how)
    assert not server._state.load[:4].any()
    log = server.log_so_far()
    return log.requests["replica"][log.requests["request"] == 2].tolist()


@pytest.mark.parametrize("at", [2, 192, 194, 240, 260, 262])
def test_a_router_is_told_how_many_are_there_wait_and_run(at):
    n_there = (at < 193) + (at < 261)
    assert third_goes(OUTSTANDING, at, n_there) == [0]
    assert third_goes(WAITING_REQUESTS, at, int(at < 193)) == [0]
    assert third_goes(RUNNING, at, int(at < 261)) == [0]


@pytest.mark.parametrize(
    ("at", "n"), [(2, 53), (105, 21), (124, 20), (194, 20), (242, 4), (262, 0)]
)
def test_a_router_is_told_of_the_prompt_tokens_that_were_left_at_the_last_event(at, n):
    assert third_goes(OUTSTANDING_TOKENS, at, n) == [0]


@pytest.mark.parametrize(("at", "n", "tokens"), [(59, 2, None), (62, 1, None), (105, 0, 0)])
def test_those_whose_clients_have_gone_are_no_load(at, n, tokens):
    """Both wait for 60 s: the second goes at once, at 61 s; the first at the end of its step."""
    client = Client(first_token_s=60.0)
    assert third_goes(OUTSTANDING, at, n, client=client) == [0]
    if tokens is not None:
        assert third_goes(OUTSTANDING_TOKENS, at, tokens, client=client) == [0]


# -- room for those who share ----------------------------------------------------------------------


@pytest.mark.parametrize(("n_blocks", "together"), [(11, True), (10, False)])
def test_a_prefix_that_another_holds_leaves_the_blocks_of_the_rest(n_blocks, together):
    """A prompt of 32 tokens and a step of its answer: 9 blocks when the second comes.  That shares
    6 of its 8, so 2 more are wanted: 11, while the first does not grow (its answer is of 4)."""
    same, costs = [1, 2, 3, 4], seconds()
    requests = prompts(same, same, at=[0, 97], isl=32, osl=4)
    # 32 + 64 s, then 1 + 8 s: the second comes in that step, and may join the next, at 105 s
    log = serve(requests, [pool(costs=costs, n_blocks=n_blocks)]).log_so_far()
    first, second = log.requests
    assert second["cached"] == 24
    assert (second["scheduled_ps"] == 105 * PS) == together
    if not together:
        assert second["scheduled_ps"] == first["done_ps"]


@pytest.mark.parametrize(("n_blocks", "waits"), [(17, False), (16, True)])
def test_a_prefix_that_nobody_holds_takes_the_blocks_it_stands_in(n_blocks, waits):
    """A prompt of 32 tokens stays, idle, when its request has ended.  One of other 32 tokens has 9
    blocks from its second token on; the third, which begins like the first, takes 8 beside it."""
    costs = seconds()
    requests = prompts([1, 2, 3, 4], [5, 6, 7, 8], [1, 2, 3, 4], at=[0, 200, 297], isl=32, osl=4)
    log = serve(requests, [pool(costs=costs, n_blocks=n_blocks)]).log_so_far()
    rows = log.requests
    assert (rows["scheduled_ps"][2] == 305 * PS) != waits
    if waits:
        assert rows["scheduled_ps"][2] == rows["done_ps"][1]
