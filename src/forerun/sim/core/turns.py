"""Models that take turns on a replica: requests for one that is not loaded wait apart.

A replica runs one model at a time and keeps the weights of a few.  Who comes next is a policy's
choice (`turn`), asked at step boundaries while requests wait for other models.  Once one is chosen
the replica drains: it admits no more, and when nothing of its model is under way it takes the next
one up and gives nothing until the weights have come.  Adapters go with their model: slots and
blocks are of the one that runs.

Legend: i replica, m model, p row of `engines`, t picoseconds.
"""

from __future__ import annotations

from forerun.sim.core import apart, paging, queue, tiers
from forerun.sim.core import live as lists
from forerun.sim.core.jit import jit
from forerun.sim.core.order import NEVER
from forerun.sim.core.signatures import (
    HEAD_PS,
    KV_CAPACITY,
    LOAD_PS,
    POOL,
    QUEUED,
    SPEED,
)
from forerun.sim.core.state import MISTAKE

BAD_TURN = MISTAKE["turn"]


@jit
def drains(state, i):
    """Whether replica i is to take up another model than it runs."""
    replica = state.replicas[i]
    return state.engines[replica.next_pool].model != state.engines[replica.pool].model


@jit
def runs(state, i, m):
    """Whether replica i runs model m, and is not about to run another one."""
    return state.engines[state.replicas[i].pool].model == m and not drains(state, i)


@jit
def is_empty(state, i):
    """Whether nothing of its model is under way on replica i."""
    replica = state.replicas[i]
    return replica.n_running == 0 and replica.n_away == 0 and replica.ready_head < 0


@jit
def has_nothing(state, i):
    """Whether nothing of its model is under way on replica i, and nothing waits for it there."""
    replica = state.replicas[i]
    return replica.n_waiting + replica.n_apart == 0 and is_empty(state, i)


@jit
def to_load(state, i, p):
    """(picoseconds, bytes) until replica i has the weights that row p needs."""
    engine = state.engines[p]
    if state.resident[i, engine.model] >= 0:
        return 0, 0
    load_ps, n_bytes = engine.load_ps, engine.load_bytes
    for k in range(state.block_ps.shape[1]):
        if state.block_bytes[p, k] > 0 and is_there(state, i, p, k):
            load_ps -= state.block_ps[p, k]
            n_bytes -= state.block_bytes[p, k]
    return load_ps, n_bytes


@jit
def is_there(state, i, p, k):
    """Whether a model whose weights replica i keeps has block k; p : a row that it can run."""
    for m in range(state.resident.shape[1]):
        other = state.serves[p, m]
        if other >= 0 and state.resident[i, m] >= 0 and state.block_bytes[other, k] > 0:
            return True
    return False


@jit
def until_loaded(state, i, m):
    """Picoseconds of loading before replica i can run model m, which it serves."""
    load_ps, _ = to_load(state, i, state.serves[state.replicas[i].pool, m])
    return load_ps


@jit
def look(state, i):
    """Fill `queued` with what waits at replica i, by model."""
    replica = state.replicas[i]
    queued = state.queued
    for m in range(queued.shape[1]):
        p = state.serves[replica.pool, m]
        lists.drop_aborted_apart(state, i, m)
        head = state.parked[i, m]
        queued[QUEUED, m] = state.n_parked[i, m]
        if m == state.engines[replica.pool].model:
            lists.drop_aborted_heads(state, i)
            head = replica.queue if replica.n_apart == 0 else first_of_all(state, i)
            queued[QUEUED, m] = replica.n_waiting + replica.n_apart
        queued[HEAD_PS, m] = state.live[head].arrival_ps if head >= 0 else NEVER
        queued[LOAD_PS, m] = 0
        if p >= 0:
            queued[LOAD_PS, m], _ = to_load(state, i, p)


@jit
def seen(replica):
    """What a turn policy sees of its model's requests: how many run, and how many wait."""
    return replica.n_running, replica.n_waiting + replica.n_apart


@jit
def first_of_all(state, i):
    """The first in the queue of replica i, or of those who wait apart for adapters."""
    first = state.replicas[i].queue
    for column in range(state.serves.shape[1], state.parked.shape[1]):
        lists.drop_aborted_apart(state, i, column)
        head = state.parked[i, column]
        if head >= 0 and (first < 0 or queue.before(state.live, head, first)):
            first = head
    return first


@jit
def ask(state, i, t):
    """The turn policy says whether replica i goes on with its model, and with which one if not.

    Not before it has admitted somebody since its last turn.
    """
    replica = state.replicas[i]
    mine = state.engines[replica.pool].model
    loads = state.loads[i]
    waiting = replica.n_waiting + replica.n_apart
    if waiting > 0 and replica.admissions == loads.admitted:
        return
    look(state, i)
    engine = state.engines[replica.pool]
    m = state.turn(replica, engine, mine, state.queued, t, state.turn_params)
    if m == mine and not has_nothing(state, i):
        return
    if m < 0 or m >= state.queued.shape[1] or state.queued[QUEUED, m] == 0:
        clock = state.clock[0]
        clock.wrong_kind, clock.wrong_replica, clock.wrong_value = BAD_TURN, i, m
        return
    if state.serves[replica.next_pool, m] >= 0:  # else it is to become another pool's first
        replica.next_pool = state.serves[replica.next_pool, m]
        loads.chosen_ps = t


@jit
def take_up(state, i, p, t):
    """Replica i, which is empty, goes on with the model of row p once its weights are there."""
    replica = state.replicas[i]
    old, new = state.engines[replica.pool].model, state.engines[p].model
    if state.clock[0].has_adapters == 1:
        put_adapters_down(state, i, t)
    state.parked[i, old], state.n_parked[i, old] = replica.queue, replica.n_waiting
    replica.n_parked += replica.n_waiting - state.n_parked[i, new]
    replica.queue, replica.n_waiting = state.parked[i, new], state.n_parked[i, new]
    state.parked[i, new], state.n_parked[i, new] = -1, 0
    while state.stores[i].n_idle > 0:
        tiers.drop(state, i)  # KV of another model
    load_ps, n_bytes = to_load(state, i, p)
    replica.free_ps = state.fitted[i].free_ps = t + load_ps  # adapters come after weights
    loads = state.loads[i]
    loads.n += 1
    loads.n_cold += 1 if load_ps > 0 else 0
    loads.load_ps += load_ps
    loads.drain_ps += t - loads.chosen_ps
    loads.bytes += n_bytes
    loads.admitted = replica.admissions
    keep(state, i, new, state.engines[p].n_resident)


@jit
def put_adapters_down(state, i, t):
    """Replica i, which is empty, has none of its model's adapters any more (its host does); who
    waits for one waits for the model."""
    apart.queue_all_again(state, i, t)
    for a in range(state.clock[0].first_net):
        if state.slots[i, a].held == 1:
            paging.drop(state, i, a)
            state.fitted[i].n_evicted += 1
    state.fitted[i].in_step_ps = 0


@jit
def keep(state, i, m, most):
    """Model m is resident on replica i; the one whose last turn is longest ago makes room."""
    resident = state.resident
    resident[i, m] = state.loads[i].n + resident.shape[1]
    n = 0
    oldest = m
    for k in range(resident.shape[1]):
        if resident[i, k] >= 0:
            n += 1
            if resident[i, k] < resident[i, oldest]:
                oldest = k
    if n > most:
        resident[i, oldest] = -1


@jit
def fall(state, i):
    """Replica i is gone with all weights; when it comes back it has those of its model."""
    mine = state.engines[state.replicas[i].pool].model
    for m in range(state.resident.shape[1]):
        state.resident[i, m] = -1
    state.resident[i, mine] = state.loads[i].n + state.resident.shape[1]


@jit
def begin(state, i, p):
    """Replica i, which has started cold and is empty, begins with the model of row p."""
    if p != state.replicas[i].pool:
        state.replicas[i].next_pool = p
        put_on(state, i, p)
    fall(state, i)


@jit
def put_on(state, i, p):
    """Replica i runs row p from now on."""
    state.replicas[i].pool = p
    state.load[POOL, i] = p
    state.load[KV_CAPACITY, i] = state.engines[p].n_blocks
    state.load[SPEED, i] = state.engines[p].speed


@jit
def row_of(state, p, old, otherwise):
    """The row as which replicas like those of row p run the model of row `old`; `otherwise` where
    they do not run it."""
    own = state.serves[p, state.engines[old].model]
    return own if own >= 0 else otherwise
