"""The request core: many replicas of continuous-batching engines behind a router.

`advance` is the whole loop.  It handles events up to a time and returns why it stopped; everything
it knows is in `State`, so it can be called again after more arrivals were put in or room was made.

Legend: i replica, t picoseconds.
"""

from __future__ import annotations

from forerun.sim.core import (
    clients,
    commands,
    decoders,
    door,
    fetch,
    heaps,
    knots,
    lanes,
    timers,
)
from forerun.sim.core.arrivals import in_buffer, next_arrival, next_ready
from forerun.sim.core.jit import jit
from forerun.sim.core.order import NEVER
from forerun.sim.core.parts import form
from forerun.sim.core.step_end import complete

# why `advance` came back
REACHED, WANT_ARRIVALS, WANT_SLOTS, WANT_LOG, WANT_GAPS, WRONG, WANT_TIMERS = 0, 1, 2, 3, 4, 5, 6


@jit
def wants(state, arrival):
    """What the next event needs room for that is not there; 0 when there is room."""
    clock = state.clock[0]
    room = 2 * state.last_step.shape[1] + 4  # most rows that one boundary writes
    if clock.by_request == 0 and clock.n_done + room > state.done.shape[0]:
        return WANT_LOG
    if clock.keep_leaps == 1 and (
        clock.n_leaps + 2 > state.leaps.shape[0] or clock.n_gaps + room > state.gaps.shape[0]
    ):
        return WANT_LOG
    if clock.has_clients == 1 and clock.n_timers + room > state.timers.shape[0]:
        return WANT_TIMERS
    if clock.free < 0 and arrival:
        return WANT_SLOTS
    return 0


@jit
def advance(state, until_ps):
    """Handle all events up to until_ps, in order; returns one of the reasons at the top."""
    clock = state.clock[0]
    while True:
        i = state.agenda[0]
        boundary = state.agenda_ps[0]
        arrival = next_ready(state)
        if clock.last_chunk == 0 and clock.closed == 0 and not in_buffer(state):
            return WANT_ARRIVALS
        command = commands.next_due(state)
        timer = timers.next_due(state)
        t = min(min(boundary, arrival), min(clock.next_move_ps, min(command, timer)))
        if t > until_ps or t == NEVER:
            if until_ps != NEVER:
                clock.now_ps = max(clock.now_ps, until_ps)
                clock.passed_ps, clock.passed = clock.now_ps, state.replicas.shape[0]
            return REACHED
        missing = wants(state, t in (arrival, timer))
        if missing != 0:
            return missing
        clock.now_ps = clock.event_ps = t
        if clock.passed_ps != t:
            clock.passed_ps, clock.passed = t, 0
        if arrival == t:
            door.receive(state, next_arrival(state))
        elif clock.next_move_ps == t:
            fetch.arrive(state, t)
        elif boundary == t:
            clock.passed = max(clock.passed, i + 1)
            if not decoders.forget_old_gaps(state, i):
                return WANT_GAPS
            if state.replicas[i].partner >= 0:
                lanes.look_in(state, i)
            if state.replicas[i].n_steps > 0:
                complete(state, i, state.replicas[i].n_steps)
            if state.replicas[i].n_orders + state.replicas[i].n_parked > 0:
                commands.at_boundary(state, i, t)
            ready_ps = form(state, i, t)
            heaps.reschedule(state, i, ready_ps)
            if ready_ps == NEVER and clock.roles_change == 1:
                knots.untie(state, i, t)
            if state.replicas[i].partner >= 0:
                lanes.tell(state, i, t)
        else:
            clock.passed = state.replicas.shape[0]
            if timer == t:
                clients.fire(state, t)
            else:
                commands.obey(state, t)
        if clock.wrong_kind != 0:
            return WRONG
