"""The longest gap between two tokens, and what the log says of each step: worked out on paper.

A step takes as many seconds as it computes tokens.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from fleets import both_ways, plain, pool, serve
from serving import PS
from speculating import speculating
from test_by_hand_price import seconds

from forerun.cost.pick import Pick
from forerun.spec.deployment import Policy


def a_second_a_token(max_tokens=64, max_seqs=8):
    costs = seconds(max_tokens, max_seqs)
    time = replace(costs.time_s, decode=costs.time_s.decode * 0, prefill=costs.time_s.prefill * 0)
    return replace(costs, time_s=time)


def longest_s(log):
    return (log.requests["max_itl_ps"] / PS).tolist()


def test_a_long_answer_remembers_its_longest_gap_through_more_falling_ones_than_have_room():
    """a decodes while 71 prompts of 2 tokens are computed: 143 s.  Then all decode: 72 s, and a and
    the first of them end.  The next step is the second of the others, and computes a prompt of 10:
    70 + 10 s.  From then on one ends with each step: 69, 68, .. seconds, down to 1."""
    n = 71
    requests = plain(
        [0, *[0.5] * n, 200], isl=np.array([1, *[2] * n, 10]),
        osl=np.array([3, *range(2, n + 2), 1]),
    )  # fmt: skip
    costs = a_second_a_token(200, 80)
    log = both_ways(serve, requests, [pool(costs=costs, n_blocks=3000)]).log_so_far()
    assert longest_s(log) == [143, 72, *[80] * (n - 1), 0]
    assert log.end_ps == (1 + 143 + 72 + 80 + 69 * 70 // 2) * PS


def test_who_is_preempted_before_it_decoded_leaves_the_gaps_of_others_alone():
    """Prompts of 8 tokens one after the other, while nobody decodes; then each wants a third block
    and there are 5.  The first is the less important and goes.  The second decodes in 3 steps of
    a second, and has waited for nobody; the first computes 9 tokens then, 3 + 9 s after the 8 of
    the second's prompt."""
    first_first = {"batch": Policy(name="prefill_first"), "preempt": "lowest_priority"}
    requests = plain([0, 1], isl=8, osl=4, priority=np.array([2, 0]))
    one = pool(costs=a_second_a_token(), n_blocks=5, prefix_caching=False, **first_first)
    log = both_ways(serve, requests, [one]).log_so_far()
    assert log.requests["n_preempt"].tolist() == [1, 0]
    assert longest_s(log) == [8 + 3 + 9, 1]
    gaps = [(row["gap_ps"] / PS, row["count"], row["resumed"]) for row in log.gaps]
    assert gaps == [(20, 1, 1)]


def test_of_two_who_wait_to_decode_the_last_may_go_too():
    """The same, but the second goes: the first waited 8 s for its prompt and then a step."""
    first_first = {"batch": Policy(name="prefill_first"), "preempt": "lowest_priority"}
    requests = plain([0, 1], isl=8, osl=4, priority=np.array([0, 2]))
    one = pool(costs=a_second_a_token(), n_blocks=5, prefix_caching=False, **first_first)
    log = both_ways(serve, requests, [one]).log_so_far()
    assert log.requests["n_preempt"].tolist() == [0, 1]
    assert longest_s(log) == [8 + 1, 3 + 9]
    gaps = sorted((row["gap_ps"] / PS, row["count"], row["resumed"]) for row in log.gaps)
    assert gaps == [(9, 1, 0), (12, 1, 1)]


def test_those_whose_prompts_ended_apart_have_waited_each_for_as_long():
    """Prompts of 4, 5, 5 and 6 while nobody decodes, each in a step of its own: 4, 5, 5 and 6 s;
    then all decode, in 4 s."""
    alone = {"batch": Policy(name="prefill_first"), "max_num_batched_tokens": 8}
    requests = plain([0, 1, 2, 3], isl=np.array([4, 5, 5, 6]), osl=2)
    log = both_ways(serve, requests, [pool(costs=a_second_a_token(), **alone)]).log_so_far()
    assert longest_s(log) == [20, 15, 10, 4]
    gaps = sorted((row["gap_ps"] / PS, row["count"]) for row in log.gaps)
    assert gaps == [(10, 1), (15, 1), (20, 1)]


# -- what the log says of a step -------------------------------------------------------------------


def rows(log, *names):
    return [tuple(int(row[name]) for name in names) for row in log.leaps]


def test_a_step_is_logged_with_what_it_computed_and_the_blocks_it_had():
    """Blocks of 4 tokens.  A prompt of 8 (2 blocks), a step of its answer (its third block); then
    one of 4 and one of 3 alone (4 + 2 more blocks) while two wait behind them for seats; decoders
    sit that step out.  Then three answer: 1 + 2 + 3, 10 + 4 + 3 cached tokens."""
    three = {"batch": Policy(name="prefill_first"), "max_num_seqs": 3, "prefix_caching": False}
    requests = plain([0, 8.5, 8.5, 8.5], isl=np.array([8, 4, 3, 1]), osl=np.array([4, 2, 2, 1]))
    log = serve(requests, [pool(costs=a_second_a_token(), **three)], leap=False).log_so_far()
    assert rows(log, "n_tokens", "n_decode", "n_chunks", "chunk", "n_seqs", "ctx", "n_blocks") == [
        (8, 0, 1, 8, 1, 0, 2),
        (1, 1, 0, 0, 1, 8, 3),
        (7, 0, 2, 7, 2, 0, 3 + 2),
        (3, 3, 0, 0, 3, 9 + 4 + 3, 3 + 2 + 1),
        (1, 0, 1, 1, 1, 0, 3 + 1),
        (1, 1, 0, 0, 1, 10, 3),
    ]
    assert rows(log, "n_running", "n_waiting") == [(1, 0), (1, 0), (3, 1), (3, 1), (2, 0), (1, 0)]
    one = log.replicas[0]
    assert (one["n_steps"], one["n_tokens"], one["n_out"]) == (6, 21, 9)
    assert (one["busy_ps"], one["peak_running"], one["peak_blocks"]) == (21 * PS, 3, 6)


def test_decoders_that_read_all_they_may_are_logged_as_still_only_where_they_decode():
    """One reads 4 tokens at most, and sits out the step of the second's prompt."""
    capped = {"batch": Policy(name="prefill_first"), "attended_tokens": 4, "prefix_caching": False}
    requests = plain([0, 8.5], isl=np.array([8, 3]), osl=np.array([3, 2]))
    log = serve(requests, [pool(costs=a_second_a_token(), **capped)], leap=False).log_so_far()
    assert rows(log, "n_decode", "ctx", "n_still") == [(0, 0, 0), (1, 4, 1), (0, 0, 0), (2, 7, 1)]


# -- proposals -------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", [8.5, 9.5])
def test_a_step_with_proposals_that_a_failure_breaks_off_leaves_nothing_of_them(at):
    """The prompt ends at 8 s.  With two proposals of which none is right steps take 3 s: the first
    is broken off.  When the replica is back, the prompt and the token are computed, and 5 more
    tokens come in steps of 3, 3, 3, 3 (of 2 proposals at most as many as are wanted) .."""
    costs = a_second_a_token()
    one = speculating(k=2, acceptance=0.0, kind="ngram", costs=costs, n_blocks=40)
    requests = plain([0], isl=8, osl=6)
    commands = [(at, "fail", 0), (20.0, "open", 0)]
    server = both_ways(serve, requests, [one], commands=commands)
    log = server.log_so_far()
    # 9 tokens; then 4 to come: proposals 2, 2, 1, 0
    assert rows(log, "n_tokens", "n_draft") == [(8, 0), (9, 0), (3, 2), (3, 2), (2, 1), (1, 0)]
    assert log.requests["done_ps"][0] == (20 + 9 + 3 + 3 + 2 + 1) * PS
    assert not server._state.replicas["n_draft"].any()
    assert not server._state.replicas["lookahead"].any()


# -- picking ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("osl", [[30, 30], [7, 30], [30, 7]])
def test_who_leaves_picks_no_more(osl):
    """Requests of 12 and 14 tokens, one after the other, then both; each reads 16 tokens at most,
    picked out of all it has, 24 at most.  Whoever decodes and has 16 picks."""
    one = pool(prefix_caching=False, kept_tokens=24, attended_tokens=16)
    pick = Pick(bytes_share=0.25, flop_share=0.1, step_s=3e-4)
    one = replace(one, table=replace(one.table, pick=pick))
    requests = plain([0, 10, 20, 20], isl=np.array([12, 14, 12, 14]), osl=np.array([*osl, *osl]))
    server = serve(requests, [one], leap=False)
    had, started = {}, 0
    for row in server.log_so_far().leaps:
        if row["n_decode"] == 0:
            had = {}
            started += 1
            for n in {1: [0], 2: [1], 3: [2, 3]}[started]:
                had[n] = [int(requests.isl[n]), int(requests.osl[n]) - 1]
            continue
        now = [cached for cached, _ in had.values()]
        assert row["ctx"] == sum(min(c, 16) for c in now)
        assert row["n_picking"] == sum(c >= 16 for c in now)
        assert row["scored"] == sum(min(c, 24) for c in now if c >= 16)
        assert row["n_scored"] == sum(16 <= c < 24 for c in now)
        had = {n: [c + 1, left - 1] for n, (c, left) in had.items() if left > 1}
    assert started == 3
    for name in ("n_picking", "scored", "n_scored", "ctx", "n_reading", "n_taking"):
        assert not server._state.replicas[name].any(), name
