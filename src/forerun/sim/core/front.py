"""In front of the replicas: which of them takes a request, and what happens when none does.

Legend: i replica, p pool, r slot, t picoseconds.
"""

from __future__ import annotations

from forerun.sim.core import adapters, encode, lost, nets, prefix, regions, turns
from forerun.sim.core import live as lists
from forerun.sim.core.jit import jit
from forerun.sim.core.kv import blocks_for, blocks_now
from forerun.sim.core.rows_fleet import ROLE
from forerun.sim.core.rows_log import STATUS
from forerun.sim.core.rows_request import EMBEDDED, ENCODING, HELD, PLAIN
from forerun.sim.core.signatures import CACHED, KV_BLOCKS, OUTSTANDING, TO_LOAD
from forerun.sim.core.state import MISTAKE
from forerun.sim.core.wake import cut_leap, wake

BAD_ROUTE, BAD_PLACE = MISTAKE["route"], MISTAKE["place"]
NOBODY, WRONG = -2, -1  # no replica takes the request now; the router chose what is not there

BOTH, PREFILL, DECODE = ROLE["both"], ROLE["prefill"], ROLE["decode"]
ENCODE = ROLE["encode"]
REJECTED, ABORTED = STATUS["rejected"], STATUS["aborted"]


@jit
def fits(state, p, isl, osl, most_kept):
    """Whether an engine of pool p could do its part of a request alone."""
    engine = state.engines[p]
    last = isl if engine.role == PREFILL else isl + osl - 1  # the last token needs no cache
    last = min(last, min(engine.keeps, most_kept) + engine.max_tokens)  # cut after each step
    if engine.denoises == 1:
        last = isl  # nothing grows
    short = isl + osl <= engine.max_len
    room = engine.n_blocks - engine.watermark - engine.adapter_room
    return short and blocks_for(last, engine.block_tokens) <= room


@jit
def holds(state, r):
    """Whether the row of `engines` by which r is served could do what it wants there alone."""
    request = state.live[r]
    if request.stage == ENCODING:
        return encode.holds(state, request.pool, request.n_items, request.item_units)
    left = request.isl + request.osl - request.n_known
    return fits(state, request.pool, request.n_known, left, request.most_kept)


@jit
def some_pool_fits(state, role, arrival):
    """Whether some pool of this role could do its part of a request alone."""
    for p in range(state.engines.shape[0]):
        engine = state.engines[p]
        if (
            engine.role == role
            and engine.model == arrival.model
            and fits(state, p, arrival.isl, arrival.osl, arrival.most_kept)
        ):
            return True
    return False


@jit
def fits_somewhere(state, arrival):
    """Whether the request could be answered by one replica alone, or by one after another."""
    if some_pool_fits(state, BOTH, arrival):
        return True
    split = some_pool_fits(state, PREFILL, arrival)
    return split and some_pool_fits(state, DECODE, arrival)


@jit
def refresh(state, r):
    """What a router wants to know of this moment and of this request."""
    clock = state.clock[0]
    for i in range(state.replicas.shape[0]):
        if clock.refresh_load == 1:
            state.load[KV_BLOCKS, i] = blocks_now(state, i)
        if clock.refresh_cached == 1:
            state.load[CACHED, i] = prefix.tokens_kept(state, i, r)
        if clock.has_adapters == 1:
            state.load[TO_LOAD, i] = adapters.until_ready(state, i, state.live[r], clock.now_ps)
        if clock.has_nets == 1:
            wait_ps = nets.until_all(state, i, r, clock.now_ps)
            state.load[TO_LOAD, i] = max(wait_ps, state.load[TO_LOAD, i] * clock.has_adapters)


@jit
def takes(state, i, role, model):
    """Whether replica i takes requests that want this role and this model."""
    p = state.replicas[i].pool
    own = state.engines[p].role
    can = own == role or (own == BOTH and role != ENCODE)
    return state.replicas[i].accepts == 1 and can and state.serves[p, model] >= 0


@jit
def another_takes(state, i, role, model):
    """Whether some replica but i takes requests that want this role and this model."""
    j = 0
    while j < state.replicas.shape[0] and (j == i or not takes(state, j, role, model)):
        j += 1
    return j < state.replicas.shape[0]


@jit
def checked(state, r, c, n):
    """The choice c among n replicas; WRONG, and noted, when there is no such one."""
    if 0 <= c < n:
        return c
    clock = state.clock[0]
    placed = state.live[r].source >= 0 and state.live[r].stage == PLAIN
    clock.wrong_kind = BAD_PLACE if placed else BAD_ROUTE
    clock.wrong_request, clock.wrong_value, clock.wrong_replica = state.live[r].request, c, n
    return WRONG


@jit
def pick(state, r, load):
    """The column of `load` that `route` gives a new request (with a memory of its own where images
    are encoded), `place` one whose KV is somewhere."""
    request, rng = state.live[r], state.route_rng
    if request.stage == ENCODING:
        return state.route(request, load, state.route_params, state.encode_memory, rng)
    if request.source < 0 or request.stage == EMBEDDED:
        return state.route(request, load, state.route_params, state.route_memory, rng)
    return state.place(request, load, state.place_params, state.place_memory, rng)


@jit
def choose(state, r, role):
    """The replica that a router gives request r; NOBODY, or WRONG when there is no such one."""
    clock = state.clock[0]
    if clock.refresh_load + clock.refresh_cached + clock.has_adapters + clock.has_nets > 0:
        refresh(state, r)
    if regions.are_several(state):
        regions.look(state, r)
    source, model = state.live[r].source, state.live[r].model
    avoid = state.live[r].avoid
    state.live[r].avoid = -1
    if clock.restricted == 0 and source < 0 and avoid < 0:
        return checked(state, r, pick(state, r, state.load), state.replicas.shape[0])
    n = 0
    for i in range(state.replicas.shape[0]):
        if i in (source, avoid) or not takes(state, i, role, model):
            continue
        if clock.moves == 0 or turns.runs(state, i, model):
            state.offered_of[n] = i
            n += 1
            if state.serves.shape[1] > 1:
                load_ps = turns.until_loaded(state, i, model)
                load_ps += state.load[TO_LOAD, i] if clock.has_adapters == 1 else 0
                state.load[TO_LOAD, i] = load_ps
    if n == 0:
        return NOBODY
    fields = state.load.shape[0]
    offered = state.offered[: fields * n].reshape((fields, n))
    for f in range(fields):
        for c in range(n):
            offered[f, c] = state.load[f, state.offered_of[c]]
    c = checked(state, r, pick(state, r, offered), n)
    return state.offered_of[c] if c >= 0 else c


@jit
def send(state, r, t):
    """Give request r to a replica; its KV, if it has some, stays where it is until it can move."""
    request = state.live[r]
    if is_left_alone(state, r):
        lists.leave_source(state, r, t)
        lost.forget(state, r)
    if request.n_items > 0 and encode.is_due(state, r):
        encode.begin(request)
    role = PREFILL
    if request.stage == ENCODING:
        role = ENCODE
    elif request.source >= 0 and request.stage == PLAIN:
        role = DECODE
    i = choose(state, r, role)
    if i == NOBODY:
        hold(state, r)
        return
    if i == WRONG:
        return
    if request.source < 0 and regions.are_several(state) and regions.set_out(state, i, r, t) == 1:
        return
    deliver(state, i, r, t)


@jit
def is_left_alone(state, r):
    """Whether the replica that holds the KV of r is the only one left to decode it: it has changed
    roles, or had given r away.  Nothing is fetched from where one is."""
    request = state.live[r]
    i, m = request.source, request.model
    if i < 0 or request.stage != PLAIN or not takes(state, i, DECODE, m):
        return False
    return not another_takes(state, i, DECODE, m)


@jit
def reach(state, r, t):
    """Request r is where it was sent; if that replica takes nobody now, it is sent elsewhere."""
    request = state.live[r]
    i = request.replica
    state.load[OUTSTANDING, i] -= 1
    if request.aborted == 1:
        lists.write_done(state, -1, r, t, ABORTED)
        lists.free(state, r)
    elif takes(state, i, ENCODE if request.stage == ENCODING else PREFILL, request.model):
        deliver(state, i, r, t)
    else:
        send(state, r, t)


@jit
def deliver(state, i, r, t):
    """Put request r into the queue of replica i."""
    request = state.live[r]
    replica = state.replicas[i]
    request.replica, request.pool = i, state.serves[replica.pool, request.model]
    if not holds(state, r):
        reject_routed(state, r, t)
        return
    fair = state.engines[replica.pool].fair
    if fair == 1:
        request.key = request.arrival_ps
    else:
        request.key = state.order(request, t, state.order_params)
    state.load[OUTSTANDING, i] += 1
    lists.enqueue(state, i, r)
    if replica.n_steps == 0:
        wake(state, i, t)
    elif replica.n_parked > 0 or (
        (fair == 1 or replica.queue == r)
        and replica.n_running < state.engines[replica.pool].max_seqs
    ):
        cut_leap(state, i, t)


@jit
def reject_routed(state, r, t):
    """The replica that was chosen for r could never hold it."""
    if state.live[r].source >= 0:
        lists.leave_source(state, r, t)
    state.load[OUTSTANDING, state.live[r].replica] += 1  # write_done takes it off
    lists.write_done(state, state.live[r].replica, r, t, REJECTED)
    lists.free(state, r)


@jit
def hold(state, r):
    """No replica takes request r now: it waits until one opens."""
    clock = state.clock[0]
    request = state.live[r]
    request.phase = HELD
    request.replica = -1
    request.next = -1
    if clock.held_tail >= 0:
        state.live[clock.held_tail].next = r
    else:
        clock.held_head = r
    clock.held_tail = r


@jit
def let_in(state, t):
    """A replica has opened: those that wait in front are sent again, first come first."""
    clock = state.clock[0]
    r = clock.held_head
    clock.held_head = clock.held_tail = -1
    while r >= 0 and clock.wrong_kind == 0:
        after = state.live[r].next
        if state.live[r].aborted == 1:
            lists.free(state, r)
        else:
            send(state, r, t)
        r = after
