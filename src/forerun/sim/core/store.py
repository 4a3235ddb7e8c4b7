"""Stores of prefix blocks: which blocks a replica keeps, found by hash, least recent out first.

A block that running requests hold stays.  One that nobody holds is idle: it is kept while memory
lasts, and the one that was let go first is dropped first.  Source of the rule: vLLM's block pool
(free blocks in a queue, a hit takes one out of it).

Legend: s store, k row of `kept`, key a prefix block's hash (equal hashes are equal prefixes).
"""

from __future__ import annotations

from forerun.sim.core.jit import jit

_MIX = 0x1E3779B97F4A7C15  # odd; the product wraps


@jit
def _home(key, mask):
    """The bucket at which the search for a key begins."""
    mixed = key * _MIX
    return (mixed ^ (mixed >> 32)) & mask


@jit
def find(state, s, key):
    """The row of a key in store s; -1 when it is not kept."""
    store = state.stores[s]
    if store.n_rows == 0:
        return -1
    at = _home(key, store.mask)
    while True:
        k = state.buckets[store.bucket_at + at]
        if k < 0 or state.kept[k].key == key:
            return k
        at = (at + 1) & store.mask


@jit
def _forget(state, s, k):
    """Take row k out of the buckets; later entries of its run move up (linear probing)."""
    store = state.stores[s]
    base = store.bucket_at
    hole = _home(state.kept[k].key, store.mask)
    while state.buckets[base + hole] != k:
        hole = (hole + 1) & store.mask
    at = hole
    while True:
        at = (at + 1) & store.mask
        other = state.buckets[base + at]
        if other < 0:
            break
        home = _home(state.kept[other].key, store.mask)
        # it may move up unless its home lies after the hole, going round
        if ((at - home) & store.mask) >= ((at - hole) & store.mask):
            state.buckets[base + hole] = other
            hole = at
    state.buckets[base + hole] = -1


@jit
def _unlink_idle(state, s, k):
    """Take row k out of the list of idle blocks."""
    store = state.stores[s]
    row = state.kept[k]
    if row.prev >= 0:
        state.kept[row.prev].next = row.next
    else:
        store.oldest = row.next
    if row.next >= 0:
        state.kept[row.next].prev = row.prev
    else:
        store.newest = row.prev
    store.n_idle -= 1


@jit
def drop_oldest(state, s):
    """Drop the idle block that was let go first."""
    store = state.stores[s]
    k = store.oldest
    _unlink_idle(state, s, k)
    _forget(state, s, k)
    state.kept[k].next = store.spare
    store.spare = k
    store.n_kept -= 1
    store.n_evicted += 1


@jit
def add(state, s, key):
    """Keep a new block, held once; its row.  The caller knows that it is not kept yet."""
    store = state.stores[s]
    if store.spare < 0:
        drop_oldest(state, s)
    k = store.spare
    row = state.kept[k]
    store.spare = row.next
    row.key, row.holders = key, 1
    at = _home(key, store.mask)
    while state.buckets[store.bucket_at + at] >= 0:
        at = (at + 1) & store.mask
    state.buckets[store.bucket_at + at] = k
    store.n_kept += 1
    return k


@jit
def hold(state, s, k):
    """One more request holds block k; 1 when it was idle."""
    row = state.kept[k]
    row.holders += 1
    if row.holders > 1:
        return 0
    _unlink_idle(state, s, k)
    return 1


@jit
def let_go(state, s, k):
    """One request less holds block k; 1 when it is idle now."""
    store = state.stores[s]
    row = state.kept[k]
    row.holders -= 1
    if row.holders > 0:
        return 0
    row.prev, row.next = store.newest, -1
    if store.newest >= 0:
        state.kept[store.newest].next = k
    else:
        store.oldest = k
    store.newest = k
    store.n_idle += 1
    return 1
