"""Tenants that share replicas fairly: a queue each, and what each has been served so far.

Tokens served are counted by tenant and replica as virtual token counters: prompt tokens when they
are admitted, those of answers as they come, each divided by the tenant's weight.  An `order` policy
that says AGAIN = True is asked for the first of each tenant's queue whenever a request may start,
and reads the counter in `request.served`.

All decoders of a replica advance together, so what a tenant's n decoders have been served by decode
step s is a formula: served + cost * n * s.  It changes when one joins or leaves, never in between.
Source: Sheng et al., "Fairness in Serving Large Language Models", OSDI 2024.

Legend: i, j replicas, u tenant, r slot, k decode steps from now.
"""

from __future__ import annotations

from forerun.sim.core import queue
from forerun.sim.core.clock import steps_to_reach
from forerun.sim.core.jit import jit
from forerun.sim.core.order import NEVER
from forerun.sim.core.wake import due


@jit
def line_of(state, i, u):
    """The row of tenant u at replica i."""
    return state.lines[i * state.tenants.shape[0] + u]


# -- counters -----------------------------------------------------------------------------------


@jit
def charge(state, i, u, n_in, n_out):
    """Tenant u has been served so many tokens by replica i, beside those of its decoders."""
    tenant = state.tenants[u]
    line_of(state, i, u).served += n_in * tenant.in_cost + n_out * tenant.out_cost


@jit
def count_decoder(state, i, u, sign):
    """One decoder of tenant u more (sign 1) or less (-1) on replica i."""
    line = line_of(state, i, u)
    line.n_decode += sign
    line.served -= sign * state.tenants[u].out_cost * state.replicas[i].decoded


@jit
def steps_ended(state, i):
    """Decode steps of the leap under way that have ended by clock.now_ps."""
    replica = state.replicas[i]
    if replica.n_steps == 0 or replica.in_step == 0:
        return 0
    elapsed = due(state, i, state.clock[0].now_ps) - replica.start_ps
    return steps_to_reach(replica.first_ps, replica.slope_ps, replica.n_steps, elapsed) - 1


@jit
def served_by(state, i, u, k):
    """What replica i has served tenant u once k more decode steps have ended."""
    line = line_of(state, i, u)
    return line.served + state.tenants[u].out_cost * line.n_decode * (state.replicas[i].decoded + k)


@jit
def counter(state, i, u, k):
    """What counts for tenant u at replica i: served there, or by the fleet."""
    if state.clock[0].fair_shared == 0:
        return served_by(state, i, u, k)
    total = 0
    for j in range(state.replicas.shape[0]):
        total += served_by(state, j, u, k if j == i else steps_ended(state, j))
    return total


@jit
def n_waiting(state, i, u):
    """Requests of tenant u that wait where its counter counts."""
    if state.clock[0].fair_shared == 0:
        return line_of(state, i, u).n
    total = 0
    for j in range(state.replicas.shape[0]):
        total += line_of(state, j, u).n
    return total


@jit
def lift(state, i, u):
    """Tenant u has been idle and comes back: its counter is at least that of the others.

    That is the least of those who wait, or where none does that of the last one who did: nobody
    saves up while away.
    """
    clock = state.clock[0]
    k = steps_ended(state, i)
    floor = NEVER
    for v in range(state.tenants.shape[0]):
        if n_waiting(state, i, v) > 0:
            floor = min(floor, counter(state, i, v, k))
    if floor == NEVER:
        last = clock.last_tenant if clock.fair_shared == 1 else state.replicas[i].last_tenant
        if last < 0:
            return
        floor = counter(state, i, last, k)
    behind = floor - counter(state, i, u, k)
    if behind > 0:
        line_of(state, i, u).served += behind


# -- queues -------------------------------------------------------------------------------------


@jit
def join(state, i, r):
    """r waits in the queue of its tenant at replica i, behind those who came before it."""
    u = state.live[r].tenant
    if state.clock[0].fair_lift == 1 and n_waiting(state, i, u) == 0:
        lift(state, i, u)
    line = line_of(state, i, u)
    line.head = queue.push(state.live, line.head, r)
    line.n += 1


@jit
def leave(state, i, r):
    """r, the first of its tenant's queue, waits no more."""
    u = state.live[r].tenant
    line = line_of(state, i, u)
    line.head = queue.pop(state.live, r)
    count_out(state, i, u)


@jit
def step_aside(state, i, r):
    """r, the first of its tenant's queue, waits for an adapter: its tenant is no less there."""
    line = line_of(state, i, state.live[r].tenant)
    line.head = queue.pop(state.live, r)


@jit
def step_back(state, i, r):
    """r stands in its tenant's queue again."""
    line = line_of(state, i, state.live[r].tenant)
    line.head = queue.push(state.live, line.head, r)


@jit
def count_out(state, i, u):
    """One request less of tenant u waits at replica i."""
    line = line_of(state, i, u)
    line.n -= 1
    if line.n == 0:
        state.replicas[i].last_tenant = state.clock[0].last_tenant = u


@jit
def key_of(state, i, r, k):
    """What the policy says of r, the first of its tenant's, as of k decode steps from now."""
    state.live[r].served = counter(state, i, state.live[r].tenant, k)
    return state.order(state.live[r], state.clock[0].now_ps, state.order_params)


@jit
def choose(state, i, k):
    """The queue's head becomes the first request of the tenant whom the policy serves next.

    As of k decode steps from now; who ties is served as they came.
    """
    best = -1
    least = NEVER
    for u in range(state.tenants.shape[0]):
        head = line_of(state, i, u).head
        if head < 0:
            continue
        key = key_of(state, i, head, k)
        if best < 0 or key < least or (key == least and queue.before(state.live, head, best)):
            best, least = head, key
    state.replicas[i].queue = best
    return best


@jit
def steps_alike(state, i, steps):
    """For how many of these steps the same request stays first: counters grow by straight lines.

    A policy's order of two tenants changes at most once while their counters do.
    """
    if state.clock[0].fair_shared == 1 or state.engines[state.replicas[i].pool].every_order == 1:
        return 1  # others' steps count too, or the time does
    first = state.replicas[i].queue
    low, high = 1, steps
    while low < high:
        middle = (low + high + 1) // 2
        if choose(state, i, middle - 1) == first:
            low = middle
        else:
            high = middle - 1
    state.replicas[i].queue = first
    return low


@jit
def gather(state, i):
    """All who wait at replica i stand in one queue: it goes on with another pool's order."""
    root = -1
    for u in range(state.tenants.shape[0]):
        line = line_of(state, i, u)
        root = queue.meld(state.live, root, line.head)
        line.head = -1
        line.n = 0
    state.replicas[i].queue = root
