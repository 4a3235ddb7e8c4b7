"""Stores of prefix blocks: which blocks a replica or a tier keeps, found by hash, which goes first.

A block that running requests hold stays.  One that nobody holds is idle: it is kept while memory
lasts.  Which idle block is dropped first is the store's rule: the one let go (or used) longest ago
(lru: vLLM's block pool, free blocks in a queue, a hit takes one out of it), the one added longest
ago (fifo), the one used least often, of equals that used longest ago (lfu).  Lru is a list; the
others are a heap in `idle`.

Legend: s store, k row of `kept`, key a prefix block's hash (equal hashes are equal prefixes).
"""

from __future__ import annotations

from forerun.sim.core.jit import jit
from forerun.sim.core.rng import scattered
from forerun.sim.core.rows_kept import RULE

LRU, FIFO, LFU = RULE["lru"], RULE["fifo"], RULE["lfu"]


@jit
def _home(key, mask):
    """The bucket at which the search for a key begins."""
    return scattered(key) & mask


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


# -- idle blocks ----------------------------------------------------------------------------------


@jit
def _settle_idle(state, s, at):
    """Move the entry at place `at` of the heap of idle blocks to where it belongs."""
    store = state.stores[s]
    base, by_uses = store.at, store.rule == LFU
    k = state.idle[base + at]
    row = state.kept[k]
    uses = row.uses if by_uses else 0
    while at > 0:
        other = state.idle[base + (at - 1) // 2]
        theirs = state.kept[other].uses if by_uses else 0
        if theirs < uses or (theirs == uses and state.kept[other].tick < row.tick):
            break
        state.idle[base + at], state.kept[other].prev = other, at
        at = (at - 1) // 2
    while 2 * at + 1 < store.n_idle:
        c = 2 * at + 1
        other = state.idle[base + c]
        theirs = state.kept[other].uses if by_uses else 0
        if c + 1 < store.n_idle:
            second = state.idle[base + c + 1]
            its = state.kept[second].uses if by_uses else 0
            if its < theirs or (its == theirs and state.kept[second].tick < state.kept[other].tick):
                c, other, theirs = c + 1, second, its
        if uses < theirs or (uses == theirs and row.tick < state.kept[other].tick):
            break
        state.idle[base + at], state.kept[other].prev = other, at
        at = c
    state.idle[base + at], row.prev = k, at


@jit
def _join_idle(state, s, k):
    """Nobody holds block k any more."""
    store = state.stores[s]
    row = state.kept[k]
    store.n_idle += 1
    if store.rule != LRU:
        state.idle[store.at + store.n_idle - 1] = k
        _settle_idle(state, s, store.n_idle - 1)
        return
    row.prev, row.next = store.newest, -1
    if store.newest >= 0:
        state.kept[store.newest].next = k
    else:
        store.oldest = k
    store.newest = k


@jit
def _leave_idle(state, s, k):
    """Take row k out of the idle blocks."""
    store = state.stores[s]
    row = state.kept[k]
    store.n_idle -= 1
    if store.rule != LRU:
        at, last = row.prev, state.idle[store.at + store.n_idle]
        if last != k:
            state.idle[store.at + at], state.kept[last].prev = last, at
            _settle_idle(state, s, at)
        return
    if row.prev >= 0:
        state.kept[row.prev].next = row.next
    else:
        store.oldest = row.next
    if row.next >= 0:
        state.kept[row.next].prev = row.prev
    else:
        store.newest = row.prev


@jit
def _use(state, s, k):
    """Note that block k was asked for."""
    store = state.stores[s]
    state.kept[k].uses += 1
    if store.rule == LFU:
        store.ticks += 1
        state.kept[k].tick = store.ticks


# -- what requests and tiers do -------------------------------------------------------------------


@jit
def drop_first(state, s):
    """Drop the idle block that goes first; its key."""
    store = state.stores[s]
    k = store.oldest if store.rule == LRU else state.idle[store.at]
    _leave_idle(state, s, k)
    _forget(state, s, k)
    state.kept[k].next = store.spare
    store.spare = k
    store.n_kept -= 1
    store.n_evicted += 1
    return state.kept[k].key


@jit
def add(state, s, key):
    """Keep a new block, held once.  The caller knows that it is not kept yet."""
    store = state.stores[s]
    if store.spare < 0:
        drop_first(state, s)
    k = store.spare
    row = state.kept[k]
    store.spare = row.next
    store.ticks += 1
    row.key, row.holders, row.uses, row.tick = key, 1, 1, store.ticks
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
        _use(state, s, k)
        return 0
    _leave_idle(state, s, k)
    _use(state, s, k)
    return 1


@jit
def let_go(state, s, k):
    """One request less holds block k; 1 when it is idle now."""
    row = state.kept[k]
    row.holders -= 1
    if row.holders > 0:
        return 0
    _join_idle(state, s, k)
    return 1


@jit
def touch(state, s, k):
    """An idle block is used without being held: it goes later than it would have."""
    if state.stores[s].rule == FIFO:
        return
    _leave_idle(state, s, k)
    _use(state, s, k)
    _join_idle(state, s, k)
