"""Requests on their way in: from the buffer of arrivals, or released when another one ends.

The buffer holds those that come at times of their own.  The others stand in a heap from the moment
at which it is known when they will come: a closed loop releases the next of the buffer when one
ends, a workflow those that waited for the last of their predecessors.

Legend: a row of `arrivals`, t picoseconds.
"""

from __future__ import annotations

from forerun.sim.core.jit import jit
from forerun.sim.core.order import NEVER
from forerun.sim.core.rows_log import STATUS

FINISHED = STATUS["finished"]


@jit
def _sooner(a, b):
    if a.ready_ps != b.ready_ps:
        return a.ready_ps < b.ready_ps
    if a.request != b.request:
        return a.request < b.request
    return a.on_way < b.on_way


@jit
def _copy(target, source):
    target.request = source.request
    target.arrival_ps = source.arrival_ps
    target.ready_ps = source.ready_ps
    target.deadline_ps = source.deadline_ps
    target.session = source.session
    target.workflow = source.workflow
    target.isl = source.isl
    target.osl = source.osl
    target.priority = source.priority
    target.tenant = source.tenant
    target.hash_at, target.n_hash = source.hash_at, source.n_hash
    target.acceptance = source.acceptance
    target.model, target.adapter = source.model, source.adapter
    target.region, target.on_way = source.region, source.on_way
    target.n_items = source.n_items
    target.item_units, target.item_tokens = source.item_units, source.item_tokens
    target.item_at = source.item_at
    target.most_kept, target.most_read = source.most_kept, source.most_read


@jit
def _swap(pending, a, b):
    # the last row is spare
    spare = pending.shape[0] - 1
    _copy(pending[spare], pending[a])
    _copy(pending[a], pending[b])
    _copy(pending[b], pending[spare])


@jit
def put(state, arrival, sent_ps, deadline_ps, ready_ps):
    """A request that its client has first sent at sent_ps reaches the front at ready_ps."""
    clock = state.clock[0]
    pending = state.pending
    n = clock.n_pending
    clock.n_pending += 1
    row = pending[n]
    _copy(row, arrival)
    row.arrival_ps, row.ready_ps, row.deadline_ps = sent_ps, ready_ps, deadline_ps
    row.on_way = 0
    _rise(pending, n)


@jit
def put_on_way(state, r, ready_ps):
    """The request in slot r reaches the replica that it was sent to at ready_ps."""
    clock = state.clock[0]
    n = clock.n_pending
    clock.n_pending += 1
    row = state.pending[n]
    row.request, row.ready_ps, row.on_way = state.live[r].request, ready_ps, r + 1
    _rise(state.pending, n)


@jit
def _rise(pending, n):
    """The row at place n of the heap goes up to where it belongs."""
    while n > 0 and _sooner(pending[n], pending[(n - 1) // 2]):
        _swap(pending, n, (n - 1) // 2)
        n = (n - 1) // 2


@jit
def ready_after(state, arrival, t):
    """When a request sent at t is past the API server, the tokenizer and the look for an answer."""
    clock = state.clock[0]
    if clock.has_answers == 1:
        t += state.asks[arrival.request].lookup_ps
    return t + clock.host_request_ps + clock.host_prompt_token_ps * arrival.isl


@jit
def later(t, span_ps):
    """t + span_ps; never, when the span is."""
    return NEVER if span_ps == NEVER else t + span_ps


@jit
def release(state, t):
    """Closed loop: the next of the workload leaves its client at t, if one is left.

    That is a request, or what a workflow begins with.
    """
    clock = state.clock[0]
    workflow = -1
    while clock.next_arrival < clock.n_arrivals:
        row = state.arrivals[clock.next_arrival]
        if workflow >= 0 and row.workflow != workflow:
            return
        workflow = row.workflow
        clock.next_arrival += 1
        put(state, row, t, later(t, row.deadline_ps), ready_after(state, row, t))
        if workflow < 0:
            return
        state.flows[workflow].start_ps = t


@jit
def begin(state, n_clients):
    """Closed loop: every client sends its first request at the start."""
    for _ in range(n_clients):
        release(state, 0)


@jit
def ended(state, request, t, status):
    """A request has ended at t: those that waited for it follow, a closed loop goes on."""
    clock = state.clock[0]
    if clock.has_calls == 1:
        call = state.calls[request]
        if call.workflow >= 0:
            state.flows[call.workflow].ran_ps += call.ran_ps
        follow(state, call, t, status)
        if call.workflow >= 0:
            flow = state.flows[call.workflow]
            flow.n_left -= 1
            if flow.n_left > 0:
                return
    if clock.closed == 1:
        release(state, t + clock.think_ps)


@jit
def follow(state, call, t, status):
    """One predecessor less for the successors of a request; the last one releases them.

    Without an answer to go on from they are lost: they come at once, and are turned away.
    """
    clock = state.clock[0]
    for e in range(call.next_at, call.next_at + call.n_next):
        edge = state.successors[e]
        after = state.calls[edge.request]
        after.n_before -= 1
        after.sent_ps = max(after.sent_ps, t + edge.delay_ps)
        after.path_ps = max(after.path_ps, call.path_ps + call.ran_ps)
        if status != FINISHED and clock.go_on == 0:
            after.lost = 1
        if after.n_before > 0:
            continue
        row = state.wanted[edge.request]
        if after.lost == 1:
            put(state, row, t, NEVER, t)
            continue
        deadline = due_by(state, edge.request, after.sent_ps)
        put(state, row, after.sent_ps, deadline, ready_after(state, row, after.sent_ps))


@jit
def due_by(state, request, sent_ps):
    """When the answer to a request that was first sent at sent_ps is due; NEVER when not said."""
    workflow = state.calls[request].workflow
    start = state.flows[workflow].start_ps if workflow >= 0 else sent_ps
    return later(start, state.wanted[request].deadline_ps)


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
        if c + 1 < n and _sooner(pending[c + 1], pending[c]):
            c += 1
        if not _sooner(pending[c], pending[p]):
            return spare
        _swap(pending, p, c)
        p = c


@jit
def in_buffer(state):
    """Whether the buffer has a request that comes at a time of its own."""
    clock = state.clock[0]
    return clock.closed == 0 and clock.next_arrival < clock.n_arrivals


@jit
def next_ready(state):
    """When the next request reaches the front; NEVER when none is on its way."""
    clock = state.clock[0]
    t = NEVER
    if clock.n_pending > 0:
        t = state.pending[0].ready_ps
    if in_buffer(state):
        t = min(t, state.arrivals[clock.next_arrival].ready_ps)
    return t


@jit
def next_arrival(state):
    """Take out the request that reaches the front now."""
    clock = state.clock[0]
    if not in_buffer(state) or (
        clock.n_pending > 0 and _sooner(state.pending[0], state.arrivals[clock.next_arrival])
    ):
        return state.pending[take_first(state)]
    clock.next_arrival += 1
    return state.arrivals[clock.next_arrival - 1]
