"""A replica fails in the midst of a step: what its requests lose, and where they go on.

Two lanes on the same devices fail as one.

Legend: i replica, j another one, m transfer, r slot, k steps, t picoseconds.
"""

from __future__ import annotations

from forerun.sim.core import (
    adapters,
    attempts,
    decoders,
    denoise,
    embeddings,
    encode,
    fair,
    front,
    heaps,
    lanes,
    lost,
    nets,
    prefix,
    queue,
    tiers,
    transfer,
    turns,
)
from forerun.sim.core import live as lists
from forerun.sim.core.clock import steps_to_reach
from forerun.sim.core.jit import jit
from forerun.sim.core.order import NEVER
from forerun.sim.core.rows_log import STATUS
from forerun.sim.core.rows_request import DECODING, EMBEDDED, HELD, WAITING
from forerun.sim.core.signatures import OUTSTANDING, OUTSTANDING_TOKENS, WAITING_REQUESTS
from forerun.sim.core.step_end import complete
from forerun.sim.core.wake import wake

FAILED = STATUS["failed"]


@jit
def fail(state, i, t, lose):
    """The devices of replica i are gone at t with all KV they hold; the requests of both lanes, if
    it has a partner, are sent again, or fail (lose = 1)."""
    state.clock[0].restricted = 1
    state.totals[state.replicas[i].memory].n_failed += 1
    for k in range(lanes.n_lanes(state, i)):
        break_off(state, lanes.lane(state, i, k), t)
    for k in range(lanes.n_lanes(state, i)):
        j = lanes.lane(state, i, k)
        stop_transfers(state, j, t)
        forget_sources(state, j, t)
        empty(state, j, t, lose)
    for k in range(lanes.n_lanes(state, i)):
        j = lanes.lane(state, i, k)
        state.replicas[j].n_blocks = 0
        tiers.fall(state, j)
        adapters.fall(state, j)
        nets.fall(state, j)
        embeddings.fall(state, j)
        turns.fall(state, j)


@jit
def break_off(state, i, t):
    """Replica i takes nobody and does nothing from t on.

    Steps that ended before t count; the one under way gave nothing.
    """
    replica = state.replicas[i]
    totals = state.totals[i]
    replica.accepts = 0
    replica.free_ps = 0
    if replica.n_steps > 0:
        elapsed = t - replica.start_ps
        steps = replica.n_steps
        k = steps_to_reach(replica.first_ps, replica.slope_ps, steps, elapsed + 1) - 1
        began = replica.start_ps
        if k > 0:
            began = complete(state, i, k)
        totals.lost_ps += t - began
        replica.n_steps = 0
        replica.chunk = replica.encoding = replica.n_encoding = 0
        heaps.reschedule(state, i, NEVER)


@jit
def stop_transfers(state, i, t):
    """Transfers into replica i or out of it end; their requests wait again, with or without KV."""
    m = 0
    while m < state.clock[0].n_moving:
        r = state.moving[m]
        request = state.live[r]
        j = request.replica
        if j != i and request.source != i:
            m += 1
            continue
        transfer.stop(state, m, t)
        if request.n_due >= 0:
            state.load[OUTSTANDING_TOKENS, j] -= request.n_known - request.n_due
            if request.stage != EMBEDDED:
                state.stores[j].wait_ps += t - request.called_ps
            lists.no_longer_due(state, j, r)
        prefix.settle(state, j)
        prefix.give_back(state, j, r, request.n_blocks, request.n_shared)
        request.n_blocks = request.n_shared = 0
        state.replicas[j].n_away -= 1
        if request.adapter >= 0:
            adapters.leave(state, j, request.adapter)
        if state.clock[0].has_nets == 1:
            nets.leave(state, j, r)
        if request.aborted == 1:
            lists.leave_source(state, r, t)
            lists.write_done(state, j, r, t, lists.ABORTED)
            lists.free(state, r)
        else:
            lists.enqueue(state, j, r)
        wake(state, j, t)


@jit
def forget_sources(state, i, t):
    """Requests whose KV waits on replica i to be fetched compute their prompts again, where they
    are; those with images, and at a lane that answers, are sent again."""
    for r in range(state.live.shape[0]):
        request = state.live[r]
        if request.source == i and (request.phase == WAITING or request.phase == HELD):
            compute_again(state, r, t)


@jit
def compute_again(state, r, t):
    """The KV of r, which waits, is not to be fetched any more."""
    request = state.live[r]
    lists.leave_source(state, r, t)
    before = request.n_known
    waits = request.phase == WAITING
    again = waits and (
        request.n_items > 0  # its images are gone too
        or state.replicas[request.replica].partner >= 0
    )
    if again:
        encode.leave_queue(state, r)
        wake(state, request.replica, t)
    lost.forget(state, r)
    if again:
        front.send(state, r, t)
    elif waits:
        state.load[OUTSTANDING_TOKENS, request.replica] += request.n_known - before
        wake(state, request.replica, t)  # it may start with fewer blocks now
    else:
        front.let_in(state, t)  # it waited for one that decodes


@jit
def empty(state, i, t, lose):
    """Every request of replica i leaves it: running ones, ready ones, waiting ones."""
    replica = state.replicas[i]
    if state.engines[replica.pool].denoises == 1:
        denoise.stop_showing(state, i)
    while replica.ready_head >= 0:
        r = replica.ready_head
        replica.ready_head = state.live[r].chunk_next
        lists.start_running(state, i, r, t)
        lists.no_longer_due(state, i, r)
        lists.join_chunks(state, i, r)
    replica.ready_tail = -1
    while replica.run_head >= 0:
        r = replica.run_head
        request = state.live[r]
        if request.phase == DECODING:
            decoders.leave_decoders(state, i, r)
        else:
            lists.unlink_chunk(state, i, r)
            state.load[OUTSTANDING_TOKENS, i] -= request.n_known - request.n_computed
            request.chunk = 0
        lists.unlink_running(state, i, r)
        prefix.give_back(state, i, r, request.n_blocks, request.n_shared)
        request.n_blocks = request.n_shared = 0
        lost.forget(state, r)
        send_again(state, i, r, t, lose)
    lists.drop_aborted_heads(state, i)
    while replica.queue >= 0:
        r = lists.dequeue(state, i)
        state.load[OUTSTANDING_TOKENS, i] -= state.live[r].n_known
        if state.live[r].swapped > 0:
            tiers.forget_swapped(state, r)
            lost.forget(state, r)
        else:
            state.live[r].n_retries += 1
        send_again(state, i, r, t, lose)
        lists.drop_aborted_heads(state, i)
    send_parked(state, i, 1, t, lose)


@jit
def send_parked(state, i, every, t, lose):
    """Requests that wait for models which replica i does not serve (or for any, and for adapters)
    are sent again."""
    n_models = state.serves.shape[1]
    for m in range(state.parked.shape[1] if every == 1 else n_models):
        if every == 0 and state.serves[state.replicas[i].pool, m] >= 0:
            continue
        r = state.parked[i, m]
        while r >= 0:
            state.parked[i, m] = queue.pop(state.live, r)
            if state.live[r].aborted == 1:
                lists.free(state, r)
            else:
                state.n_parked[i, m] -= 1
                if m < n_models:
                    state.replicas[i].n_parked -= 1
                else:
                    state.replicas[i].n_apart -= 1
                    state.live[r].aside = 0
                    if state.engines[state.replicas[i].pool].fair == 1:
                        fair.count_out(state, i, state.live[r].tenant)
                if state.live[r].adapter >= 0:
                    state.slots[i, state.live[r].adapter].n_waiting -= 1
                if state.clock[0].has_nets == 1:
                    nets.want(state, i, r, -1)
                state.load[WAITING_REQUESTS, i] -= 1
                state.load[OUTSTANDING_TOKENS, i] -= state.live[r].n_known
                if state.live[r].swapped > 0:
                    tiers.forget_swapped(state, r)
                    lost.forget(state, r)
                elif every == 1:
                    state.live[r].n_retries += 1
                if every == 1:
                    send_again(state, i, r, t, lose)
                else:  # nothing failed, so clients see nothing
                    state.load[OUTSTANDING, i] -= 1
                    front.send(state, r, t)
            r = state.parked[i, m]


@jit
def send_again(state, i, r, t, lose):
    """r leaves replica i for another one, unless its client has gone away or sees to that itself.

    lose : 1 when it ends with its replica instead.
    """
    request = state.live[r]
    if request.aborted == 0 and lose == 0 and state.clock[0].retry_failures == 0:
        state.load[OUTSTANDING, i] -= 1
        front.send(state, r, t)
        return
    if request.source >= 0:
        lists.leave_source(state, r, t)
    if request.aborted == 0 and state.clock[0].retry_failures == 1:
        fail_attempt(state, i, r, t)
    else:
        request.n_retries -= 1
        request.recomputed += request.n_computed
        request.n_computed = 0  # so that it is counted once, where a copy is lost
        lists.write_done(state, i, r, t, lists.ABORTED if request.aborted == 1 else FAILED)
    lists.free(state, r)


@jit
def fail_attempt(state, i, r, t):
    """The client of r sees that replica i is gone: another copy goes on, or it sends r again."""
    request = state.live[r]
    call = state.calls[request.request]
    alone = call.slot == r and call.twin < 0
    if alone and attempts.retry(state, request.request, t):
        attempts.lose(state, r)
        state.load[OUTSTANDING, i] -= 1
    else:
        request.n_retries -= 1  # nobody sends it again
        lists.write_done(state, i, r, t, FAILED)
