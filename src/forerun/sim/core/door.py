"""The door of the fleet: a request is let in, answered from what is kept, or turned away.

Legend: r slot, t picoseconds.
"""

from __future__ import annotations

from forerun.sim.core import attempts, encode, front, responses, tuning
from forerun.sim.core import live as lists
from forerun.sim.core.arrivals import ended, later
from forerun.sim.core.jit import jit
from forerun.sim.core.order import NEVER
from forerun.sim.core.rows_log import STATUS
from forerun.sim.core.rows_request import PLAIN

FINISHED, REJECTED, CANCELLED = STATUS["finished"], STATUS["rejected"], STATUS["cancelled"]


@jit
def turn_away(state, arrival, status):
    """A request that is not let in: one row of the log, no more."""
    end_in_front(state, arrival, status, -1, state.clock[0].now_ps, 0)


@jit
def answer(state, arrival, k):
    """A request gets an answer that was kept."""
    clock = state.clock[0]
    kept = state.answers[k]
    first = clock.now_ps + clock.hit_ps
    done = first + (kept.n_tokens - 1) * clock.answer_token_ps
    end_in_front(state, arrival, FINISHED, first, done, kept.n_tokens)


@jit
def end_in_front(state, arrival, status, first_ps, done_ps, n_out):
    """The row of the log for a request that no replica has seen."""
    clock = state.clock[0]
    row = lists.done_row(state, arrival.request)
    row.request, row.arrival_ps, row.done_ps = arrival.request, arrival.arrival_ps, done_ps
    row.scheduled_ps, row.first_token_ps = -1, first_ps
    row.isl, row.osl, row.n_out = arrival.isl, arrival.osl, n_out
    row.replica, row.n_preempt, row.recomputed = -1, 0, 0
    row.max_itl_ps = clock.answer_token_ps if n_out > 1 else 0
    row.status, row.tag = status, arrival.tenant
    row.cached, row.prefill_replica, row.n_retries, row.away_ps = 0, -1, 0, 0
    row.n_drafted = row.n_extra = 0
    row.model = arrival.model
    if clock.has_clients == 1:
        # an attempt that was refused has been counted, one that found an answer has not
        refused = 0 if status == FINISHED else 1
        row.n_retries = max(0, state.calls[arrival.request].attempt - refused)
    ended(state, arrival.request, done_ps, status)
    if clock.tunes == 1:
        tuning.stop_if_over(state, clock.now_ps)


@jit
def let_in_by(state, r):
    """Whether the gate's policy lets r in now."""
    params, memory = state.gate_params, state.gate_memory
    return state.gate(state.live[r], state.load, state.clock[0].now_ps, params, memory) == 1


@jit
def refuse(state, arrival):
    """The gate lets a request not in now: its client tries again later, or has no answer."""
    clock = state.clock[0]
    if clock.has_clients == 1:
        call = state.calls[arrival.request]
        call.attempt += 1
        call.sent_ps = arrival.arrival_ps
        if clock.retry_rejections == 1 and attempts.retry(state, arrival.request, clock.now_ps):
            return
    turn_away(state, arrival, REJECTED)


@jit
def receive(state, arrival):
    """A request reaches the front: if it is let in, it is sent to a replica."""
    clock = state.clock[0]
    if arrival.on_way > 0:
        front.reach(state, arrival.on_way - 1, clock.now_ps)
        return
    if clock.has_calls == 1 and state.calls[arrival.request].lost == 1:
        turn_away(state, arrival, CANCELLED)
        return
    if clock.has_answers == 1:
        k = responses.find(state, arrival.request, responses.who(state, arrival), clock.now_ps)
        if k >= 0:
            answer(state, arrival, k)
            return
    if arrival.n_items > 0 and not encode.some_pool_holds(state, arrival):
        turn_away(state, arrival, REJECTED)
        return
    if not front.fits_somewhere(state, arrival):
        turn_away(state, arrival, REJECTED)
        return
    r = fill(state, arrival)
    if clock.gated == 1 and not let_in_by(state, r):
        lists.free(state, r)
        refuse(state, arrival)
        return
    if clock.has_clients == 1:
        attempts.begin(state, r, arrival)
    front.send(state, r, clock.now_ps)


@jit
def fill(state, arrival):
    """A slot for a request that is let in; nothing of it has been done."""
    clock = state.clock[0]
    r = clock.free
    request = state.live[r]
    clock.free = request.next
    clock.n_live += 1
    request.request, request.arrival_ps = arrival.request, arrival.arrival_ps
    request.deadline_ps, request.session = arrival.deadline_ps, arrival.session
    request.isl, request.osl = arrival.isl, arrival.osl
    request.priority, request.tenant = arrival.priority, arrival.tenant
    request.hash_at, request.n_hash = arrival.hash_at, arrival.n_hash
    request.model, request.region = arrival.model, arrival.region
    request.adapter, request.aside = arrival.adapter, 0
    request.most_kept, request.most_read = arrival.most_kept, arrival.most_read
    request.n_preempt = request.n_retries = request.n_out = request.away_ps = 0
    request.n_computed = request.n_blocks = request.n_shared = 0
    request.recomputed = request.cached = request.chunk = request.aborted = 0
    request.source = request.prefill_replica = request.n_due = -1
    request.swapped = request.charged = 0
    request.n_known = arrival.isl
    request.scheduled_ps = request.first_token_ps = request.last_token_ps = -1
    request.max_itl_ps = 0
    request.draft = request.draft_at = 0
    request.n_drafted = request.n_extra = request.n_rounds = 0
    request.recent_right = request.recent_tried = 0.0
    request.acceptance = arrival.acceptance
    request.avoid = -1
    request.n_items, request.stage = arrival.n_items, PLAIN
    if arrival.n_items > 0:
        request.item_units, request.item_tokens = arrival.item_units, arrival.item_tokens
        request.n_encoded = request.encoding = 0
        request.item_at = arrival.item_at
    place_in_workflow(state, request)
    request.first_by_ps = NEVER
    if request.tenant < state.tenants.shape[0]:
        request.first_by_ps = later(arrival.arrival_ps, state.tenants[request.tenant].ttft_ps)
    return r


@jit
def place_in_workflow(state, request):
    """What is known, as a request comes, of the work before it and after it."""
    request.attained_ps = request.path_ps = 0
    request.left_calls, request.left_tokens = 1, request.isl + request.osl
    if state.clock[0].has_calls == 0:
        return
    call = state.calls[request.request]
    request.path_ps = call.path_ps
    request.left_calls, request.left_tokens = call.left_calls, call.left_tokens
    if call.workflow >= 0:
        request.attained_ps = state.flows[call.workflow].ran_ps
