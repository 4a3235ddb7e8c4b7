"""The lists a live request is in: free slots, the waiting queue, the running list, the done rows.

Legend: i replica, r slot of `live`, t picoseconds.
"""

from __future__ import annotations

from forerun.sim.core import (
    adapters,
    attempts,
    fair,
    nets,
    prefix,
    queue,
    responses,
    tiers,
    tuning,
)
from forerun.sim.core.arrivals import ended
from forerun.sim.core.jit import jit
from forerun.sim.core.rows_log import STATUS
from forerun.sim.core.rows_request import (
    COMPUTING,
    FETCHING,
    HELD,
    ON_WAY,
    READY,
    WAITING,
)  # fmt: skip
from forerun.sim.core.signatures import (
    OUTSTANDING,
    OUTSTANDING_TOKENS,
    RUNNING,
    WAITING_REQUESTS,
)
from forerun.sim.core.wake import wake

FINISHED, ABORTED = STATUS["finished"], STATUS["aborted"]


@jit
def enqueue(state, i, r):
    """Put r into the waiting queue of replica i: that of its model."""
    replica = state.replicas[i]
    m = state.live[r].model
    state.live[r].phase = WAITING
    if m == state.engines[replica.pool].model:
        if state.engines[replica.pool].fair == 1:
            fair.join(state, i, r)
        else:
            replica.queue = queue.push(state.live, replica.queue, r)
        replica.n_waiting += 1
    else:
        state.parked[i, m] = queue.push(state.live, state.parked[i, m], r)
        state.n_parked[i, m] += 1
        replica.n_parked += 1
    state.load[WAITING_REQUESTS, i] += 1
    state.load[OUTSTANDING_TOKENS, i] += state.live[r].n_known
    if adapters.of(state.live[r]) >= 0:
        adapters.come(state, i, r, state.clock[0].now_ps)
    if state.clock[0].has_nets == 1:
        nets.come(state, i, r, state.clock[0].now_ps)


@jit
def dequeue(state, i):
    """Take the first of the waiting queue of replica i out of it."""
    replica = state.replicas[i]
    r = replica.queue
    if state.engines[replica.pool].fair == 1:
        fair.leave(state, i, r)
    else:
        replica.queue = queue.pop(state.live, r)
    replica.n_waiting -= 1
    state.load[WAITING_REQUESTS, i] -= 1
    if adapters.of(state.live[r]) >= 0:
        state.slots[i, state.live[r].adapter].n_waiting -= 1
    if state.clock[0].has_nets == 1:
        nets.want(state, i, r, -1)
    return r


@jit
def note_reuse(request, have):
    """Count tokens that need not be computed: saved, or not lost after all."""
    if request.scheduled_ps < 0:
        request.cached = have
    else:
        request.recomputed -= have


@jit
def no_longer_due(state, i, r):
    """r waits no more for KV from tiers, because it runs on replica i or because it is gone."""
    if state.live[r].n_due >= 0:
        state.live[r].n_due = -1
        state.replicas[i].n_coming -= 1


@jit
def drop_aborted_heads(state, i):
    """Free the slots of aborted requests that have reached the head of the queue."""
    replica = state.replicas[i]
    if state.engines[replica.pool].fair == 1:
        drop_aborted_of_tenants(state, i)
        return
    while replica.queue >= 0 and state.live[replica.queue].aborted == 1:
        r = replica.queue
        replica.queue = queue.pop(state.live, r)  # n_waiting was corrected when it was aborted
        free(state, r)


@jit
def drop_aborted_of_tenants(state, i):
    """The same for the queue of each tenant; the queue's head is then who came first of all."""
    first = -1
    for u in range(state.tenants.shape[0]):
        line = fair.line_of(state, i, u)
        while line.head >= 0 and state.live[line.head].aborted == 1:
            r = line.head
            line.head = queue.pop(state.live, r)
            free(state, r)
        if line.head >= 0 and (first < 0 or queue.before(state.live, line.head, first)):
            first = line.head
    state.replicas[i].queue = first


@jit
def drop_aborted_apart(state, i, column):
    """The same for those who wait apart."""
    r = state.parked[i, column]
    while r >= 0 and state.live[r].aborted == 1:
        state.parked[i, column] = queue.pop(state.live, r)
        free(state, r)
        r = state.parked[i, column]


@jit
def free(state, r):
    """Give slot r back."""
    clock = state.clock[0]
    state.live[r].source = -1
    state.live[r].next = clock.free
    clock.free = r
    clock.n_live -= 1
    if clock.tunes == 1 and clock.n_live == 0:
        tuning.stop_if_over(state, clock.now_ps)


@jit
def start_running(state, i, r, t):
    """Append r to the running list of replica i."""
    replica = state.replicas[i]
    request = state.live[r]
    request.pool = replica.pool
    request.admitted = replica.admissions
    replica.admissions += 1
    request.prev = replica.run_tail
    request.next = -1
    if replica.run_tail >= 0:
        state.live[replica.run_tail].next = r
    else:
        replica.run_head = r
    replica.run_tail = r
    replica.n_running += 1
    state.load[RUNNING, i] += 1
    if replica.n_running > state.totals[i].peak_running:
        state.totals[i].peak_running = replica.n_running
    if request.scheduled_ps < 0:
        request.scheduled_ps = t


@jit
def get_ready(state, i, r):
    """The KV of r is on replica i: it joins at the next boundary at which a seat is free."""
    replica = state.replicas[i]
    request = state.live[r]
    request.phase = READY
    request.chunk_next = -1
    if replica.ready_tail >= 0:
        state.live[replica.ready_tail].chunk_next = r
    else:
        replica.ready_head = r
    replica.ready_tail = r


@jit
def join_chunks(state, i, r):
    """r computes more than one token: append it to the chunks of replica i."""
    replica = state.replicas[i]
    request = state.live[r]
    request.phase = COMPUTING
    request.chunk_next = -1
    if replica.chunk_tail >= 0:
        state.live[replica.chunk_tail].chunk_next = r
    else:
        replica.chunk_head = r
    replica.chunk_tail = r
    replica.n_chunks += 1


@jit
def unlink_running(state, i, r):
    """Take r out of the running list of replica i."""
    replica = state.replicas[i]
    request = state.live[r]
    if request.prev >= 0:
        state.live[request.prev].next = request.next
    else:
        replica.run_head = request.next
    if request.next >= 0:
        state.live[request.next].prev = request.prev
    else:
        replica.run_tail = request.prev
    replica.n_running -= 1
    state.load[RUNNING, i] -= 1
    if adapters.of(request) >= 0:
        adapters.leave(state, i, request.adapter)
    if state.clock[0].has_nets == 1:
        nets.leave(state, i, r)


@jit
def unlink_chunk(state, i, r):
    """Take r out of the list of requests that compute a chunk."""
    replica = state.replicas[i]
    before = -1
    at = replica.chunk_head
    while at != r:
        before = at
        at = state.live[at].chunk_next
    after = state.live[r].chunk_next
    if before >= 0:
        state.live[before].chunk_next = after
    else:
        replica.chunk_head = after
    if replica.chunk_tail == r:
        replica.chunk_tail = before
    replica.n_chunks -= 1


@jit
def done_row(state, request):
    """The row of the log for a request that has ended."""
    clock = state.clock[0]
    n = request if clock.by_request == 1 else clock.n_done
    clock.n_done += 1
    return state.done[n]


@jit
def write_done(state, i, r, t, status):
    """One row of the log for the request in slot r, which ends at t; none for a spare copy."""
    request = state.live[r]
    if i >= 0:
        state.load[OUTSTANDING, i] -= 1
    if state.clock[0].has_clients == 1 and attempts.goes_on(state, r, t, status):
        return
    row = done_row(state, request.request)
    row.request = request.request
    row.arrival_ps = request.arrival_ps
    row.scheduled_ps = request.scheduled_ps
    row.first_token_ps = request.first_token_ps
    if i >= 0 and status != ABORTED and state.way_ps.shape[0] > 1:
        back = state.way_ps[state.engines[state.replicas[i].pool].region, request.region]
        row.first_token_ps += back if row.first_token_ps >= 0 else 0
        t += back  # its client has it then
    row.done_ps = t
    row.isl = request.isl
    row.osl = request.osl
    row.n_out = request.n_out
    row.replica = i
    row.n_preempt = request.n_preempt
    row.recomputed = request.recomputed
    row.max_itl_ps = request.max_itl_ps
    row.status = status
    row.tag = request.tenant
    row.cached = request.cached
    row.prefill_replica = request.prefill_replica
    row.n_retries = request.n_retries
    row.model = request.model
    row.away_ps = request.away_ps
    row.n_drafted, row.n_extra = request.n_drafted, request.n_extra
    if state.clock[0].has_clients == 1:
        row.n_retries += state.calls[request.request].attempt - 1
    if i >= 0 and status == FINISHED:
        state.totals[i].n_done += 1
        if state.clock[0].has_answers == 1:
            responses.keep(state, request.request, responses.who(state, request), request.n_out, t)
    if state.clock[0].has_calls == 1 and request.scheduled_ps >= 0:
        state.calls[request.request].ran_ps = t - request.scheduled_ps
    ended(state, request.request, t, status)


@jit
def end_running(state, i, r, t, status):
    """A running request, already out of decoders and chunks, ends: log it, free what it holds."""
    if state.live[r].aborted == 1:
        status = ABORTED  # nobody took the answer
    if status == FINISHED:
        prefix.publish(state, i, r)  # blocks that its answer completed
    prefix.give_back(state, i, r, state.live[r].n_blocks, state.live[r].n_shared)
    unlink_running(state, i, r)
    write_done(state, i, r, t, status)
    free(state, r)


@jit
def leave_source(state, r, t):
    """The replica that computed the KV of r gets its blocks back."""
    request = state.live[r]
    source = request.source
    prefix.settle(state, source)
    prefix.give_back(state, source, r, request.n_left, request.n_left_shared)
    state.replicas[source].n_away -= 1
    request.source = -1
    request.n_left = request.n_left_shared = 0
    replica = state.replicas[source]
    waits = replica.n_waiting + replica.n_orders + replica.n_parked > 0
    paged = state.engines[replica.pool].paged == 1
    waits = waits or (paged and replica.n_apart > 0)  # their adapters may come
    if waits or state.stores[source].below >= 0:
        wake(state, source, t)  # its leap counted on fewer idle blocks
    if replica.partner >= 0 and state.replicas[replica.partner].n_waiting > 0:
        wake(state, replica.partner, t)


@jit
def abort(state, r, t):
    """The client of the request in slot r goes away at t.

    Waiting: it ends now.  Running: at the next step boundary; returns 1 when its replica must be
    woken there.
    """
    request = state.live[r]
    i = request.replica
    if request.aborted == 1:
        return 0
    request.aborted = 1
    if request.phase == HELD:
        if request.source >= 0:
            leave_source(state, r, t)
        write_done(state, -1, r, t, ABORTED)  # its slot is freed when those held are let in
        return 0
    if request.phase == FETCHING or request.phase == ON_WAY:
        return 0  # it ends when its KV has come, or when it is there
    if request.phase == READY:
        wake(state, i, t)  # its blocks are given back at the next boundary
        return 0
    replica = state.replicas[i]
    if request.phase == WAITING:
        if request.source >= 0:
            leave_source(state, r, t)
        tiers.forget_swapped(state, r)
        state.load[WAITING_REQUESTS, i] -= 1
        state.load[OUTSTANDING_TOKENS, i] -= request.n_known
        write_done(state, i, r, t, ABORTED)
        # a turn policy counts those who wait at each boundary
        cut = 1 if replica.n_parked > 0 and replica.n_steps > 0 else 0
        if adapters.of(request) >= 0:
            state.slots[i, request.adapter].n_waiting -= 1
            if replica.n_apart > 0:
                wake(state, i, t)  # its adapter may make room for another one
        if state.clock[0].has_nets == 1:
            nets.want(state, i, r, -1)
        column = request.model
        if request.aside == 1:
            column = state.serves.shape[1] + request.adapter
            replica.n_apart -= 1
            if state.engines[replica.pool].fair == 1:
                fair.line_of(state, i, request.tenant).n -= 1
        elif request.model != state.engines[replica.pool].model:
            replica.n_parked -= 1
        else:
            column = -1
        if column >= 0:
            state.n_parked[i, column] -= 1
            drop_aborted_apart(state, i, column)
            return cut
        replica.n_waiting -= 1
        if state.engines[replica.pool].fair == 1:
            fair.line_of(state, i, request.tenant).n -= 1
            replica.queue = r  # whoever is next now may fit where it did not
        if replica.queue == r:
            drop_aborted_heads(state, i)
            if replica.n_waiting > 0:
                wake(state, i, t)  # the one behind it may fit where it did not
        return cut
    replica.n_aborted += 1
    return 1
