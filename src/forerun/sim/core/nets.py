"""ControlNets that come and go: a replica keeps some, others come from its host or from beyond.

Their slots are those of adapters, in the columns behind them: the same host cache, the same link,
on which one comes after another.  Settings are those of the row of `engines` that prices a
ControlNet, counts stand in `netted`.  A request has all that it uses at once or none, from its
admission on, when its blocks are taken; where some have to come it joins the steps when the last of
them is there, while others go on, or (`in_step`) the next step waits for them.  What requests in
the queue use is fetched ahead where that costs nobody else's.

Legend: i replica, r slot of a request, p row of settings, a column of a ControlNet, t picoseconds.
"""

from __future__ import annotations

from forerun.sim.core import adapters
from forerun.sim.core.jit import jit
from forerun.sim.core.wake import cut_leap


@jit
def row(state, i):
    """The row of `engines` with the settings of replica i's ControlNets; -1: all are there."""
    p = state.engines[state.replicas[i].pool].branch_row
    return p if p >= 0 and state.engines[p].n_slots > 0 else -1


@jit
def has(state, r, a):
    """Whether r uses the ControlNet in column a."""
    k = a - state.clock[0].first_net
    return (state.controls[state.live[r].request] >> k) & 1 == 1


@jit
def want(state, i, r, n):
    """n (1 or -1) more requests in the queue of replica i use what r does."""
    if row(state, i) < 0:
        return
    for a in range(state.clock[0].first_net, state.slots.shape[1]):
        if has(state, r, a):
            state.slots[i, a].n_waiting += n


@jit
def come(state, i, r, t):
    """r is in the queue of replica i; what it uses is fetched if nobody else wants the slot."""
    p, netted = row(state, i), state.netted[i]
    if p < 0:
        return
    want(state, i, r, 1)
    for a in range(state.clock[0].first_net, state.slots.shape[1]):
        if not has(state, r, a):
            continue
        slot = state.slots[i, a]
        netted.n_asked += 1
        if slot.held == 1 and slot.ready_ps <= t:
            netted.n_there += 1
        if slot.held == 0 and state.engines[p].in_step == 0:
            old = place_for(state, i, p, r, t, 1)
            if old > -2:
                load(state, i, p, a, old, t)
                if state.replicas[i].n_steps > 0 and slot.ready_ps > t:
                    cut_leap(state, i, slot.ready_ps)


@jit
def place_for(state, i, p, r, t, ahead):
    """The column whose slot on replica i a ControlNet of r can have; -1: one is free, -2: none can.

    Nobody runs with it, and r does not use it; what others wait for goes last, or (ahead = 1) not.
    """
    if state.netted[i].n_held < state.engines[p].n_slots:
        return -1
    chosen = -2
    for a in range(state.clock[0].first_net, state.slots.shape[1]):
        if not idle(state, i, r, a, t):
            continue
        slot = state.slots[i, a]
        waited = min(slot.n_waiting, 1)
        if ahead == 1 and waited == 1:
            continue
        if chosen >= 0:
            best = state.slots[i, chosen]
            if (waited, slot.used) >= (min(best.n_waiting, 1), best.used):
                continue
        chosen = a
    return chosen


@jit
def idle(state, i, r, a, t):
    """Whether the ControlNet in column a is on replica i, and could make room for one of r's."""
    slot = state.slots[i, a]
    return slot.held == 1 and slot.n_using == 0 and slot.ready_ps <= t and not has(state, r, a)


@jit
def load(state, i, p, a, old, t):
    """The ControlNet in column a comes to replica i, in the slot of column old if that is one."""
    if old >= 0:
        state.slots[i, old].held = 0
        state.netted[i].n_held -= 1
        state.netted[i].n_evicted += 1
    adapters.load(state, i, p, state.netted[i], a, t)


@jit
def can_take(state, i, r, t):
    """Whether there is room on replica i for all ControlNets of r at once."""
    p = row(state, i)
    if p < 0:
        return True
    room = state.engines[p].n_slots - state.netted[i].n_held
    for a in range(state.clock[0].first_net, state.slots.shape[1]):
        if idle(state, i, r, a, t):
            room += 1
        elif has(state, r, a) and state.slots[i, a].held == 0:
            room -= 1
    return room >= 0


@jit
def until_there(state, i, p, a, t):
    """Picoseconds from t until the ControlNet in column a is on replica i, if it is fetched now."""
    slot = state.slots[i, a]
    if slot.held == 1:
        return max(0, slot.ready_ps - t)
    waits = max(0, state.fitted[i].free_ps - t) if state.engines[p].in_step == 0 else 0
    return waits + adapters.load_ps(state, i, p, a)


@jit
def until_all(state, i, r, t):
    """Picoseconds for which r would wait for ControlNets on replica i, as a router sees it: for the
    one that takes longest by itself."""
    p, longest = row(state, i), 0
    if p >= 0:
        for a in range(state.clock[0].first_net, state.slots.shape[1]):
            if has(state, r, a):
                longest = max(longest, until_there(state, i, p, a, t))
    return longest


@jit
def keeps_waiting(state, i, r, t):
    """Whether r has to wait for a ControlNet when it takes them at t, or since it has."""
    p = row(state, i)
    return p >= 0 and state.engines[p].in_step == 0 and until_all(state, i, r, t) > 0


@jit
def take(state, i, r, t):
    """r, which is admitted, has all its ControlNets from now on; those that are not there come."""
    p = row(state, i)
    if p < 0:
        return
    there_ps = t
    for a in range(state.clock[0].first_net, state.slots.shape[1]):
        if has(state, r, a):
            slot = state.slots[i, a]
            if slot.held == 0:
                load(state, i, p, a, place_for(state, i, p, r, t, 0), t)
            slot.n_using += 1
            there_ps = max(there_ps, slot.ready_ps)
    state.netted[i].wait_ps += there_ps - t


@jit
def leave(state, i, r):
    """r has no use for its ControlNets on replica i any more."""
    if row(state, i) < 0:
        return
    netted = state.netted[i]
    for a in range(state.clock[0].first_net, state.slots.shape[1]):
        if has(state, r, a):
            slot = state.slots[i, a]
            slot.n_using -= 1
            if slot.n_using == 0:
                netted.ticks += 1
                slot.used = netted.ticks


@jit
def fall(state, i):
    """Replica i has lost its ControlNets, and those on its host."""
    netted = state.netted[i]
    netted.n_held = netted.n_host = 0
    for a in range(state.clock[0].first_net, state.slots.shape[1]):
        state.slots[i, a].held = state.slots[i, a].host = 0
