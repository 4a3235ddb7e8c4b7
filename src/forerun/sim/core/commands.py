"""What a caller orders: a replica opens, closes, fails, changes pools, gives requests away, or has
a worse link.

Commands stand in `state.commands` by time.  Failures happen in the midst of a step; the others wait
for the replica's next step boundary where they touch what a step uses.

Legend: i replica, j another one, p pool, r slot, k steps, t picoseconds.
"""

from __future__ import annotations

from forerun.sim.core import (
    adapters,
    attempts,
    encode,
    fair,
    fetch,
    front,
    heaps,
    prefix,
    queue,
    tiers,
    transfer,
    turns,
)
from forerun.sim.core import live as lists
from forerun.sim.core.clock import steps_to_reach
from forerun.sim.core.jit import jit
from forerun.sim.core.kv import FULL, blocks_for, blocks_now, kept, make_room_for, take
from forerun.sim.core.order import NEVER
from forerun.sim.core.rows_fleet import ROLE
from forerun.sim.core.rows_log import STATUS
from forerun.sim.core.rows_request import DECODING, EMBEDDED, HELD, WAITING
from forerun.sim.core.signatures import (
    KV_CAPACITY,
    OUTSTANDING,
    OUTSTANDING_TOKENS,
    POOL,
    SPEED,
    WAITING_REQUESTS,
)
from forerun.sim.core.state import VERBS
from forerun.sim.core.step_end import complete, let_go
from forerun.sim.core.wake import cut_leap, wake

BOTH, DECODE = ROLE["both"], ROLE["decode"]
FAILED = STATUS["failed"]
OPEN, CLOSE, FAIL = VERBS["open"], VERBS["close"], VERBS["fail"]
SWITCH, MOVE, LINK = VERBS["switch"], VERBS["move"], VERBS["link"]
MILLION = 1_000_000


@jit
def next_due(state):
    """When the next command is due; NEVER when none is left."""
    clock = state.clock[0]
    if clock.next_command < clock.n_commands:
        return state.commands[clock.next_command].time_ps
    return NEVER


@jit
def obey(state, t):
    """Carry out the next command."""
    clock = state.clock[0]
    command = state.commands[clock.next_command]
    clock.next_command += 1
    i = command.who
    replica = state.replicas[i]
    if command.verb == OPEN:
        replica.accepts = 1
        if command.value == 1:
            tiers.fall(state, i)
            adapters.fall(state, i)
        restrict(state)
        if clock.tunes == 1:
            wake(state, i, t)
        front.let_in(state, t)
    elif command.verb == CLOSE:
        replica.accepts = 0
        clock.restricted = 1
        if clock.tunes == 1:
            wake(state, i, t)  # it tunes no more
    elif command.verb == FAIL:
        fail(state, i, t, command.value)
    elif command.verb == SWITCH:
        replica.next_pool = command.value
        replica.n_orders += 1
        state.loads[i].chosen_ps = t
        wake(state, i, t)
    elif command.verb == MOVE and replica.n_decode > 0:
        replica.n_to_move += command.value
        replica.n_orders += 1
        wake(state, i, t)
    elif command.verb == LINK:
        for p in (2 * i, 2 * i + 1):
            port = state.ports[p]
            port.bytes_per_ps = port.full_bytes_per_ps * command.value / MILLION
        transfer.share(state, t)


@jit
def restrict(state):
    """Note whether every replica takes every request."""
    restricted = 1 if state.serves.shape[1] > 1 else 0
    for i in range(state.replicas.shape[0]):
        replica = state.replicas[i]
        if replica.accepts == 0 or state.engines[replica.pool].role != BOTH:
            restricted = 1
    state.clock[0].restricted = restricted


# -- at a step boundary -------------------------------------------------------------------------


@jit
def at_boundary(state, i, t):
    """Carry out what waited for replica i to end its step."""
    replica = state.replicas[i]
    if t < replica.free_ps:
        return
    if replica.n_parked > 0 and replica.next_pool == replica.pool:
        turns.ask(state, i, t)
    replica.n_orders = 0
    if replica.next_pool != replica.pool:
        if not turns.drains(state, i) or turns.is_empty(state, i):
            change_pool(state, i, t)
        else:
            replica.n_orders = 1  # when it is empty
    m = state.engines[replica.pool].model
    n = replica.n_to_move if front.another_takes(state, i, DECODE, m) else 0
    replica.n_to_move = 0
    while n > 0 and replica.n_decode > 0 and state.clock[0].wrong_kind == 0:
        r = last_choice(state, i)
        n = n - 1 if move(state, i, r, t) else 0


@jit
def move(state, i, r, t):
    """Decoder r of replica i goes on where the `place` policy says, if its KV has room there now.

    The blocks are taken there before it leaves, so that no two replicas wait for each other's; 1
    when it went.  Source of the handshake: Llumnix (Sun et al., OSDI 2024).
    """
    request = state.live[r]
    request.source = i
    j = front.choose(state, r, DECODE)
    request.source = -1
    if j < 0:
        return False
    p = state.serves[state.replicas[j].pool, request.model]
    known = request.n_computed + state.replicas[i].decoded - request.joined
    rest = request.isl + request.osl - known
    if p != state.replicas[j].pool or not front.fits(state, p, known, rest, request.most_kept):
        return False
    engine = state.engines[p]
    prefix.settle(state, j)
    here = prefix.leading(state, j, r)
    shared = here * prefix.blocks_a_hash(state, j) if here > 0 else 0
    held = shared - prefix.idle_among(state, j, r, here) * (shared // max(here, 1))
    footprint = min(known, kept(state, j, r))
    blocks = blocks_for(footprint, engine.block_tokens)
    if engine.reserve == FULL:
        blocks = blocks_for(request.isl + request.osl - 1, engine.block_tokens)
    spare = blocks_for(state.replicas[j].n_taking, engine.block_tokens)  # what a step takes
    if blocks_now(state, j) + spare + blocks - held > engine.n_blocks - engine.watermark:
        return False
    if request.adapter >= 0 and not adapters.may_start(state, j, request.adapter, t):
        return False
    lists.leave_decoders(state, i, r)
    let_go(state, i, r, t)
    request.replica, request.pool = j, p
    request.key = state.order(request, t, state.order_params)
    if engine.fair == 1:
        request.key = request.arrival_ps
    state.load[OUTSTANDING, j] += 1
    if request.adapter >= 0:
        adapters.take(state, j, request.adapter, t)
    if here > 0:
        prefix.hold_leading(state, j, r, here)
    request.n_blocks = blocks
    take(state, j, blocks - shared)
    prefix.settle(state, j)
    fetch.pull(state, j, r, footprint - shared * engine.block_tokens, t)
    if state.replicas[j].n_steps > 0:
        cut_leap(state, j, t)  # which counted on these blocks
    return True


@jit
def change_pool(state, i, t):
    """Replica i goes on with the costs, policies, role and model of another pool."""
    replica = state.replicas[i]
    p = replica.next_pool
    if state.engines[replica.pool].fair == 1:
        fair.gather(state, i)
    if turns.drains(state, i):
        turns.take_up(state, i, p, t)
    if state.replicas[i].partner >= 0:
        replica.free_ps = t + state.engines[p].switch_ps
    replica.pool = p
    if state.engines[p].fair == 1:
        queue_by_tenant(state, i)
    state.load[POOL, i] = p
    state.load[KV_CAPACITY, i] = state.engines[p].n_blocks
    state.load[SPEED, i] = state.engines[p].speed
    make_room_for(state, i, replica.n_blocks)
    send_parked(state, i, 0, t, 0)
    restrict(state)
    front.let_in(state, t)


@jit
def queue_by_tenant(state, i):
    """Requests that stand in one queue at replica i are told apart."""
    replica = state.replicas[i]
    root = replica.queue
    replica.queue = -1
    while root >= 0:
        r = root
        root = queue.pop(state.live, r)
        if state.live[r].aborted == 1:
            lists.free(state, r)
        else:
            fair.join(state, i, r)
    lists.drop_aborted_heads(state, i)


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
                    state.slots[i, m - n_models].n_waiting -= 1
                    state.live[r].aside = 0
                state.load[WAITING_REQUESTS, i] -= 1
                state.load[OUTSTANDING_TOKENS, i] -= state.live[r].n_known
                if state.live[r].swapped > 0:
                    tiers.forget_swapped(state, r)
                    forget(state, r)
                elif every == 1:
                    state.live[r].n_retries += 1
                if every == 1:
                    send_again(state, i, r, t, lose)
                else:  # nothing failed, so clients see nothing
                    state.load[OUTSTANDING, i] -= 1
                    front.send(state, r, t)
            r = state.parked[i, m]


@jit
def last_choice(state, i):
    """The decoding request of replica i that its `preempt` policy gives up first."""
    r = state.replicas[i].run_head
    chosen = -1
    worst = 0
    while r >= 0:
        if state.live[r].phase == DECODING:
            score = state.preempt(state.live[r], state.preempt_params)
            if chosen < 0 or score >= worst:
                worst = score
                chosen = r
        r = state.live[r].next
    return chosen


# -- failures -----------------------------------------------------------------------------------


@jit
def fail(state, i, t, lose):
    """Replica i is gone at t with all KV it holds; its requests are sent again, or fail (lose = 1).

    Steps that ended before t count; the one under way gave nothing.
    """
    replica = state.replicas[i]
    totals = state.totals[i]
    replica.accepts = 0
    replica.free_ps = 0
    state.clock[0].restricted = 1
    totals.n_failed += 1
    if replica.n_steps > 0:
        elapsed = t - replica.start_ps
        steps = replica.n_steps
        k = steps_to_reach(replica.first_ps, replica.slope_ps, steps, elapsed + 1) - 1
        began = replica.start_ps
        if k > 0:
            began = complete(state, i, k)
        totals.lost_ps += t - began
        replica.n_steps = 0
        replica.chunk = replica.encoding = 0
        heaps.reschedule(state, i, NEVER)
    stop_transfers(state, i, t)
    forget_sources(state, i, t)
    empty(state, i, t, lose)
    tiers.fall(state, i)
    adapters.fall(state, i)


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
    are; those with images are sent again."""
    for r in range(state.live.shape[0]):
        request = state.live[r]
        if request.source == i and (request.phase == WAITING or request.phase == HELD):
            lists.leave_source(state, r, t)
            before = request.n_known
            waits = request.phase == WAITING
            again = waits and request.n_items > 0  # its images are gone too
            if again:
                encode.leave_queue(state, r)
                wake(state, request.replica, t)
            forget(state, r)
            if again:
                front.send(state, r, t)
            elif waits:
                state.load[OUTSTANDING_TOKENS, request.replica] += request.n_known - before
                wake(state, request.replica, t)  # it may start with fewer blocks now


@jit
def forget(state, r):
    """What r had computed is lost."""
    request = state.live[r]
    encode.start_over(request)
    request.recomputed += request.n_computed
    request.n_computed = 0
    request.n_known = request.isl + request.n_out
    request.n_retries += 1


@jit
def empty(state, i, t, lose):
    """Every request of replica i leaves it: running ones, ready ones, waiting ones."""
    replica = state.replicas[i]
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
            lists.leave_decoders(state, i, r)
        else:
            lists.unlink_chunk(state, i, r)
            state.load[OUTSTANDING_TOKENS, i] -= request.n_known - request.n_computed
            request.chunk = 0
        lists.unlink_running(state, i, r)
        prefix.give_back(state, i, r, request.n_blocks, request.n_shared)
        request.n_blocks = request.n_shared = 0
        forget(state, r)
        send_again(state, i, r, t, lose)
    lists.drop_aborted_heads(state, i)
    while replica.queue >= 0:
        r = lists.dequeue(state, i)
        state.load[OUTSTANDING_TOKENS, i] -= state.live[r].n_known
        if state.live[r].swapped > 0:
            tiers.forget_swapped(state, r)
            forget(state, r)
        else:
            state.live[r].n_retries += 1
        send_again(state, i, r, t, lose)
        lists.drop_aborted_heads(state, i)
    send_parked(state, i, 1, t, lose)


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
