"""The request core: many replicas of continuous-batching engines behind a router.

`advance` is the whole loop.  It handles events up to a time and returns why it stopped; everything
it knows is in `State`, so it can be called again after more arrivals were put in or room was made.

Legend: i replica, r slot of a live request, t picoseconds.
"""

from __future__ import annotations

from forerun.sim.core import heaps
from forerun.sim.core import live as lists
from forerun.sim.core.arrivals import next_ready, release, take_first
from forerun.sim.core.batch import BAD_ROUTE, form
from forerun.sim.core.clock import span, steps_to_reach
from forerun.sim.core.jit import jit
from forerun.sim.core.kv import blocks_for, blocks_now, decode_blocks, need, take
from forerun.sim.core.order import NEVER
from forerun.sim.core.signatures import KV_BLOCKS, OUTSTANDING, OUTSTANDING_TOKENS
from forerun.sim.core.state import DECODING, STATUS

# why `advance` came back
REACHED, WANT_ARRIVALS, WANT_SLOTS, WANT_LOG, WANT_GAPS, WRONG = 0, 1, 2, 3, 4, 5

FINISHED, REJECTED, ABORTED = STATUS["finished"], STATUS["rejected"], STATUS["aborted"]


@jit
def write_gap(state, i, t, gap_ps, count, resumed):
    """One row of unusually long gaps."""
    clock = state.clock[0]
    if clock.keep_leaps == 0:
        return
    row = state.gaps[clock.n_gaps]
    clock.n_gaps += 1
    row.end_ps, row.gap_ps, row.replica = t, gap_ps, i
    row.count, row.resumed = count, resumed


@jit
def write_leap(state, i, k):
    """One row for the k steps that replica i has completed."""
    clock = state.clock[0]
    if clock.keep_leaps == 0:
        return
    replica = state.replicas[i]
    row = state.leaps[clock.n_leaps]
    clock.n_leaps += 1
    row.start_ps, row.first_ps, row.slope_ps = replica.start_ps, replica.first_ps, replica.slope_ps
    row.n_steps, row.replica = k, i
    row.n_tokens = replica.in_step + replica.chunk
    row.n_seqs, row.n_decode = replica.n_seqs, replica.in_step
    n_chunks = 0
    r = replica.chunk_head
    while r >= 0:
        if state.live[r].chunk > 0:
            n_chunks += 1
        r = state.live[r].chunk_next
    row.n_chunks = n_chunks
    row.ctx = replica.ctx if replica.in_step > 0 else 0
    row.chunk, row.past = replica.chunk, replica.past
    row.n_waiting, row.n_running = replica.left_waiting, replica.n_running
    grown = replica.chunk if state.engines[replica.pool].reserve == 0 and k > 1 else 0
    row.n_blocks = replica.n_blocks
    if replica.in_step == replica.n_decode:  # else decoders sit this step out and take nothing
        row.n_blocks += need(state, i, k, replica.past + replica.chunk, grown)


@jit
def settle_gaps(state, i):
    """The first decode step of the leap has ended: gaps of those who had to wait for it."""
    replica = state.replicas[i]
    end = replica.start_ps + replica.first_ps
    veterans = replica.in_step - replica.n_fresh
    if veterans > 0:
        gap = end - replica.decoded_ps
        lists.note_gap(state, i, replica.decoded + 1, gap)
        if gap != replica.first_ps:
            write_gap(state, i, end, gap, veterans, 0)
    count = 0
    same = 0
    for f in range(replica.n_fresh):
        request = state.live[state.fresh[i, f]]
        gap = end - request.last_token_ps
        request.max_itl_ps = max(request.max_itl_ps, gap)
        if gap != replica.first_ps:
            if count > 0 and gap != same:
                write_gap(state, i, end, same, count, 0)
                count = 0
            same = gap
            count += 1
    if count > 0:
        write_gap(state, i, end, same, count, 0)
    replica.n_fresh = 0


@jit
def complete(state, i, k):
    """Account for k steps of the leap in progress: tokens, blocks, and every request that ends."""
    replica = state.replicas[i]
    totals = state.totals[i]
    t = replica.start_ps + span(replica.first_ps, replica.slope_ps, k)
    totals.busy_ps += t - replica.start_ps
    totals.n_steps += k
    totals.n_tokens += k * (replica.in_step + replica.chunk)
    write_leap(state, i, k)
    if replica.in_step > 0:
        take(state, i, decode_blocks(state, i, k))
        settle_gaps(state, i)
        if k > 1:
            last = replica.first_ps + (k - 1) * replica.slope_ps
            lists.note_gap(state, i, replica.decoded + k, last)
        replica.decoded += k
        replica.decoded_ps = t
        replica.ctx += k * replica.n_decode
        totals.n_out += k * replica.n_decode
        while replica.n_decode > 0 and state.last_step[i, 0] == replica.decoded:
            r = state.last_member[i, 0]
            lists.leave_decoders(state, i, r)
            lists.end_running(state, i, r, t, FINISHED)
    if replica.chunk > 0:
        complete_chunks(state, i, k, t)
    replica.n_steps = 0
    replica.chunk = 0
    if replica.n_aborted > 0:
        sweep_aborted(state, i, t)
    return t


@jit
def complete_chunks(state, i, k, t):
    """Advance the requests that computed chunks; those that are through give a token at t."""
    replica = state.replicas[i]
    b = state.engines[replica.pool].block_tokens
    r = replica.chunk_head
    while r >= 0:
        request = state.live[r]
        after = request.chunk_next
        tokens = k * request.chunk
        request.chunk = 0
        request.n_computed += tokens
        state.load[OUTSTANDING_TOKENS, i] -= tokens
        extra = blocks_for(request.n_computed, b) - request.n_blocks
        if extra > 0:
            request.n_blocks += extra
            take(state, i, extra)
        if tokens > 0 and request.n_computed == request.n_known:
            lists.unlink_chunk(state, i, r)
            request.n_out += 1
            state.totals[i].n_out += 1
            if request.first_token_ps < 0:
                request.first_token_ps = t
            else:
                gap = t - request.last_token_ps
                request.max_itl_ps = max(request.max_itl_ps, gap)
                write_gap(state, i, t, gap, 1, 1)
            if request.n_out == request.osl:
                lists.end_running(state, i, r, t, FINISHED)
            else:
                lists.join_decoders(state, i, r, t)
        r = after


@jit
def sweep_aborted(state, i, t):
    """Drop the running requests whose clients have gone away."""
    replica = state.replicas[i]
    r = replica.run_head
    while r >= 0:
        after = state.live[r].next
        if state.live[r].aborted == 1:
            if state.live[r].phase == DECODING:
                lists.leave_decoders(state, i, r)
            else:
                lists.unlink_chunk(state, i, r)
                left = state.live[r].n_known - state.live[r].n_computed
                state.load[OUTSTANDING_TOKENS, i] -= left
            lists.end_running(state, i, r, t, ABORTED)
        r = after
    replica.n_aborted = 0


@jit
def cut_leap(state, i, t):
    """End the leap of replica i at its first step boundary not before t; 1 if it was longer."""
    replica = state.replicas[i]
    k = steps_to_reach(replica.first_ps, replica.slope_ps, replica.n_steps, t - replica.start_ps)
    if k < replica.n_steps:
        replica.n_steps = k
        end = replica.start_ps + span(replica.first_ps, replica.slope_ps, k)
        heaps.reschedule(state, i, end)
        return 1
    return 0


@jit
def reject(state, arrival, i):
    """A request that the engine it was sent to could never hold: one row of the log, no more.

    i : the replica it was sent to; -1 when no replica could hold it.
    """
    clock = state.clock[0]
    row = lists.done_row(state, arrival.request)
    clock.rejected += 1
    row.request, row.arrival_ps, row.done_ps = arrival.request, arrival.arrival_ps, clock.now_ps
    row.scheduled_ps = row.first_token_ps = -1
    row.isl, row.osl, row.n_out = arrival.isl, arrival.osl, 0
    row.replica, row.n_preempt, row.recomputed = i, 0, 0
    row.max_itl_ps, row.status, row.tag = 0, REJECTED, arrival.tenant
    if clock.closed == 1:
        release(state, clock.now_ps + clock.think_ps)


@jit
def fits(state, p, arrival):
    """Whether an engine of pool p could run the request alone."""
    engine = state.engines[p]
    blocks = blocks_for(arrival.isl + arrival.osl - 1, engine.block_tokens)
    short = arrival.isl + arrival.osl <= engine.max_len
    return short and blocks <= engine.n_blocks - engine.watermark


@jit
def fits_somewhere(state, arrival):
    """Whether some pool could run the request alone."""
    p = 0
    while p < state.engines.shape[0] and not fits(state, p, arrival):
        p += 1
    return p < state.engines.shape[0]


@jit
def receive(state, arrival, order, route):
    """Route one request and put it into its replica's queue; False when the router erred."""
    clock = state.clock[0]
    t = clock.now_ps
    if not fits_somewhere(state, arrival):
        reject(state, arrival, -1)
        return True
    r = clock.free
    request = state.live[r]
    clock.free = request.next
    clock.n_live += 1
    request.request, request.arrival_ps = arrival.request, arrival.arrival_ps
    request.deadline_ps, request.session = arrival.deadline_ps, arrival.session
    request.isl, request.osl = arrival.isl, arrival.osl
    request.priority, request.tenant = arrival.priority, arrival.tenant
    request.n_preempt = request.n_out = request.n_computed = request.n_blocks = 0
    request.recomputed = request.chunk = request.aborted = 0
    request.n_known = arrival.isl
    request.scheduled_ps = request.first_token_ps = request.last_token_ps = -1
    request.max_itl_ps = 0
    if clock.refresh_load == 1:
        for i in range(state.replicas.shape[0]):
            state.load[KV_BLOCKS, i] = blocks_now(state, i)
    i = route(request, state.load, state.route_params, state.route_memory, state.route_rng)
    if i < 0 or i >= state.replicas.shape[0]:
        clock.wrong_kind, clock.wrong_request, clock.wrong_value = BAD_ROUTE, arrival.request, i
        return False
    replica = state.replicas[i]
    if not fits(state, replica.pool, arrival):
        lists.free(state, r)
        reject(state, arrival, i)
        return True
    request.replica, request.pool = i, replica.pool
    request.key = order(request, t, state.order_params)
    state.load[OUTSTANDING, i] += 1
    lists.enqueue(state, i, r)
    if replica.n_steps == 0:
        heaps.reschedule(state, i, t)
    elif replica.queue == r and replica.n_running < state.engines[replica.pool].max_seqs:
        cut_leap(state, i, t)
    return True


@jit
def advance(state, until_ps, order, admit, batch, preempt, route):
    """Handle all events up to until_ps, in order; returns one of the reasons at the top."""
    clock = state.clock[0]
    room = 2 * state.last_step.shape[1] + 4  # most rows that one boundary writes
    while True:
        i = state.agenda[0]
        boundary = state.agenda_ps[0]
        arrival = next_ready(state)
        if arrival == NEVER and clock.closed == 0 and clock.last_chunk == 0:
            return WANT_ARRIVALS
        t = min(boundary, arrival)
        if t > until_ps or t == NEVER:
            if until_ps != NEVER:
                clock.now_ps = max(clock.now_ps, until_ps)
            return REACHED
        if clock.by_request == 0 and clock.n_done + room > state.done.shape[0]:
            return WANT_LOG
        if clock.keep_leaps == 1 and (
            clock.n_leaps + 1 > state.leaps.shape[0] or clock.n_gaps + room > state.gaps.shape[0]
        ):
            return WANT_LOG
        clock.now_ps = t
        if arrival <= boundary:
            if clock.free < 0:
                return WANT_SLOTS
            if clock.closed == 1:
                row = state.pending[take_first(state)]
            else:
                row = state.arrivals[clock.next_arrival]
                clock.next_arrival += 1
            if not receive(state, row, order, route):
                return WRONG
        else:
            if not lists.forget_old_gaps(state, i):
                return WANT_GAPS
            if state.replicas[i].n_steps > 0:
                complete(state, i, state.replicas[i].n_steps)
            end = form(state, i, t, admit, batch, preempt)
            if clock.wrong_kind != 0:
                return WRONG
            heaps.reschedule(state, i, end)
