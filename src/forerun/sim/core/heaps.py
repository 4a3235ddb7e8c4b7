"""Two binary heaps: replicas by their next event, and a replica's requests by their last step.

Both know where each member sits, so that one whose key changes can be moved.
"""

from __future__ import annotations

from forerun.sim.core.jit import jit

# -- replicas by (time of the next event, index) ------------------------------------------------


@jit
def reschedule(state, i, time_ps):
    """Give replica i a new next event and restore the agenda (all replicas are always in it)."""
    due = state.agenda_ps
    who = state.agenda
    p = state.replicas[i].place
    while p > 0:
        parent = (p - 1) // 2
        if due[parent] < time_ps or (due[parent] == time_ps and who[parent] < i):
            break
        due[p] = due[parent]
        who[p] = who[parent]
        state.replicas[who[p]].place = p
        p = parent
    n = who.shape[0]
    while True:
        c = 2 * p + 1
        if c >= n:
            break
        if c + 1 < n and (due[c + 1] < due[c] or (due[c + 1] == due[c] and who[c + 1] < who[c])):
            c += 1
        if time_ps < due[c] or (time_ps == due[c] and i < who[c]):
            break
        due[p] = due[c]
        who[p] = who[c]
        state.replicas[who[p]].place = p
        p = c
    due[p] = time_ps
    who[p] = i
    state.replicas[i].place = p


# -- decoding requests of one replica by (last step, request) ------------------------------------


@jit
def _earlier(last, member, live, a, b):
    """Whether the entry at place a comes before the one at b."""
    if last[a] != last[b]:
        return last[a] < last[b]
    return live[member[a]].request < live[member[b]].request


@jit
def _swap(last, member, live, a, b):
    last[a], last[b] = last[b], last[a]
    member[a], member[b] = member[b], member[a]
    live[member[a]].place = a
    live[member[b]].place = b


@jit
def _settle(last, member, live, p, n):
    while p > 0 and _earlier(last, member, live, p, (p - 1) // 2):
        _swap(last, member, live, p, (p - 1) // 2)
        p = (p - 1) // 2
    while True:
        c = 2 * p + 1
        if c >= n:
            return
        if c + 1 < n and _earlier(last, member, live, c + 1, c):
            c += 1
        if not _earlier(last, member, live, c, p):
            return
        _swap(last, member, live, p, c)
        p = c


@jit
def add_finish(last, member, live, n, r, last_step):
    """Add request r to a heap of n entries; it finishes after step `last_step`."""
    last[n] = last_step
    member[n] = r
    live[r].place = n
    _settle(last, member, live, n, n + 1)


@jit
def drop_finish(last, member, live, n, r):
    """Take request r out of a heap of n entries."""
    p = live[r].place
    if p != n - 1:
        _swap(last, member, live, p, n - 1)
        _settle(last, member, live, p, n - 1)
    live[r].place = -1
