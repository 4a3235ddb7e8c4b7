"""What a caller orders: a replica opens, closes, fails, changes pools, gives requests away, or has
a worse link.

Commands stand in `state.commands` by time.  Failures happen in the midst of a step; the others wait
for the replica's next step boundary where they touch what a step uses.

Legend: i replica, j another one, p pool, r slot, k steps, t picoseconds.
"""

from __future__ import annotations

from forerun.sim.core import (
    adapters,
    apart,
    decoders,
    embeddings,
    failures,
    fair,
    fetch,
    front,
    nets,
    paging,
    prefix,
    queue,
    tiers,
    transfer,
    turns,
)
from forerun.sim.core import live as lists
from forerun.sim.core.jit import jit
from forerun.sim.core.kv import FULL, blocks_for, blocks_now, kept, make_room_for, take
from forerun.sim.core.order import NEVER
from forerun.sim.core.rows_fleet import ROLE
from forerun.sim.core.rows_request import DECODING
from forerun.sim.core.signatures import OUTSTANDING
from forerun.sim.core.state import VERBS
from forerun.sim.core.step_end import let_go
from forerun.sim.core.wake import cut_leap, wake

BOTH, DECODE = ROLE["both"], ROLE["decode"]
OPEN, CLOSE, FAIL = VERBS["open"], VERBS["close"], VERBS["fail"]
SWITCH, MOVE, LINK, SET = VERBS["switch"], VERBS["move"], VERBS["link"], VERBS["set"]
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
        if command.value > 0:
            tiers.fall(state, i)
            adapters.fall(state, i)
            nets.fall(state, i)
            embeddings.fall(state, i)
            turns.begin(state, i, command.value - 1)
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
        failures.fail(state, i, t, command.value)
    elif command.verb == SWITCH or command.verb == SET:
        if command.verb == SET:
            replica.next_pool = turns.row_of(state, command.value, replica.next_pool, command.value)
        else:
            replica.next_pool = command.value
            state.loads[i].chosen_ps = t
        replica.n_orders += 1
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
    if replica.n_parked > 0 and not turns.drains(state, i):
        turns.ask(state, i, t)
    replica.n_orders = 0
    take_on(state, i, t)
    if replica.n_parked > 0 and t >= replica.free_ps and turns.has_nothing(state, i):
        # it was told to run a model that nobody here asks for: no other event would have it asked
        turns.ask(state, i, t)
        take_on(state, i, t)
    m = state.engines[replica.pool].model
    n = replica.n_to_move if front.another_takes(state, i, DECODE, m) else 0
    replica.n_to_move = 0
    while n > 0 and replica.n_decode > 0 and state.clock[0].wrong_kind == 0:
        r = last_choice(state, i)
        n = n - 1 if move(state, i, r, t) else 0


@jit
def take_on(state, i, t):
    """Replica i becomes one of the pool it is to be of; with another model, once it is empty."""
    replica = state.replicas[i]
    p = replica.next_pool
    if turns.drains(state, i) and not turns.is_empty(state, i):
        replica.n_orders = 1  # when it is empty; until then its model with that row's costs
        p = turns.row_of(state, p, replica.pool, replica.pool)
        if state.engines[p].role != state.engines[replica.pool].role:
            p = replica.pool
    if p != replica.pool:
        change_pool(state, i, p, t)


@jit
def move(state, i, r, t):
    """Decoder r of replica i goes on where the `place` policy says, if its KV has room there now.

    The blocks are taken there before it leaves, so that no two replicas wait for each other's; 1
    when it went.  Source of the handshake: Llumnix (Sun et al., OSDI 2024).
    """
    request = state.live[r]
    request.source = i
    state.clock[0].moves = 1
    j = front.choose(state, r, DECODE)
    state.clock[0].moves = 0
    request.source = -1
    if j < 0:
        return False
    p = state.replicas[j].pool
    known = request.n_computed + state.replicas[i].decoded - request.joined
    rest = request.isl + request.osl - known
    if not front.fits(state, p, known, rest, request.most_kept):
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
    if request.adapter >= 0:
        if not adapters.may_start(state, j, request.adapter, t):
            return False
        spare += paging.wants(state, j, request.adapter)
    if blocks_now(state, j) + spare + blocks - held > engine.n_blocks - engine.watermark:
        return False
    decoders.leave_decoders(state, i, r)
    let_go(state, i, r, t)
    request.replica, request.pool = j, p
    request.key = state.order(request, t, state.order_params)
    if engine.fair == 1:
        request.key = request.arrival_ps
    state.load[OUTSTANDING, j] += 1
    if here > 0:
        prefix.hold_leading(state, j, r, here)
    if request.adapter >= 0:
        adapters.take(state, j, request.adapter, t)
    request.n_blocks = blocks
    take(state, j, blocks - shared)
    prefix.settle(state, j)
    fetch.pull(state, j, r, footprint - shared * engine.block_tokens, t)
    if state.replicas[j].n_steps > 0:
        cut_leap(state, j, t)  # which counted on these blocks
    return True


@jit
def change_pool(state, i, p, t):
    """Replica i goes on with the costs, policies, role and model of row p."""
    replica = state.replicas[i]
    if state.clock[0].fair == 1 and replica.n_apart > 0:
        apart.queue_all_again(state, i, t)
    if state.engines[replica.pool].fair == 1:
        fair.gather(state, i)
    if state.engines[p].model != state.engines[replica.pool].model:
        turns.take_up(state, i, p, t)
    if state.engines[p].share != state.engines[replica.pool].share:
        replica.free_ps = t + state.engines[p].switch_ps
    if state.engines[p].role != state.engines[replica.pool].role:
        state.clock[0].roles_change = 1
    turns.put_on(state, i, p)
    if state.engines[p].fair == 1:
        queue_by_tenant(state, i)
    make_room_for(state, i, replica.n_blocks)
    failures.send_parked(state, i, 0, t, 0)
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
