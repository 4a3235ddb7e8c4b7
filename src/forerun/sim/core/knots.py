"""Replicas that wait for each other's KV in a circle: one of them gives some of it up.

A replica that has computed prompts and decodes now can hold KV for others and wait for KV of
others.  Without room for it, or about to run another model, it does nothing until what it holds is
fetched.  When those who are to fetch it wait likewise, and so on back to it, nobody would ever go
on.  The shortest prompt that it holds is then computed again, where its request waits.  Nothing of
this happens where roles stay as they are.

Legend: i replica, j another one, r slot of a request, t picoseconds.
"""

from __future__ import annotations

from forerun.sim.core import failures, turns
from forerun.sim.core.jit import jit
from forerun.sim.core.order import NEVER
from forerun.sim.core.rows_fleet import ROLE
from forerun.sim.core.rows_request import HELD, PLAIN, WAITING

BOTH, DECODE = ROLE["both"], ROLE["decode"]


@jit
def untie(state, i, t):
    """Replica i has nothing to do now: when it waits in a circle, it gives the KV of one request
    up, and looks again."""
    for j in range(state.replicas.shape[0]):
        state.replicas[j].tied = waits(state, j)
    changed = True
    while changed and state.replicas[i].tied == 1:
        changed = False
        for j in range(state.replicas.shape[0]):
            if state.replicas[j].tied == 1 and not stays(state, j):
                state.replicas[j].tied = 0
                changed = True
    if state.replicas[i].tied == 1:
        state.clock[0].n_untied += 1
        failures.compute_again(state, least(state, i), t)  # which wakes i


@jit
def waits(state, j):
    """Whether replica j does nothing, though it has something to do, and holds KV of others."""
    replica = state.replicas[j]
    wants = replica.n_waiting + replica.n_parked > 0 or turns.drains(state, j)
    idle = replica.n_running == 0 and replica.ready_head < 0 and replica.partner < 0
    idle = idle and state.agenda_ps[replica.place] == NEVER
    return 1 if idle and wants and replica.n_away > 0 else 0


@jit
def stays(state, j):
    """Whether replica j waits until one of those tied moves.

    Somebody waits for memory: any KV that is fetched may make room.  It is to run another model:
    all of it has to go.
    """
    replica = state.replicas[j]
    held = fetched = 0
    for r in range(state.live.shape[0]):
        if is_held(state, r, j):
            held += 1
            fetched += 0 if is_tied(state, r) else 1
    if held < replica.n_away:
        return False  # some is on its way, to it or from it
    if replica.n_waiting > 0 and not turns.drains(state, j):
        return fetched == 0
    return fetched < held


@jit
def is_held(state, r, i):
    """Whether the KV of r waits on replica i to be fetched."""
    request = state.live[r]
    return request.source == i and (request.phase == WAITING or request.phase == HELD)


@jit
def is_tied(state, r):
    """Whether nobody fetches the KV of r before one of those tied has moved."""
    request = state.live[r]
    if request.phase == WAITING:
        return state.replicas[request.replica].tied == 1
    some = False  # of those tied, or its source itself, that would take it from in front
    for j in range(state.replicas.shape[0]):
        if request.stage == PLAIN and will_decode(state, j, request.model):
            if state.replicas[j].tied == 0 and j != request.source:
                return False
            some = True
    return some


@jit
def will_decode(state, j, m):
    """Whether replica j, once it is what it was told to be, takes requests of model m to decode."""
    replica = state.replicas[j]
    role = state.engines[replica.next_pool].role
    serves = state.serves[replica.next_pool, m] >= 0
    return replica.accepts == 1 and serves and role in (DECODE, BOTH)


@jit
def least(state, i):
    """The request of which least is lost, among those whose KV replica i holds in vain."""
    found = -1
    for r in range(state.live.shape[0]):
        shorter = found < 0 or state.live[r].n_known < state.live[found].n_known
        if shorter and is_held(state, r, i) and is_tied(state, r):
            found = r
    return found
