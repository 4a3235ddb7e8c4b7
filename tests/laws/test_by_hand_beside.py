"""Adapters beside KV in memory, and two lanes on a device: small cases worked out on paper."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from adapting import fitted
from fleets import both_ways, plain, pool, prompts, serve
from serving import PS
from sharing_devices import lanes
from test_by_hand_price import seconds

from forerun.sim.core.rows_log import STATUS
from forerun.spec.workload import Client

MS = PS // 1000


# -- memory ----------------------------------------------------------------------------------------


def test_an_adapter_that_has_memory_of_its_own_takes_no_blocks():
    """A prompt of 16 tokens is all 4 blocks that there are."""
    one = plain([0], isl=16, osl=1, adapter=np.zeros(1, dtype=np.int64))
    log = serve(one, fitted([pool(n_blocks=4)])).log_so_far()
    assert log.requests["status"].tolist() == [STATUS["finished"]]
    assert log.requests["scheduled_ps"][0] == 8 * MS  # when it has been loaded


@pytest.mark.parametrize(
    ("leaves", "n_blocks", "n_loads", "n_evicted", "found"),
    [
        ("prefixes", 8, 1, 0, 0),  # 6 blocks, an adapter of 1: the prefix of 2 goes
        ("adapters", 8, 2, 1, 8),  # 6 blocks, a prefix of 2: the adapter goes
        ("prefixes", 9, 1, 0, 8),  # all fits
        ("adapters", 9, 1, 0, 8),
        ("prefixes", 7, 1, 0, 0),
        ("adapters", 7, 2, 1, 0),  # the adapter goes, and that is not enough
    ],
)
def test_what_nobody_uses_goes_in_the_order_that_the_engine_says(
    leaves, n_blocks, n_loads, n_evicted, found
):
    """The first leaves a prefix of 2 blocks and its adapter of 1, which nobody uses.  The second,
    without an adapter, takes 6 blocks: 20 tokens and one more.  The third is as the first."""
    requests = prompts([1], [], [1], at=[0, 1, 2], osl=2)
    requests = replace(
        requests, isl=np.array([9, 20, 9]), adapter=np.array([0, -1, 0], dtype=np.int64)
    )
    pools = fitted([pool(n_blocks=n_blocks)], n=1, paged=True, leaves=leaves)
    log = both_ways(serve, requests, pools).log_so_far()
    assert log.requests["status"].tolist() == [STATUS["finished"]] * 3
    assert log.requests["cached"].tolist() == [0, 0, found]
    assert log.fitted["n_loads"].tolist() == [n_loads]
    assert log.fitted["n_evicted"].tolist() == [n_evicted]


def test_an_adapter_whose_memory_others_have_waits_for_it():
    """Its adapter takes one block, its prompt and answer 3, and another has 7 of 11 until it ends:
    all fits.  Of 10 blocks one is missing until then."""
    for n_blocks, waits in ((11, False), (10, True)):
        requests = plain(
            [0, 0.01], isl=np.array([25, 9]), osl=np.array([4, 2]), adapter=np.array([-1, 0])
        )
        one = pool(n_blocks=n_blocks, costs=seconds(), reserve="full", prefix_caching=False)
        log = serve(requests, fitted([one], n=1, paged=True)).log_so_far()
        first, second = log.requests
        assert (second["scheduled_ps"] >= first["done_ps"]) == waits


# -- lanes -----------------------------------------------------------------------------------------


def test_who_gives_up_while_its_answer_is_under_way_on_the_other_lane_is_let_go():
    """The prompt of 8 takes 48 s, twice as long as on all of the device; the answer's steps take
    4.5 s (1.5 times 3), 4.875 s, .. alone: the client goes at 60 s, in the third of them."""
    rows = lanes(costs=seconds(), n_blocks=40)
    server = both_ways(serve, plain([0], isl=8, osl=20), rows, client=Client(give_up_s=60.0))
    log, state = server.log_so_far(), server._state
    row = log.requests[0]
    assert row["first_token_ps"] == 48 * PS
    assert (row["status"], row["n_out"]) == (STATUS["aborted"], 1 + 3)
    assert row["done_ps"] == (48 + 4.5 + 4.875 + 5.25) * PS
    assert not state.replicas["n_running"].any()
    assert not state.replicas["n_blocks"].any()
    assert not state.load[:4].any()
    assert server._clock.n_live == 0


def test_steps_of_a_lane_are_counted_as_they_would_have_been_alone():
    """Prompts of 8 at 0 and at 60 s; the answer of the first goes on meanwhile, and both lanes are
    slowed to twice what they take alone while the other one has work."""
    rows = lanes(costs=seconds(), n_blocks=40, beside=2.0)
    server = both_ways(serve, plain([0, 60], isl=8, osl=np.array([20, 1])), rows)
    alone_s = (server._state.lanes["alone_ps"] / PS).tolist()
    # prompts: two of 24 s, twice as long on a lane; the answer: 19 steps of 1 s and 0.25 s a token
    # cached, 1.5 times as long
    assert alone_s[0] == pytest.approx(2 * 48, abs=1e-9)
    assert alone_s[1] == pytest.approx(1.5 * (19 + 0.25 * (19 * 8 + 171)), abs=1e-9)


@pytest.mark.parametrize("n", [1, 2])
def test_prompts_that_wait_for_the_memory_of_an_answer_start_when_it_has_ended(n):
    """An answer has 4 blocks of 6 from 13 tokens on; each prompt that comes then wants 3."""
    rows = lanes(costs=seconds(), n_blocks=6)
    requests = plain([0, *[90] * n], isl=np.array([8, *[12] * n]), osl=np.array([12, *[1] * n]))
    log = both_ways(serve, requests, rows).log_so_far()
    assert log.requests["n_preempt"].sum() == 0
    # its steps begin at 48, 52.5, 57.375, .. s: the one under way at 90 s computes the 16th token
    assert log.requests["scheduled_ps"][1:].tolist() == [log.requests["done_ps"][0]] * n


@pytest.mark.parametrize("n", [1, 2, 3])
def test_a_long_step_is_slowed_for_as_long_as_the_other_lane_has_work(n):
    """A prompt of 8: 48 s.  A step that reads 8 tokens of 10 s each: 1.5 * 81 s, twice as long
    beside a prompt.  Prompts of one token take 2 * 3 s alone and 12 s beside the answer; in each
    12 s only 6 of the answer's step are done: it ends 6 s later for each of them.  The third comes
    while the second is computed."""
    costs = seconds()
    time = replace(costs.time_s, decode=costs.time_s.decode * 40)
    rows = lanes(costs=replace(costs, time_s=time), n_blocks=40, beside=2.0)
    ones = [1] * n
    requests = plain([0, *[60, 100, 105][:n]], isl=np.array([8, *ones]), osl=np.array([2, *ones]))
    log = both_ways(serve, requests, rows).log_so_far()
    assert (log.requests["done_ps"][1:] / PS).tolist() == [72, 112, 124][:n]
    assert log.requests["done_ps"][0] == (48 + 121.5 + 6 * n) * PS


def test_an_answer_does_not_leap_into_the_memory_that_a_prompt_has_taken_meanwhile():
    """Of 6 blocks the answer has 3 at 50 s; a prompt of 12 takes the others then.  With 12 tokens
    the answer wants a fourth: nobody else is on its lane, so it goes back to the prompts itself."""
    rows = lanes(costs=seconds(), n_blocks=6)
    requests = plain([0, 50], isl=np.array([8, 12]), osl=np.array([12, 4]))
    log = both_ways(serve, requests, rows).log_so_far()
    assert log.replicas["peak_blocks"].max() == 6
    assert log.requests["n_preempt"].tolist() == [1, 0]
    assert log.requests["recomputed"].tolist() == [12, 0]
    assert log.requests["status"].tolist() == [STATUS["finished"]] * 2
