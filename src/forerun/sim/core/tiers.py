"""Tiers below a replica's memory: what it drops goes down, and what they drop goes on down.

A tier is a store whose blocks nobody holds.  Writing is not waited for: a block can be found as
soon as it is handed down, while its bytes queue for the replica's way to the tier and, where it is
shared, for the tier itself; when more than the tier's buffer waits, the block is lost instead.
A block that comes up stays below, so it goes down again without being written.

Legend: i replica, s store, d depth of a tier, r slot, p port, key a prefix block's hash.
"""

from __future__ import annotations

from forerun.sim.core import store
from forerun.sim.core.jit import jit


@jit
def way(state, i, s):
    """The port by which KV comes to replica i from tier s; the one further leads to the tier."""
    if state.stores[s].network == 1:
        return 2 * i + 1
    depths = state.to_fetch.shape[1]
    return 2 * (state.stores.shape[0] + i * depths + state.stores[s].depth)


@jit
def way_down(state, i, s):
    """The port by which replica i writes to tier s."""
    if state.stores[s].network == 1:
        return 2 * i
    return way(state, i, s) + 1


@jit
def token_bytes(state, i):
    """KV of one token of replica i."""
    return state.engines[state.replicas[i].pool].kv_token_bytes


@jit
def write(state, i, s, n_bytes):
    """Queue n_bytes from replica i for tier s; False when too much waits already."""
    now = state.clock[0].now_ps
    first, second = way_down(state, i, s), 2 * s + 1
    for p in (first, second):
        port = state.ports[p]
        if (port.free_ps - now) * port.bytes_per_ps > state.stores[s].buffer_bytes:
            return False
    for p in (first, second):
        port = state.ports[p]
        port.free_ps = max(port.free_ps, now) + int(n_bytes / port.bytes_per_ps)
        port.bytes += n_bytes
        port.n_moved += 1
    return True


@jit
def go_down(state, i, s, key):
    """A block of store s is handed to the tiers below; what they drop for it is handed on."""
    s = state.stores[s].below
    while s >= 0:
        tier = state.stores[s]
        k = store.find(state, s, key)
        if k >= 0:
            store.touch(state, s, k)
            return
        n_bytes = float(tier.block_tokens * token_bytes(state, i))
        if tier.n_swapped >= tier.n_rows or not write(state, i, s, n_bytes):
            tier.n_refused += 1
            return
        full = tier.n_kept + tier.n_swapped >= tier.n_rows
        dropped = store.drop_first(state, s) if full else key
        store.let_go(state, s, store.add(state, s, key))
        tier.n_written += 1
        if not full:
            return
        key = dropped
        s = tier.below


@jit
def drop(state, i):
    """Replica i drops the idle block that goes first."""
    key = store.drop_first(state, i)
    if state.stores[i].below >= 0:
        go_down(state, i, i, key)


@jit
def write_through(state, i, key):
    """A block that replica i has computed goes to those tiers that want it at once."""
    s = i
    while s >= 0 and state.stores[s].through == 1:
        go_down(state, i, s, key)
        s = state.stores[s].below


@jit
def where(state, i, key):
    """The first tier below replica i that keeps a block; -1 when none does."""
    s = state.stores[i].below
    while s >= 0 and store.find(state, s, key) < 0:
        s = state.stores[s].below
    return s


@jit
def fall(state, i):
    """Replica i is gone: so is what it kept, and the tiers that are its own."""
    s = i
    while s >= 0:
        if s == i or state.stores[s].owner == i:
            while state.stores[s].n_idle > 0:
                store.drop_first(state, s)
        s = state.stores[s].below


# -- preempted requests ---------------------------------------------------------------------------


@jit
def swap_out(state, i, r):
    """What r has computed goes to the first tier, prefix blocks make room; True if it fits."""
    s = state.stores[i].below
    request = state.live[r]
    tier = state.stores[s]
    keeps = min(request.most_kept, state.engines[state.replicas[i].pool].keeps)
    n_tokens = min(request.n_computed, keeps)
    rows = (n_tokens + tier.block_tokens - 1) // tier.block_tokens
    if rows == 0 or tier.n_swapped + rows > tier.n_rows:
        return False
    if not write(state, i, s, float(n_tokens * token_bytes(state, i))):
        return False
    while tier.n_kept + tier.n_swapped + rows > tier.n_rows:
        go_down(state, i, s, store.drop_first(state, s))
    tier.n_swapped += rows
    request.swapped = rows
    return True


@jit
def forget_swapped(state, r):
    """The first tier gets back what it kept for r."""
    request = state.live[r]
    if request.swapped > 0:
        state.stores[state.stores[request.replica].below].n_swapped -= request.swapped
        request.swapped = 0
