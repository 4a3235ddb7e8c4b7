"""Adapters in the blocks of the KV cache: one pool for both (S-LoRA's unified paging).

An adapter that somebody runs with counts among the blocks in use.  One that nobody runs with is
idle, as a prefix block that nobody holds: it stays while memory lasts.  Which goes first when room
is needed, idle adapters or idle prefix blocks, is a setting; adapters that somebody waits for go
last.  Source: Sheng et al., "S-LoRA", MLSys 2024 (arXiv 2311.03285), section 5.1; its code drops
an adapter as soon as the batch has no use for it (slora/server/router/manager.py): AT_ONCE.

Legend: i replica, a adapter.
"""

from __future__ import annotations

from forerun.sim.core.jit import jit
from forerun.sim.core.rows_kept import LEAVES

AT_ONCE, PREFIXES_FIRST = LEAVES["at_once"], LEAVES["prefixes"]


@jit
def wants(state, i, a):
    """Blocks of replica i that come into use for adapter a when one more request runs with it."""
    slot, p = state.slots[i, a], state.replicas[i].pool
    if state.engines[p].paged == 0 or slot.n_using > 0:
        return 0
    return slot.blocks if slot.held == 1 else state.adapter_blocks[p, a]


@jit
def waited_for(state, i):
    """Blocks of idle adapters of replica i that somebody waits for."""
    total = 0
    for a in range(state.slots.shape[1]):
        slot = state.slots[i, a]
        if slot.held == 1 and slot.n_using == 0 and slot.n_waiting > 0:
            total += slot.blocks
    return total


@jit
def oldest(state, i, waited):
    """The idle adapter of replica i that was used longest ago, of those that somebody waits for
    (waited = 1) or nobody does; -1 when there is none."""
    chosen = -1
    for a in range(state.slots.shape[1]):
        slot = state.slots[i, a]
        if slot.held == 0 or slot.n_using > 0 or (slot.n_waiting > 0) != (waited == 1):
            continue
        if chosen < 0 or slot.used < state.slots[i, chosen].used:
            chosen = a
    return chosen


@jit
def next_out(state, i):
    """The adapter of replica i that goes next; -1 when a prefix block does, or nothing can."""
    prefixes = state.stores[i].n_idle > 0
    rule = state.engines[state.replicas[i].pool].leaves
    if state.fitted[i].idle_blocks == 0 or (prefixes and rule == PREFIXES_FIRST):
        return -1
    a = oldest(state, i, 0)
    return a if a >= 0 or prefixes else oldest(state, i, 1)


@jit
def drop(state, i, a):
    """Idle adapter a is no longer on replica i."""
    fitted, slot = state.fitted[i], state.slots[i, a]
    slot.held = 0
    fitted.n_held -= 1
    fitted.idle_blocks -= slot.blocks
    slot.blocks = 0
