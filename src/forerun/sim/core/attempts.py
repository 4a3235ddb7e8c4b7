"""A request and the attempts at it: which copy counts, what the others cost, when it is sent again.

A client sends a request, perhaps again after a refusal or a timeout, perhaps twice at a time.  Each
copy has a slot of its own; the log has one row for the request.  `slot` and `twin` of a call are
the copies that count; one that is neither has been abandoned, and ends unseen.

Legend: r slot, t picoseconds.
"""

from __future__ import annotations

from forerun.sim.core import timers
from forerun.sim.core.arrivals import due_by, put, ready_after
from forerun.sim.core.jit import jit
from forerun.sim.core.rows_log import STATUS
from forerun.sim.core.rows_request import ENCODING

FINISHED = STATUS["finished"]


@jit
def begin(state, r, arrival):
    """The copy in slot r is a new attempt; its timers run from the moment at which it was sent."""
    clock = state.clock[0]
    call = state.calls[arrival.request]
    call.slot, call.twin = r, -1
    call.attempt += 1
    call.sent_ps = arrival.arrival_ps
    sent_ps = clock.now_ps - ready_after(state, arrival, 0)
    if clock.first_token_by_ps > 0:
        by = max(clock.now_ps, sent_ps + clock.first_token_by_ps)
        timers.start(state, by, arrival.request, timers.NO_TOKEN)
    if clock.end_by_ps > 0:
        by = max(clock.now_ps, sent_ps + clock.end_by_ps)
        timers.start(state, by, arrival.request, timers.NO_END)
    if clock.hedge_ps > 0:
        timers.start(state, clock.now_ps + clock.hedge_ps, arrival.request, timers.HEDGE)


@jit
def retry(state, request, t):
    """The client sends a request again, some time after t, if it has a retry left; 1 if it does."""
    clock = state.clock[0]
    call = state.calls[request]
    if call.attempt > clock.max_retries:
        return False
    wait = clock.backoff_ps
    for _ in range(1, call.attempt):
        wait = wait * clock.backoff_thousandths // 1000
    call.slot = call.twin = -1
    clock.n_sent_again += 1
    row = state.wanted[request]
    ready = ready_after(state, row, t + wait)
    put(state, row, call.sent_ps, due_by(state, request, call.sent_ps), ready)
    return True


@jit
def lose(state, r):
    """What the copy in slot r has done was for nothing."""
    clock = state.clock[0]
    request = state.live[r]
    clock.wasted_out += request.n_out
    if state.engines[request.pool].denoises == 1:
        clock.wasted_tokens += request.isl * request.n_out  # all of them in each step
    elif request.stage != ENCODING:
        clock.wasted_tokens += request.n_computed
    clock.wasted_tokens += request.recomputed - request.cached


@jit
def forget(state, r):
    """r is no longer a copy of its request.

    Returns 1 when it did not count or another copy goes on, so that nothing ends with it.
    """
    call = state.calls[state.live[r].request]
    if call.slot == r:
        call.slot = call.twin
        call.twin = -1
    elif call.twin == r:
        call.twin = -1
    else:
        if call.loser == r:
            call.loser = -1
        return True
    return call.slot >= 0


@jit
def win(state, r, t):
    """Of two copies, r is the one that counts; the other is dropped."""
    call = state.calls[state.live[r].request]
    if call.twin < 0 or (call.slot != r and call.twin != r):
        return
    call.loser = call.twin if call.slot == r else call.slot
    call.slot, call.twin = r, -1
    timers.start(state, t, state.live[r].request, timers.DROP)


@jit
def goes_on(state, r, t, status):
    """The copy in slot r ends at t; 1 when that is not the end of its request."""
    if status == FINISHED:
        win(state, r, t)
    if forget(state, r):
        lose(state, r)
        return True
    return False
