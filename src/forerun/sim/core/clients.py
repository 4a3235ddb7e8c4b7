"""What clients do when a timer runs out: give up, try again, send a second copy, drop one.

Legend: r slot, t picoseconds.
"""

from __future__ import annotations

from forerun.sim.core import attempts, door, front, timers
from forerun.sim.core import live as lists
from forerun.sim.core.jit import jit
from forerun.sim.core.rows_request import HELD
from forerun.sim.core.wake import cut_leap


@jit
def fire(state, t):
    """Do what the first timer is for."""
    timer = state.timers[0]
    kind, request = timer.kind, timer.request
    timers.drop_first(state)
    call = state.calls[request]
    if kind == timers.HEDGE:
        hedge(state, call, t)
    elif kind == timers.DROP:
        drop(state, call.loser, t)
    else:
        give_up(state, call, request, t)


@jit
def drop(state, r, t):
    """The copy in slot r, if there is one, is not waited for any more."""
    if r >= 0 and lists.abort(state, r, t) == 1:
        cut_leap(state, state.live[r].replica, t)


@jit
def give_up(state, call, request, t):
    """The client waits no longer: it sends the request again, or goes away."""
    clock = state.clock[0]
    first, second = call.slot, call.twin
    if state.live[first].aborted == 1:
        return  # it has given up already, and the step under way is not over
    clock.n_given_up += 1
    if clock.retry_timeouts == 1:
        attempts.retry(state, request, t)  # those under way count no more when it does
    drop(state, first, t)
    drop(state, second, t)


@jit
def hedge(state, call, t):
    """A second copy goes to another replica, if one takes it."""
    clock = state.clock[0]
    if call.twin >= 0 or state.live[call.slot].phase == HELD:
        return
    first = state.live[call.slot]
    taken = first.replica if first.prefill_replica < 0 else first.prefill_replica
    if first.aborted == 1 or not front.another_takes(state, taken, front.PREFILL, first.model):
        return
    r = door.fill(state, state.wanted[first.request])
    request = state.live[r]
    request.arrival_ps, request.deadline_ps = first.arrival_ps, first.deadline_ps
    request.avoid = taken
    call.twin = r
    clock.n_hedged += 1
    front.send(state, r, t)
