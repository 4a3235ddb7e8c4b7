"""Transfers of KV between replicas: ports, shares of their bandwidth, who arrives next.

Each replica has a port out and a port in.  A transfer moves at the smaller of its two ports' equal
shares, after one latency; shares change when a transfer starts or ends on a port.  What a transfer
cannot use because its other port is the bottleneck is not given to others.

Legend: r slot of the request whose KV moves, t picoseconds.
"""

from __future__ import annotations

import math

from forerun.sim.core.jit import jit
from forerun.sim.core.order import NEVER


@jit
def start(state, r, out, into, n_bytes, t, way_ps):
    """Begin to move n_bytes for r from port `out` to port `into`, way_ps of network between."""
    clock = state.clock[0]
    request = state.live[r]
    for p in (out, into):
        state.ports[p].n += 1
        state.ports[p].bytes += n_bytes
        state.ports[p].n_moved += 1
    request.move_from, request.move_to = out, into
    request.to_move, request.rate = n_bytes, 0.0
    request.moved_ps = t + max(state.ports[out].latency_ps, state.ports[into].latency_ps) + way_ps
    state.moving[clock.n_moving] = r
    clock.n_moving += 1
    share(state, t)


@jit
def share(state, t):
    """Give every transfer its rate from t on, and find which ends first."""
    clock = state.clock[0]
    first = NEVER
    for m in range(clock.n_moving):
        request = state.live[state.moving[m]]
        out = state.ports[request.move_from]
        into = state.ports[request.move_to]
        rate = min(out.bytes_per_ps / out.n, into.bytes_per_ps / into.n)
        if rate != request.rate:
            if t > request.moved_ps:
                request.to_move -= request.rate * (t - request.moved_ps)
                request.moved_ps = t
            request.rate = rate
            left_ps = math.ceil(max(request.to_move, 0.0) / rate)
            request.move_end_ps = request.moved_ps + left_ps
        first = min(first, request.move_end_ps)
    clock.next_move_ps = first


@jit
def stop(state, m, t):
    """Take the transfer at place m of `moving` off its ports; the slot of its request."""
    clock = state.clock[0]
    r = state.moving[m]
    request = state.live[r]
    for p in (request.move_from, request.move_to):
        state.ports[p].n -= 1
        state.ports[p].free_ps = max(state.ports[p].free_ps, t)  # writes may wait for it
    clock.n_moving -= 1
    state.moving[m] = state.moving[clock.n_moving]
    share(state, t)
    return r


@jit
def end_first(state, t):
    """Take out the transfer that ends at t; of several, that of the earliest request."""
    clock = state.clock[0]
    chosen = -1
    for m in range(clock.n_moving):
        request = state.live[state.moving[m]]
        if request.move_end_ps <= t and (
            chosen < 0 or request.request < state.live[state.moving[chosen]].request
        ):
            chosen = m
    return stop(state, chosen, t)


@jit
def hidden(state, out, n_bytes, n_layers, began_ps, ended_ps):
    """Bytes that left through port `out` while later layers were computed.

    All layers but the last can, as far as the port was free since the prompt was begun.
    """
    port = state.ports[out]
    if port.n > 0:
        return 0.0
    free_ps = ended_ps - max(began_ps, port.free_ps)
    if free_ps <= 0:
        return 0.0
    return min(n_bytes * (n_layers - 1) / n_layers, port.bytes_per_ps * free_ps)
