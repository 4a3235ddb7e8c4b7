"""Replicas in several places: how long a request is on its way to one, and its answer back.

The front decides where a request goes when it is sent; it reaches the replica one way later, and
its client sees the first token and the end one way after they were there.

Legend: i replica, r slot, g region, t picoseconds.
"""

from __future__ import annotations

from forerun.sim.core.arrivals import put_on_way
from forerun.sim.core.jit import jit
from forerun.sim.core.rows_request import ON_WAY
from forerun.sim.core.signatures import OUTSTANDING, WAY_PS


@jit
def are_several(state):
    """Whether some replicas are farther from a client than others."""
    return state.way_ps.shape[0] > 1


@jit
def of_replica(state, i):
    """The region that replica i is in."""
    return state.engines[state.replicas[i].pool].region


@jit
def way(state, g, i):
    """Picoseconds between region g and replica i."""
    return state.way_ps[g, of_replica(state, i)]


@jit
def look(state, r):
    """Fill in for the router how far every replica is from the client of r, or from its KV."""
    g = state.live[r].region
    if state.live[r].source >= 0:
        g = of_replica(state, state.live[r].source)
    for i in range(state.replicas.shape[0]):
        state.load[WAY_PS, i] = way(state, g, i)


@jit
def set_out(state, i, r, t):
    """Send r on its way to replica i; 0 when it is there at once."""
    request = state.live[r]
    span = way(state, request.region, i)
    if span == 0:
        return 0
    request.replica, request.phase = i, ON_WAY
    state.load[OUTSTANDING, i] += 1
    put_on_way(state, r, t + span)
    return 1
