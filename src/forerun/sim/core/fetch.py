"""KV that comes from elsewhere: a request waits for it with its blocks taken, then joins.

Legend: i replica, r slot, t picoseconds.
"""

from __future__ import annotations

from forerun.sim.core import live as lists
from forerun.sim.core import prefix, transfer
from forerun.sim.core.jit import jit
from forerun.sim.core.state import FETCHING, READY
from forerun.sim.core.wake import wake


@jit
def pull(state, i, r, n_tokens, t):
    """Move n_tokens of KV of r from its source to replica i, where it has its blocks."""
    request = state.live[r]
    source = request.source
    engine = state.engines[state.replicas[source].pool]
    n_bytes = float(n_tokens * engine.kv_token_bytes)
    state.totals[source].moved_bytes += n_tokens * engine.kv_token_bytes
    out = 2 * source
    if engine.streamed == 1 and request.n_out == 1:
        began, ended = request.scheduled_ps, request.first_token_ps
        n_bytes -= transfer.hidden(state, out, n_bytes, engine.n_layers, began, ended)
    request.phase = FETCHING
    state.replicas[i].n_away += 1
    transfer.start(state, r, out, 2 * i + 1, n_bytes, t)


@jit
def arrive(state, t):
    """The KV of a request is where it goes on: its source is free of it, it may take a seat."""
    r = transfer.end_first(state, t)
    request = state.live[r]
    request.away_ps += t - request.left_ps
    i = request.replica
    replica = state.replicas[i]
    lists.leave_source(state, r, t)
    replica.n_away -= 1
    request.phase = READY
    request.chunk_next = -1
    if replica.ready_tail >= 0:
        state.live[replica.ready_tail].chunk_next = r
    else:
        replica.ready_head = r
    replica.ready_tail = r
    prefix.settle(state, i)
    prefix.publish(state, i, r)
    wake(state, i, t)
