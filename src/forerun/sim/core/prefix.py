"""A request and the prefix blocks its replica keeps: which it finds, holds, adds and lets go.

A prefix block is `hash_tokens` tokens, a whole number of KV blocks.  Requests that share one hold
the same memory.  A block becomes findable when its last token has been computed; a request that
computed what another one has added meanwhile gives its own copy up.

Legend: i replica, r slot, k row of `kept`.
"""

from __future__ import annotations

from forerun.sim.core import store, tiers
from forerun.sim.core.jit import jit
from forerun.sim.core.kv import blocks_now, make_room_for, take


@jit
def blocks_a_hash(state, i):
    """KV blocks of a prefix block; 0 when prefixes are not kept."""
    return state.clock[0].hash_tokens // state.engines[state.replicas[i].pool].block_tokens


@jit
def leading(state, i, r):
    """How many of the first prefix blocks of r replica i keeps; one token is always left over."""
    tokens = state.clock[0].hash_tokens
    i = state.replicas[i].memory
    if tokens == 0 or state.stores[i].n_rows == 0:
        return 0
    request = state.live[r]
    if state.engines[state.replicas[i].pool].model != request.model:
        return 0  # the same blocks, of another model
    most = min(request.n_hash, (request.n_known - 1) // tokens)
    n = 0
    while n < most and store.find(state, i, state.hashes[request.hash_at + n]) >= 0:
        n += 1
    return n


@jit
def idle_among(state, i, r, n):
    """How many of the first n prefix blocks of r nobody holds."""
    i = state.replicas[i].memory
    request = state.live[r]
    idle = 0
    for c in range(n):
        k = store.find(state, i, state.hashes[request.hash_at + c])
        if state.kept[k].holders == 0:
            idle += 1
    return idle


@jit
def hold_leading(state, i, r, n):
    """r holds its first n prefix blocks, which replica i keeps."""
    request, m = state.live[r], state.replicas[i].memory
    idle = 0
    for c in range(n):
        k = store.find(state, m, state.hashes[request.hash_at + c])
        idle += store.hold(state, m, k)
    request.n_shared = n
    if idle > 0:
        take(state, i, idle * blocks_a_hash(state, i))


@jit
def publish(state, i, r):
    """The whole prefix blocks that r has computed can be found from now on."""
    tokens = state.clock[0].hash_tokens
    if tokens == 0:
        return
    if state.engines[state.replicas[i].pool].anywhere == 1:
        hand_down(state, i, r)
    m = state.replicas[i].memory
    if state.stores[m].n_rows == 0:
        return
    request = state.live[r]
    whole = min(request.n_hash, request.n_computed // tokens)
    each = blocks_a_hash(state, i)
    for c in range(request.n_shared, whole):
        key = state.hashes[request.hash_at + c]
        k = store.find(state, m, key)
        if k < 0:
            store.add(state, m, key)
            tiers.write_through(state, m, key)
        elif store.hold(state, m, k) == 0:
            take(state, i, -each)  # the other's copy stays
    request.n_shared = max(request.n_shared, whole)


@jit
def hand_down(state, i, r):
    """When all of r's prompt has been computed, tiers get the blocks that they do not keep."""
    request = state.live[r]
    if request.n_computed == request.n_known and state.stores[i].below >= 0:
        for c in range(min(request.n_hash, request.n_computed // state.clock[0].hash_tokens)):
            tiers.go_down(state, i, i, state.hashes[request.hash_at + c])


@jit
def give_back(state, i, r, n_blocks, n_shared):
    """Replica i gets n_blocks from r, of which n_shared prefix blocks may stay.

    The last block is let go first, so that a prefix is dropped from its end.
    """
    request = state.live[r]
    each = blocks_a_hash(state, i) if n_shared > 0 else 0
    freed = n_blocks - n_shared * each
    m = state.replicas[i].memory
    for c in range(n_shared - 1, -1, -1):
        k = store.find(state, m, state.hashes[request.hash_at + c])
        if store.let_go(state, m, k) == 1:
            freed += each
    take(state, i, -freed)


@jit
def settle(state, i):
    """Account for the steps begun by clock.now_ps: their peak, the idle blocks they left no room.

    Whoever looks at a store or gives blocks back between boundaries asks for this first, so that a
    leap drops what its steps would have dropped.
    """
    i = state.replicas[i].memory
    in_use = blocks_now(state, i)
    state.totals[i].peak_blocks = max(state.totals[i].peak_blocks, in_use)
    if state.stores[i].n_idle + state.fitted[i].idle_blocks > 0:
        make_room_for(state, i, in_use)


@jit
def tokens_kept(state, i, r):
    """Tokens of r's prompt that replica i keeps at clock.now_ps."""
    settle(state, i)
    return leading(state, i, r) * state.clock[0].hash_tokens
