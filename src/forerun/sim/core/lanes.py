"""Two lanes on the same devices: one computes prompts, one answers, each with a share of the SMs.

They are two replicas with one memory: blocks and prefix store of both are those of the lane that
answers (`memory`).  A prompt that is computed goes on in the other lane where it is: nothing moves.
What a step takes depends on whether the other lane is in one.  When that begins or ends, the step
under way keeps the share of its work that it has done, and the rest takes as long as that share of
the step takes under the new condition; a leap ends with this step.

Legend: i replica, j its partner, r slot, k steps, t picoseconds.
"""

from __future__ import annotations

import math

from forerun.sim.core import heaps, prefix
from forerun.sim.core import live as lists
from forerun.sim.core.clock import span, steps_to_reach
from forerun.sim.core.jit import jit
from forerun.sim.core.kv import blocks_now
from forerun.sim.core.signatures import OUTSTANDING
from forerun.sim.core.wake import due, wake


@jit
def row_of(state, i, beside):
    """The row of costs of replica i, alone (beside 0) or while its partner is in a step."""
    p = state.replicas[i].pool
    return state.engines[p].beside if beside == 1 else p


@jit
def begin(state, i):
    """A step is formed: its first price is that of the condition that does not hold now."""
    replica, lane = state.replicas[i], state.lanes[i]
    lane.beside = 1 if state.replicas[replica.partner].n_steps > 0 else 0
    lane.turned = lane.stretch_ps = 0
    replica.row = row_of(state, i, 1 - lane.beside)


@jit
def other_way(state, i):
    """That price is kept; the leap goes by the condition that holds."""
    replica, lane = state.replicas[i], state.lanes[i]
    lane.other_first_ps, lane.other_slope_ps = replica.first_ps, replica.slope_ps
    replica.row = row_of(state, i, lane.beside)


@jit
def encoders(state, i):
    """A step of the encoder is formed: its rows of costs, by the condition that holds and by the
    other one."""
    begin(state, i)
    p = row_of(state, i, state.lanes[i].beside)
    return state.engines[p].encoder_row, state.engines[state.replicas[i].row].encoder_row


@jit
def other_price(state, i, ps):
    """What that step of the encoder takes by the other condition."""
    lane = state.lanes[i]
    lane.other_first_ps, lane.other_slope_ps = ps, 0


@jit
def partner_holds(state, i):
    """Whether the other lane has requests, or KV comes to it or leaves it: memory comes back."""
    j = state.replicas[i].partner
    if j < 0:
        return False
    other = state.replicas[j]
    return other.n_running > 0 or other.ready_head >= 0 or other.n_away > 0


@jit
def n_lanes(state, i):
    """How many replicas of the core the devices of replica i have."""
    return 1 if state.replicas[i].partner < 0 else 2


@jit
def lane(state, i, k):
    """Lane k of the devices of replica i: that of prompts, then that of answers."""
    m = state.replicas[i].memory
    return state.replicas[m].partner if n_lanes(state, i) > k + 1 else m


@jit
def look_in(state, i):
    """Before a boundary of replica i: what the memory it shares holds now."""
    replica = state.replicas[i]
    if replica.memory != i:
        prefix.settle(state, i)
        state.lanes[i].touched = 1 if replica.n_steps > 0 else 0
        replica.n_blocks = blocks_now(state, i)


@jit
def tell(state, i, t):
    """After a boundary of replica i: the partner goes faster or slower, and sees what is free."""
    replica = state.replicas[i]
    j = replica.partner
    busy = 1 if replica.n_steps > 0 else 0
    waits = state.replicas[j].n_waiting > 0
    if state.replicas[j].n_steps > 0 and state.lanes[j].beside != busy:
        turn(state, j, t)
    if replica.memory != i:
        if state.lanes[i].touched == 1 and (state.replicas[j].n_steps > 0 or waits):
            wake(state, j, t)  # it counted on other blocks
        if busy == 0:
            replica.n_blocks = 0
    elif state.replicas[j].n_steps == 0 and waits:
        wake(state, j, t)


@jit
def turn(state, i, t):
    """The other lane began or ended: what is left of the step under way takes longer, or less."""
    replica, lane = state.replicas[i], state.lanes[i]
    elapsed = due(state, i, t) - replica.start_ps
    k = steps_to_reach(replica.first_ps, replica.slope_ps, replica.n_steps, elapsed)
    formula = replica.start_ps + span(replica.first_ps, replica.slope_ps, k)
    left = formula + lane.stretch_ps - t
    if left == 0:
        return  # it ends just now, and what comes next is priced then
    before = replica.first_ps + (k - 1) * replica.slope_ps
    after = lane.other_first_ps + (k - 1) * lane.other_slope_ps
    if lane.turned == 1:
        before, after = after, before
    left = math.ceil(left * (after / before))
    lane.stretch_ps = t + left - formula
    lane.turned = 1 - lane.turned
    lane.beside = 1 - lane.beside
    replica.n_steps = k
    heaps.reschedule(state, i, t + left)


@jit
def note_alone(state, i, k):
    """Count what the first k steps of the leap, which keep to its formula, would take alone."""
    replica, lane = state.replicas[i], state.lanes[i]
    if lane.beside == lane.turned:  # it was formed with the other lane idle
        lane.alone_ps += span(replica.first_ps, replica.slope_ps, k)
    else:
        lane.alone_ps += span(lane.other_first_ps, lane.other_slope_ps, k)


@jit
def steps_alike(state, i, done, k):
    """Of the k steps of the leap, `done` of which are accounted for, how many follow by its
    formula: all, but for the last one if its condition changed, which becomes a leap of its own."""
    lane = state.lanes[i]
    n = k - done
    if k < state.replicas[i].n_steps or (lane.turned == 0 and lane.stretch_ps == 0):
        note_alone(state, i, n)
        return n
    if n > 1:
        note_alone(state, i, n - 1)
        return n - 1
    last_apart(state, i, done)
    return 1


@jit
def last_apart(state, i, done):
    """The last step of the leap becomes a leap of its own: as long as it took in the end, with the
    costs of the condition it ended in."""
    replica, lane = state.replicas[i], state.lanes[i]
    replica.start_ps += span(replica.first_ps, replica.slope_ps, done)
    replica.first_ps += done * replica.slope_ps
    replica.past += done * replica.chunk
    lane.other_first_ps += done * lane.other_slope_ps
    note_alone(state, i, 1)
    replica.first_ps += lane.stretch_ps
    p = row_of(state, i, lane.beside)
    replica.row = state.engines[p].encoder_row if replica.n_encoding > 0 else p


@jit
def hand_over(state, i, r, t):
    """The prompt of r is computed: it goes on in the other lane, with the blocks that it has."""
    request = state.live[r]
    j = state.replicas[i].partner
    lists.unlink_running(state, i, r)
    request.n_known = request.n_computed
    request.prefill_replica = i
    request.replica, request.pool = j, state.replicas[j].pool
    state.load[OUTSTANDING, i] -= 1
    state.load[OUTSTANDING, j] += 1
    lists.get_ready(state, j, r)
    wake(state, j, t)


@jit
def send_back(state, i, r):
    """r, which lost its blocks on replica i, waits for the other lane to compute them again."""
    request = state.live[r]
    j = state.replicas[i].partner
    request.replica, request.pool = j, state.replicas[j].pool
    state.load[OUTSTANDING, i] -= 1
    state.load[OUTSTANDING, j] += 1
    lists.enqueue(state, j, r)
