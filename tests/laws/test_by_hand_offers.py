"""What policies are told of the time that things take: offers of tiers, steps with proposals.

A policy here says yes where it is told what is worked out on paper, and no elsewhere.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from fleets import plain, pool, prompts, serve
from serving import PS
from speculating import speculating
from test_by_hand_price import seconds

from forerun.sim.tiers import Tier

MS = PS // 1000
SHARED = Tier("pool", 1e6, 4e6, 1e-4, shared_by="fleet", write="through")

# -- blocks that a tier keeps ----------------------------------------------------------------------


def told(move_ps, compute_ps, *, before=0, of=4, take=4, first=1):
    """A policy that takes `take` blocks where all is as said; requests before `first` get none."""

    def fetch(request, engine, offer, params):
        right = offer.move_ps == move_ps and offer.compute_ps == compute_ps and offer.tier == 0
        right = right and offer.n_before == before and offer.n_blocks == of
        right = right and offer.n_tokens == 8 * of and request.request >= first
        return take if right else 0

    return fetch


def found(rows, at, fetch, *, meta=None, **engine):
    """What each finds of its prompt of 33 tokens, 4 blocks, in a tier; memory lost it at 500 s."""
    costs = seconds(max_tokens=16, host_step_s=5.0)
    requests = prompts(*rows, at=at, isl=33, osl=1)
    if meta:
        requests = replace(requests, meta=meta)
    server = serve(
        requests, [pool(costs=costs, n_blocks=200, **engine)], tiers=[SHARED],
        policies={"fetch": fetch}, commands=[(500.0, "fail", 0), (600.0, "open", 0)],
    )  # fmt: skip
    return server.log_so_far().requests["cached"].tolist()


ONE, OTHER = [1, 2, 3, 4], [5, 6, 7, 8]


def test_an_offer_says_how_long_the_blocks_take_to_move_and_to_compute():
    """32 kB at 4 MB/s after 0.1 ms.  16 tokens after 0 and 16 after 16 ones are two steps: 16 s of
    tokens, 32 of the chunk, half of what stands before it, and 5 of the host, each."""
    takes = told(81 * MS // 10, (53 + 61) * PS)
    assert found([ONE, ONE], [0, 1000], takes) == [0, 32]
    assert found([ONE, ONE], [0, 1000], told(81 * MS // 10, 114 * PS, take=3)) == [0, 24]


def test_an_offer_goes_on_after_what_memory_keeps():
    """The second brought two blocks up; the third finds these in memory: 16 kB after 16 tokens."""

    def fetch(request, engine, offer, params):
        if request.request == 1:
            return 2
        right = offer.move_ps == 41 * PS // 10000 and offer.compute_ps == 61 * PS
        return 2 if right and offer.n_before == 16 and offer.n_blocks == 2 else 0

    rows, at = [ONE, [1, 2], ONE], [0, 1000, 2000]
    assert found(rows, at, fetch) == [0, 16, 32]


def test_one_more_transfer_halves_what_a_port_gives_to_the_next():
    """Two that come together: while 32 kB move for one, the other's would take 16.1 ms."""

    def fetch(request, engine, offer, params):
        alone = 1 if request.request == 2 else 2
        return 4 if offer.move_ps == alone * 8 * PS // 1000 + PS // 10000 else 0

    assert found([ONE, OTHER, ONE, OTHER], [0, 200, 1000, 1000], fetch) == [0, 0, 32, 32]


def test_of_blocks_reused_anywhere_only_what_is_not_computed_again_is_spared():
    """A quarter of 32 tokens is: 24 are spared, 16 after 0 and 8 after 16 (8 + 16 + 8 + 5 s).  Of
    blocks 1 to 3 behind one that nobody knows 24 tokens are offered, of which 18 are spared: 16
    after 8 (57 s), 2 after 24 (2 + 4 + 12 + 5)."""
    anywhere = {"reuse": "anywhere", "recompute_share": 0.25, "meta": {"blocks": "content"}}
    takes = told(81 * MS // 10, (53 + 37) * PS)
    assert found([ONE, ONE], [0, 1000], takes, **anywhere) == [0, 24]
    takes = told(61 * MS // 10, (57 + 23) * PS, before=8, of=3, take=3)
    assert found([ONE, [9, 1, 2, 3]], [0, 1000], takes, **anywhere) == [0, 18]


# -- steps with proposals --------------------------------------------------------------------------


def quoted(step_ps, growth, ctx_ps, *, waits=0):
    """A policy that proposes 3 where a step is said to take step_ps[k], and ctx_ps more for each
    cached token at k, `growth` times more for each proposal; elsewhere none."""
    a, b, c, d = (int(one * PS) for one in step_ps)
    each = int(ctx_ps * PS)

    def speculate(request, replica, engine, told_ps, params):
        if waits > 0 and replica.n_waiting == 0:
            return 0
        cached = replica.ctx * each
        off = abs(told_ps[0] - a - cached) + abs(told_ps[1] - b - cached * (1 + growth))
        off += abs(told_ps[2] - c - cached * (1 + 2 * growth))
        off += abs(told_ps[3] - d - cached * (1 + 3 * growth))
        return 3 if off < 1000 else 0

    speculate.PRICED = speculate.EVERY_STEP = True
    return speculate


def proposed(requests, policy, costs, *, batch=None, **how):
    """Tokens proposed in each step that decodes, none of which is ever right."""
    one = speculating(k=3, acceptance=0.0, costs=costs, n_blocks=400, **how)
    given = {"speculate": policy, **({"batch": batch} if batch else {})}
    log = serve(requests, [one], policies=given).log_so_far()
    return log.leaps["n_draft"][log.leaps["n_decode"] > 0].tolist()


@pytest.mark.parametrize("n", [1, 2])
def test_a_policy_is_told_what_a_step_would_take_with_each_number_of_proposals(n):
    """n tokens more for each proposal, and a fifth more attention; 5 s of the host and 0.5 s for
    each request; the look-up in their prompts takes 1 s each."""
    costs = seconds(host_step_s=5.0, host_seq_s=0.5)
    parts = [n * (k + 1) + 5 + 0.5 * n + (n if k > 0 else 0) for k in range(4)]
    requests = plain([0] * n, isl=8, osl=6)
    steps = proposed(requests, quoted(parts, 0.2, 0.25), costs, kind="ngram", seq_s=1.0)
    # of 5 tokens to come one is the step's own, so at most 4, 3, 2, 1 and 0 can be proposed
    assert steps == [3 * n, 3 * n, 2 * n, n, 0]


@pytest.mark.parametrize(("floor", "step_s"), [(8, [8, 8, 9, 10]), (4, [4, 5, 6, 7])])
def test_proposals_are_priced_beside_the_prompt_that_waits(floor, step_s):
    """Up to `floor` tokens a step takes as many seconds.  So does one of a decoder, and at 8 one
    with proposals would; but beside the prompt of 6 that waits these make 8, 9 and 10 tokens of 7:
    at 8 one is free, at 4 none.  A batch that lets nobody in while one decodes keeps it waiting."""
    costs = seconds()
    tokens = np.maximum(floor, costs.time_s.tokens)
    tokens[0] = 0
    costs = replace(costs, time_s=replace(costs.time_s, tokens=tokens))

    def alone(replica, engine, params):
        return 1, 20, 0, 1 if replica.n_running == 0 else 0

    requests = plain([0, 1], isl=np.array([8, 6]), osl=np.array([6, 1]))
    policy = quoted(step_s, 0.2, 0.25, waits=1)
    assert proposed(requests, policy, costs, kind="ngram", batch=alone) == [3, 3, 2, 1, 0]


def test_a_draft_is_priced_with_all_its_passes():
    """k passes of one token, 0.2 s each, 10 us to sample from it, and 0.3 us for each token that is
    cached by then: one more with each pass."""
    costs = seconds()
    passes = [k * (0.2 + 1e-5) + 3e-7 * (k * (k - 1) // 2) for k in range(4)]

    def speculate(request, replica, engine, told_ps, params):
        off = 0.0
        for k in range(4):
            own = (k + 1 + 0.25 * replica.ctx * (1 + 0.2 * k)) * PS
            wanted = own + passes_ps[k] + k * replica.ctx * 3e-7 * PS
            off += abs(told_ps[k] - wanted)
        return 3 if off < 1000 else 0

    passes_ps = tuple(float(p) * PS for p in passes)
    speculate.PRICED = speculate.EVERY_STEP = True
    assert proposed(plain([0], isl=8, osl=6), speculate, costs, draft_flat=0.2) == [3, 3, 2, 1, 0]
