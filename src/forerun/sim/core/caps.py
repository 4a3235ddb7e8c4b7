"""How many cached tokens a decoder keeps and reads, and after which of its steps that changes.

Until it has as many as it keeps, each step adds one and may take a block; until it has as many as
it reads, each step reads one more; from then on it picks them out of what it keeps.

Legend: i replica, r slot of `live`.
"""

from __future__ import annotations

from forerun.sim.core import heaps
from forerun.sim.core.jit import jit


@jit
def pick(state, i, request, cached, sign):
    """A decoder that has `cached` tokens begins (sign 1) or ceases (-1) to pick what it reads."""
    replica = state.replicas[i]
    if request.picks == 0:
        return
    replica.n_picking += sign
    replica.scored += sign * min(cached, request.keeps)
    if cached < request.keeps:
        replica.n_scored += sign


@jit
def await_change(state, i, r, n, after):
    """Put r into the heap of n entries: for its last step, or a sooner one, later than step
    `after`, with which it has as many cached tokens as it keeps, or reads."""
    request = state.live[r]
    joined = request.joined
    step = joined + request.osl - request.n_out
    for most in (request.keeps, request.reads):
        full = joined + most - request.n_computed
        if full > after:
            step = min(step, full)
    heaps.add_finish(state.last_step[i], state.last_member[i], state.live, n, r, step)


@jit
def await_next_change(state, i, r, after):
    """Decoder r goes on; it gets its new place in the heap."""
    n = state.replicas[i].n_decode
    heaps.drop_finish(state.last_step[i], state.last_member[i], state.live, n, r)
    await_change(state, i, r, n - 1, after)


@jit
def stop_growing(state, i, r):
    """Note if decoder r has with its last step reached what it keeps, or reads."""
    replica = state.replicas[i]
    request = state.live[r]
    cached = request.n_computed + replica.decoded - request.joined
    if cached == request.keeps:
        b = state.engines[replica.pool].block_tokens
        state.residue[i, (request.n_computed - request.joined) % b] -= 1
        replica.n_taking -= 1
        replica.n_scored -= request.picks
    if cached == request.reads:
        replica.n_reading -= 1
        pick(state, i, request, cached, 1)


@jit
def count(state, i, request, sign):
    """Sums over decoders with this one (sign 1) or without it (-1), between the end of its step and
    `stop_growing`."""
    replica = state.replicas[i]
    grown = request.n_computed - request.joined
    cached = grown + replica.decoded
    replica.ctx += sign * min(cached, request.reads)
    if cached <= request.keeps:
        state.residue[i, grown % state.engines[replica.pool].block_tokens] += sign
        replica.n_taking += sign
    if cached <= request.reads:
        replica.n_reading += sign
    elif request.picks == 1:
        replica.n_picking += sign
        replica.scored += sign * min(cached, request.keeps)
        if cached <= request.keeps:
            replica.n_scored += sign
