"""Requests on their way in: from the buffer of arrivals, or released when another one ends.

Legend: a row of `arrivals`, t picoseconds.
"""

from __future__ import annotations

from forerun.sim.core.jit import jit
from forerun.sim.core.order import NEVER


@jit
def _sooner(pending, a, b):
    if pending[a].ready_ps != pending[b].ready_ps:
        return pending[a].ready_ps < pending[b].ready_ps
    return pending[a].request < pending[b].request


@jit
def _copy(target, source):
    target.request = source.request
    target.arrival_ps = source.arrival_ps
    target.ready_ps = source.ready_ps
    target.deadline_ps = source.deadline_ps
    target.session = source.session
    target.isl = source.isl
    target.osl = source.osl
    target.priority = source.priority
    target.tenant = source.tenant
    target.hash_at, target.n_hash = source.hash_at, source.n_hash
    target.acceptance = source.acceptance


@jit
def _swap(pending, a, b):
    # the last row is spare
    spare = pending.shape[0] - 1
    _copy(pending[spare], pending[a])
    _copy(pending[a], pending[b])
    _copy(pending[b], pending[spare])


@jit
def release(state, t):
    """Closed loop: the next request of the workload leaves its client at t, if one is left."""
    clock = state.clock[0]
    if clock.next_arrival >= clock.n_arrivals:
        return
    pending = state.pending
    n = clock.n_pending
    clock.n_pending += 1
    row = pending[n]
    _copy(row, state.arrivals[clock.next_arrival])
    clock.next_arrival += 1
    if row.deadline_ps != NEVER:
        row.deadline_ps += t
    row.arrival_ps = t
    row.ready_ps = t + clock.host_request_ps + clock.host_prompt_token_ps * row.isl
    while n > 0 and _sooner(pending, n, (n - 1) // 2):
        _swap(pending, n, (n - 1) // 2)
        n = (n - 1) // 2


@jit
def take_first(state):
    """Take the first of the pending requests out; returns the spare row that holds it."""
    clock = state.clock[0]
    pending = state.pending
    spare = pending.shape[0] - 2
    _copy(pending[spare], pending[0])
    clock.n_pending -= 1
    n = clock.n_pending
    _copy(pending[0], pending[n])
    p = 0
    while True:
        c = 2 * p + 1
        if c >= n:
            return spare
        if c + 1 < n and _sooner(pending, c + 1, c):
            c += 1
        if not _sooner(pending, c, p):
            return spare
        _swap(pending, p, c)
        p = c


@jit
def next_ready(state):
    """When the next request reaches the router; NEVER when none is on its way."""
    clock = state.clock[0]
    if clock.closed == 1:
        if clock.n_pending > 0:
            return state.pending[0].ready_ps
        return NEVER
    if clock.next_arrival < clock.n_arrivals:
        return state.arrivals[clock.next_arrival].ready_ps
    return NEVER


@jit
def next_arrival(state):
    """Take out the request that reaches the router now."""
    clock = state.clock[0]
    if clock.closed == 1:
        return state.pending[take_first(state)]
    clock.next_arrival += 1
    return state.arrivals[clock.next_arrival - 1]
