"""Paged KV blocks: how many the decoders take, and who loses theirs.

A decoder with n computed tokens needs a new block for its next one when n is a multiple of the
block size.  Since all decoders of a replica advance together, it is enough to count them by
(n - decode steps) modulo the block size: residue[x] of them need a block at every decode step s
with (x + s) % block_tokens == 0.

Legend: i replica, r slot, b tokens a block.
"""

from __future__ import annotations

from forerun.sim.core import paging, tiers
from forerun.sim.core.clock import steps_to_reach
from forerun.sim.core.jit import jit
from forerun.sim.core.rows_fleet import RESERVE
from forerun.sim.core.signatures import KV_BLOCKS
from forerun.sim.core.wake import due

FULL = RESERVE["full"]


@jit
def blocks_for(n_tokens, b):
    """Blocks that hold n_tokens."""
    return (n_tokens + b - 1) // b


@jit
def kept(state, i, r):
    """The most tokens whose KV request r has in the memory of replica i after a step."""
    return min(state.live[r].most_kept, state.engines[state.replicas[i].pool].keeps)


@jit
def decode_blocks(state, i, k):
    """Blocks that the decoders of i take in its next k decode steps."""
    replica = state.replicas[i]
    engine = state.engines[replica.pool]
    if engine.reserve == FULL or replica.n_taking == 0:
        return 0
    b = engine.block_tokens
    rounds = k // b if k >= b else 0  # leaps are short where much happens: no division for them
    total = rounds * replica.n_taking
    x = (-replica.decoded) % b
    for _ in range(k - rounds * b):
        total += state.residue[i, x]
        x = x - 1 if x > 0 else b - 1
    return total


@jit
def steps_until_full(state, i, k, free, chunk_end, chunk):
    """The most steps, at most k, that fit into `free` blocks; arguments as of `need`.

    The first step is known to fit.
    """
    b = state.engines[state.replicas[i].pool].block_tokens
    if state.replicas[i].n_taking * (k // b + 1) + chunk * k // b + 2 <= free:
        return k
    low = 1
    high = k
    while low < high:
        middle = (low + high + 1) // 2
        if need(state, i, middle, chunk_end, chunk) <= free:
            low = middle
        else:
            high = middle - 1
    return low


@jit
def need(state, i, k, chunk_end, chunk):
    """Blocks that k steps take, decoders and one growing chunk together.

    chunk_end : tokens computed after the chunk's first step, whose blocks are taken already;
    chunk : tokens that each further step adds, 0 when nothing grows.
    """
    total = decode_blocks(state, i, k)
    if chunk > 0:
        b = state.engines[state.replicas[i].pool].block_tokens
        total += blocks_for(chunk_end + (k - 1) * chunk, b) - blocks_for(chunk_end, b)
    return total


@jit
def take(state, i, n):
    """Account for n more blocks of replica i (n may be negative); idle prefixes make room."""
    replica = state.replicas[i]
    replica.n_blocks += n
    in_use = replica.n_blocks
    m = state.replicas[i].memory
    if m != i:  # whose lane may be in the midst of a leap
        state.replicas[m].n_blocks += n
        state.lanes[i].touched = 1
        in_use = replica.n_blocks = blocks_now(state, m)
    state.load[KV_BLOCKS, i] = in_use
    if n > 0 and state.stores[m].n_idle + state.fitted[m].idle_blocks > 0:
        make_room_for(state, m, in_use)
    if in_use > state.totals[m].peak_blocks:
        state.totals[m].peak_blocks = in_use


@jit
def make_room_for(state, i, in_use):
    """Drop idle prefix blocks and adapters of replica i until they and `in_use` blocks fit its
    memory."""
    most = state.engines[state.replicas[i].pool].n_blocks
    while in_use + idle_blocks(state, i) > most:
        a = paging.next_out(state, i)
        if a >= 0:
            paging.drop(state, i, a)
            state.fitted[i].n_evicted += 1
        elif state.stores[i].n_idle > 0:
            tiers.drop(state, i)
        else:
            return


@jit
def idle_blocks(state, i):
    """Blocks of replica i that nobody uses, and that hold something."""
    each = state.clock[0].hash_tokens // state.engines[state.replicas[i].pool].block_tokens
    return state.stores[i].n_idle * each + state.fitted[i].idle_blocks


@jit
def blocks_now(state, i):
    """Blocks in use at clock.now_ps in the memory of replica i, inside a leap too."""
    i = state.replicas[i].memory
    replica = state.replicas[i]
    if replica.n_steps == 0:
        return replica.n_blocks
    # a step that ends just now has not been replaced by the next one yet, unless that is `due`
    elapsed = due(state, i, state.clock[0].now_ps) - replica.start_ps
    started = steps_to_reach(replica.first_ps, replica.slope_ps, replica.n_steps, elapsed)
    total = replica.n_blocks
    if replica.in_step > 0:
        total += decode_blocks(state, i, started) + replica.lookahead
    if replica.chunk > 0 and state.engines[replica.pool].reserve == 0:
        b = state.engines[replica.pool].block_tokens
        first = replica.past + replica.chunk
        total += blocks_for(first + (started - 1) * replica.chunk, b) - blocks_for(first, b)
    return total


@jit
def look(state):
    """Put the blocks that each replica has in use at clock.now_ps into `offered_of`.

    Not into `load`: a router that is content with the last event's must not see that one looked.
    """
    for i in range(state.replicas.shape[0]):
        state.offered_of[i] = blocks_now(state, i)
