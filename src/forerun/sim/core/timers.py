"""Timers of clients: a heap by (time, request, kind).

A timer whose reason is gone is dropped when it comes to the top, without an event: a client that
has its answer does not make the run last longer.

Legend: m place in `timers`, r slot.
"""

from __future__ import annotations

from forerun.sim.core.jit import jit
from forerun.sim.core.order import NEVER

# kinds: no token yet, no whole answer yet, a second copy is sent, the copy that lost is dropped
NO_TOKEN, NO_END, HEDGE, DROP = 0, 1, 2, 3


@jit
def _sooner(a, b):
    if a.time_ps != b.time_ps:
        return a.time_ps < b.time_ps
    if a.request != b.request:
        return a.request < b.request
    return a.kind < b.kind


@jit
def _copy(target, source):
    target.time_ps, target.request = source.time_ps, source.request
    target.kind, target.attempt = source.kind, source.attempt


@jit
def start(state, time_ps, request, kind):
    """Wake the client of a request at time_ps, for its present attempt."""
    clock = state.clock[0]
    timers = state.timers
    m = clock.n_timers
    clock.n_timers += 1
    spare = timers[timers.shape[0] - 1]
    spare.time_ps, spare.request, spare.kind = time_ps, request, kind
    spare.attempt = state.calls[request].attempt
    while m > 0 and _sooner(spare, timers[(m - 1) // 2]):
        _copy(timers[m], timers[(m - 1) // 2])
        m = (m - 1) // 2
    _copy(timers[m], spare)


@jit
def drop_first(state):
    """Take the first timer out."""
    clock = state.clock[0]
    timers = state.timers
    clock.n_timers -= 1
    n = clock.n_timers
    m = 0
    while True:
        c = 2 * m + 1
        if c >= n:
            break
        if c + 1 < n and _sooner(timers[c + 1], timers[c]):
            c += 1
        if not _sooner(timers[c], timers[n]):
            break
        _copy(timers[m], timers[c])
        m = c
    _copy(timers[m], timers[n])


@jit
def has_token(state, r):
    """Whether the copy in slot r, if there is one, has given a token."""
    return r >= 0 and state.live[r].first_token_ps >= 0


@jit
def still(state, timer):
    """Whether what a timer waits for has not come, so that it still means something."""
    call = state.calls[timer.request]
    if timer.kind == DROP:
        return call.loser >= 0
    if call.attempt != timer.attempt or (call.slot < 0 and call.twin < 0):
        return False
    if timer.kind == NO_END or (timer.kind == HEDGE and state.clock[0].hedge_first == 0):
        return True
    return not has_token(state, call.slot) and not has_token(state, call.twin)


@jit
def next_due(state):
    """When the next timer that still means something runs out; NEVER when none does."""
    clock = state.clock[0]
    while clock.n_timers > 0:
        if still(state, state.timers[0]):
            return state.timers[0].time_ps
        drop_first(state)
    return NEVER
