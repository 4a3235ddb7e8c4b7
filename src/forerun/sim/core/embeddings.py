"""Embeddings that are kept for items that come again: found by the item's name, the one used
longest ago makes room.

A cache (`albums`) belongs to one replica, or to the fleet (`shared`).  It holds copies: whoever
finds an embedding takes it, and what a request has taken stays its own.  A replica's cache says
what is being computed there, so that one step computes an item once; the fleet's says what has
been computed.  Reading takes time over a link, one request after another.

Legend: a cache, k item by its number, t picoseconds.
"""

from __future__ import annotations

import math

from forerun.sim.core.jit import jit


@jit
def keeps(state, a, k):
    """Whether cache a has the embedding of item k; nobody knows an item without a name again."""
    return k >= 0 and state.pictures[a, k].n_bytes > 0


@jit
def _unlink(state, a, k):
    album, one = state.albums[a], state.pictures[a, k]
    if one.prev >= 0:
        state.pictures[a, one.prev].next = one.next
    else:
        album.oldest = one.next
    if one.next >= 0:
        state.pictures[a, one.next].prev = one.prev
    else:
        album.newest = one.prev


@jit
def _append(state, a, k):
    album, one = state.albums[a], state.pictures[a, k]
    one.prev, one.next = album.newest, -1
    if album.newest >= 0:
        state.pictures[a, album.newest].next = k
    else:
        album.oldest = k
    album.newest = k


@jit
def use(state, a, k):
    """Item k, which cache a keeps, has been asked for."""
    _unlink(state, a, k)
    _append(state, a, k)


@jit
def drop(state, a):
    """Drop the embedding that was used longest ago."""
    album = state.albums[a]
    k = album.oldest
    _unlink(state, a, k)
    album.n_bytes -= state.pictures[a, k].n_bytes
    album.n -= 1
    state.pictures[a, k].n_bytes = 0


@jit
def put(state, a, k, n_bytes):
    """Keep the embedding of item k; one that is larger than the cache is not kept."""
    album = state.albums[a]
    if k < 0 or n_bytes > album.most_bytes:
        return
    if keeps(state, a, k):
        use(state, a, k)
        return
    while album.n_bytes + n_bytes > album.most_bytes:
        drop(state, a)
        album.n_evicted += 1
    state.pictures[a, k].n_bytes = n_bytes
    _append(state, a, k)
    album.n += 1
    album.n_bytes += n_bytes
    album.peak_bytes = max(album.peak_bytes, album.n_bytes)


@jit
def read_ps(state, a, n_bytes, t):
    """How long it takes, from t on, until n_bytes of cache a are where they are needed."""
    album = state.albums[a]
    if album.bytes_per_ps == 0.0 or n_bytes == 0:
        return 0  # they are there
    album.free_ps = max(t, album.free_ps) + math.ceil(n_bytes / album.bytes_per_ps)
    return album.free_ps + album.latency_ps - t


@jit
def fall(state, i):
    """Replica i is gone, and its cache with it; one of the fleet stays."""
    a = state.replicas[i].album
    if a < 0 or state.albums[a].shared == 1:
        return
    while state.albums[a].n > 0:
        drop(state, a)
    state.albums[a].free_ps = 0
