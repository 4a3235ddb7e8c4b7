"""Images that are made, and embeddings that are kept: small cases worked out on paper."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from adapting import fitted
from denoising import denoiser, idle, with_branches
from fleets import both_ways, serve
from seeing import encoder
from serving import PS

from forerun.sim.branches import Branching
from forerun.sim.core.rows_log import STATUS
from forerun.sim.core.signatures import IF_NO_PREFILL, YES
from forerun.spec.requests import Requests
from forerun.spec.workload import Client

# A step of 60 tokens: 60 x 0.1 ms and attention among them 60^2 x 0.75 us; 10 us for the request;
# host 100 us, and 1 us for the request.
STEP = 6_000 + 2_700 + 10 + 101  # microseconds
TWO = 12_000 + 2 * 2_700 + 20 + 102  # of two such requests
SHOW = 2_700 + 100  # attention among 60 latents, host
US = PS // 10**6


def images(at, osl, isl=60, **columns):
    n = len(at)
    return Requests(np.asarray(at, dtype=float), np.full(n, isl), np.full(n, osl), **columns)


def pixels():
    """One replica that denoises and shows."""
    return [replace(denoiser(), shows=1), idle(denoiser(n_blocks=0, flat=5e-3), "pixels")]


def in_us(ps):
    return (np.asarray(ps) / US).round(3).tolist()


def newcomers_alone(replica, engine, params):
    """Who joins has its first step without the others."""
    return IF_NO_PREFILL, max(0, engine.max_tokens - replica.ctx), 1, engine.max_seqs


def one_at_a_time(replica, engine, params):
    """One request joins in a step."""
    return YES, max(0, engine.max_tokens - replica.ctx), 1, 1


# -- steps of denoising ----------------------------------------------------------------------------


def test_one_request_is_two_leaps_and_is_shown():
    log = both_ways_denoising(images([0], 7), pixels())
    assert log.leaps["n_steps"].tolist() == [1, 6, 1]
    assert log.leaps["n_tokens"].tolist() == [60, 60, 60]
    assert in_us(log.end_ps) == 7 * STEP + SHOW
    encodes = log.encodes[0]
    assert (encodes["n_shown"], encodes["shown_tokens"]) == (1, 60)
    assert in_us(encodes["show_ps"]) == SHOW


def both_ways_denoising(requests, pools, **settings):
    """The log; without images encoded before, the rows of `encodes` are of what is shown."""
    return both_ways(serve, requests, pools, **settings).log_so_far()


def test_those_who_pause_pay_nothing_while_a_newcomer_has_its_first_step():
    """The second comes in the first's first step, has its own first one alone, then both go on."""
    how = {"policies": {"batch": newcomers_alone}}
    log = both_ways_denoising(images([0, 1e-3], 3), [denoiser()], **how)
    assert log.leaps["n_tokens"].tolist() == [60, 60, 120]
    assert in_us(log.requests["done_ps"]) == [2 * STEP + 2 * TWO] * 2


def test_a_controlnet_of_those_who_pause_computes_nothing():
    """As above; each of the four steps is longer by the branch of those who are in it.  A branch's
    step of 60 tokens is 6 ms + 2.7 ms + 10 us, of two requests 12 ms + 5.4 ms + 20 us."""
    how = {"policies": {"batch": newcomers_alone}}
    pools = with_branches([denoiser()], Branching(2))
    requests = images([0, 1e-3], 3, controls=np.array([1, 1]))
    log = both_ways_denoising(requests, pools, **how)
    assert in_us(log.branched["busy_ps"][0]) == 2 * 8_710 + 2 * 17_420
    assert in_us(log.requests["done_ps"]) == [2 * STEP + 2 * TWO + 2 * 8_710 + 2 * 17_420] * 2
    assert log.branched["n_steps"][0] == 4
    assert log.branched["added_ps"][0] == log.branched["busy_ps"][0]
    # for the energy: branches of a leap's step, and their tokens; none of who pauses
    leaps = log.leaps
    assert [leaps["depth"].tolist(), leaps["draft_tokens"].tolist()] == [[1, 1, 1], [60, 60, 120]]


def none_while_others_decode(replica, engine, params):
    """Whoever has joined is computed when nobody decodes any more."""
    left = max(0, engine.max_tokens - replica.ctx)
    return YES, 0 if replica.n_chunks > 0 and replica.n_decode > 0 else left, 1, engine.max_seqs


def test_a_controlnet_of_who_has_joined_and_is_not_computed_computes_nothing():
    """The second joins after the first's first step; its text, 12 units, is encoded: 3 ms and
    108 us of attention; then two steps of the first come before its own only one."""
    pools = [replace(denoiser(), encoder=1), idle(encoder(n_blocks=0), "text")]
    pools = with_branches(pools, Branching(1))
    requests = replace(
        images([0, 1e-3], 1, controls=np.array([0, 1])), osl=np.array([3, 1]),
        n_items=np.array([0, 1]), item_units=np.array([0, 12]), item_tokens=np.array([0, 6]),
    )  # fmt: skip
    log = both_ways_denoising(requests, pools, policies={"batch": none_while_others_decode})
    first = 3 * STEP + 3_108
    assert in_us(log.requests["done_ps"]) == [first, first + STEP + 8_710]


def test_a_branch_takes_its_least_time():
    """A branch whose step is never shorter than 30 ms, beside a denoiser."""
    pools = with_branches([denoiser()], Branching(1))
    pools[1] = replace(pools[1], table=replace(pools[1].table, eager_s=30e-3))
    log = both_ways_denoising(images([0], 2, controls=np.array([1])), pools)
    assert in_us(log.requests["done_ps"]) == [2 * (STEP + 30_000)]


def test_devices_take_branches_in_turn_and_send_what_their_own_requests_need():
    """Four branches on two devices; all that a branch gives is due when the step begins.  One
    request of 60 tokens uses 0, 2 and 3, one of 24 only 1: device 0 computes branches 0 and 2 of
    60 tokens, 2 x 8,710 us; device 1 branch 1 of 24 tokens, 2,400 + 432 + 10, and 3 of 60: less.
    Latents of 84 tokens come at 1 us each; 60 tokens leave device 0 and 84 device 1, 1 us each."""
    branch = Branching(4, devices=2, latent_s=1e-6, residual_s=1e-6)
    pools = with_branches([denoiser()], branch)
    requests = replace(
        images([0, 0], 1, controls=np.array([0b1101, 0b0010])), isl=np.array([60, 24])
    )
    log = both_ways_denoising(requests, pools)
    trunk = 8_400 + 2_700 + 432 + 20 + 102
    wait = 84 + 2 * 8_710 + (60 + 84)
    assert in_us(log.requests["done_ps"]) == [trunk + wait] * 2
    assert in_us(log.branched["busy_ps"][0]) == 3 * 8_710 + 2_842
    assert in_us(log.branched["added_ps"][0]) == wait
    assert (log.leaps["depth"][0], log.leaps["draft_tokens"][0]) == (4, 3 * 60 + 24)


def test_who_uses_no_controlnet_waits_for_none():
    """On devices 0.1 s away: only the step of who uses one waits, there and back."""
    pools = with_branches([denoiser()], Branching(1, devices=1, trip_s=0.1))
    log = both_ways_denoising(images([0, 1], 1, controls=np.array([0, 1])), pools)
    waits = (log.requests["done_ps"] - log.requests["arrival_ps"]) / US
    assert waits.round(3).tolist() == [STEP, STEP + 200_000 + 8_710]
    assert log.branched["n_steps"][0] == 1


def test_those_who_are_shown_use_no_controlnet():
    """The first, of one step, is shown before the second goes on alone, without a branch."""
    pools = with_branches(pixels(), Branching(1))
    requests = replace(images([0, 0], 1, controls=np.array([1, 0])), osl=np.array([1, 3]))
    log = both_ways_denoising(requests, pools)
    assert in_us(log.branched["busy_ps"][0]) == 8_710
    end = TWO + 8_710 + SHOW + 2 * STEP + SHOW
    assert in_us(log.requests["done_ps"]) == [TWO + 8_710 + SHOW, end]


def test_a_step_takes_its_least_time():
    long = replace(denoiser(), table=replace(denoiser().table, eager_s=20e-3))
    log = both_ways_denoising(images([0], 4), [long])
    assert in_us(log.end_ps) == 4 * 20_101


def test_one_who_may_not_join_yet_joins_after_the_next_step():
    """Two come together, one joins a step: the first has one step alone, then they go together."""
    log = both_ways_denoising(images([0, 0], 5), [denoiser()], policies={"batch": one_at_a_time})
    assert log.leaps["n_tokens"].tolist()[:2] == [60, 120]
    assert in_us(log.requests["done_ps"]) == [STEP + 4 * TWO, 2 * STEP + 4 * TWO]


def test_requests_that_wait_for_their_adapter_are_told_in_the_log():
    """One begins at once, one waits 16 ms for its adapter of rank 16: two steps of 8.8 ms."""
    requests = images([0, 0], 4, adapter=np.array([-1, 1]))
    log = both_ways_denoising(requests, fitted([denoiser()]))
    assert log.leaps["n_waiting"].tolist()[:3] == [1, 1, 0]


def test_a_client_that_goes_away_in_the_last_step_is_shown_nothing():
    """Of two steps, 17.6 ms, the client waits for 12 ms."""
    log = both_ways_denoising(images([0], 2), pixels(), client=Client(give_up_s=12e-3))
    assert log.requests["status"][0] != STATUS["finished"]
    assert log.leaps["n_steps"].tolist() == [1, 1]  # and none in which it would be shown
    assert log.encodes is None or not log.encodes["n_shown"].any()


def test_a_failure_while_pixels_are_made_begins_again_from_noise():
    """Three steps and half of the showing are lost, and all is done again from 0.1 s on."""
    broken = (3 * STEP + SHOW / 2) * 1e-6
    commands = [(broken, "fail", 0), (0.1, "open", 0)]
    server = both_ways(serve, images([0], 3), pixels(), commands=commands)
    log = server.log_so_far()
    row = log.requests[0]
    assert in_us(row["done_ps"]) == 100_000 + 3 * STEP + SHOW
    assert (row["n_retries"], row["n_out"], row["recomputed"]) == (1, 3, 180)
    assert log.replicas["n_out"][0] == 6
    assert server._state.clock[0].wasted_out == 3
    assert (log.encodes["n_shown"][0], log.encodes["shown_tokens"][0]) == (1, 60)
    assert in_us(log.encodes["show_ps"][0]) == SHOW
    assert log.leaps["n_steps"].tolist() == [1, 2, 1, 2, 1]
    assert not server._state.load[:4].any()
