"""Requests that wait apart for their adapters, and those behind them go on; or all wait
(`in_order`).

They stand in `parked`, a queue for each adapter after those of models.  With queues by tenant they
still count as waiting in their tenant's, so that nobody is taken for idle because of an adapter.

Legend: i replica, r slot of a request, a adapter, t picoseconds.
"""

from __future__ import annotations

from forerun.sim.core import adapters, fair, queue
from forerun.sim.core.jit import jit


@jit
def put_aside(state, i, t):
    """The first in the queue of replica i waits for its adapter: apart, so that others go on, or
    (False) where it is, before them."""
    replica = state.replicas[i]
    r = replica.queue
    request = state.live[r]
    a = request.adapter
    engine = state.engines[replica.pool]
    if state.slots[i, a].held == 0 and engine.in_step == 0:
        adapters.begin(state, i, a, t)
    if adapters.may_start(state, i, a, t):
        return True  # it took no time
    if engine.in_order == 1:
        return False
    if engine.fair == 1:
        fair.step_aside(state, i, r)
    else:
        replica.queue = queue.pop(state.live, r)
    replica.n_waiting -= 1
    column = state.serves.shape[1] + a
    state.parked[i, column] = queue.push(state.live, state.parked[i, column], r)
    state.n_parked[i, column] += 1
    replica.n_apart += 1
    request.aside, request.aside_ps = 1, t
    return True


@jit
def call_back(state, i, t):
    """Those of replica i that wait apart and may start queue again; what can be fetched is."""
    replica = state.replicas[i]
    first = state.serves.shape[1]
    fetched = True
    while fetched:
        head = -1  # who is first of those whose adapters are not on their way
        for a in range(state.parked.shape[1] - first):
            if state.parked[i, first + a] < 0:
                continue
            if adapters.may_start(state, i, a, t):
                queue_again(state, i, a, t)
            elif state.slots[i, a].held == 0:
                r = state.parked[i, first + a]
                if head < 0 or before(state, i, r, head):
                    head = r
        in_step = state.engines[replica.pool].in_step
        fetched = (
            head >= 0 and in_step == 0 and adapters.begin(state, i, state.live[head].adapter, t)
        )


@jit
def queue_again(state, i, a, t):
    """All requests of replica i that wait apart for adapter a are in its queue again."""
    replica = state.replicas[i]
    column = state.serves.shape[1] + a
    while state.parked[i, column] >= 0:
        r = state.parked[i, column]
        state.parked[i, column] = queue.pop(state.live, r)
        if state.engines[replica.pool].fair == 1:
            fair.step_back(state, i, r)
        else:
            replica.queue = queue.push(state.live, replica.queue, r)
        if state.live[r].aborted == 0:  # else it is counted no more
            replica.n_waiting += 1
            state.fitted[i].wait_ps += t - state.live[r].aside_ps
        state.live[r].aside = 0
    replica.n_apart -= state.n_parked[i, column]
    state.n_parked[i, column] = 0


@jit
def before(state, i, r, other):
    """Whether r's adapter is fetched before that of another one, who waits apart too."""
    if state.engines[state.replicas[i].pool].fair == 1:
        key, least = fair.key_of(state, i, r, 0), fair.key_of(state, i, other, 0)
        if key != least:
            return key < least
    return queue.before(state.live, r, other)


@jit
def queue_all_again(state, i, t):
    """Nobody waits apart on replica i any more: it goes on with another model, or another order."""
    for a in range(state.parked.shape[1] - state.serves.shape[1]):
        if state.parked[i, state.serves.shape[1] + a] >= 0:
            queue_again(state, i, a, t)
