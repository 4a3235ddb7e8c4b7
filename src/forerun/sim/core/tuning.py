"""Fine-tuning in what steps leave: tokens of a backlog ride along, or have steps of their own.

A tuning token is computed forward beside the step's own tokens, so that both read the weights
once, and backward by itself.  The policy (`tune`) says how many tokens a step may take and how long
it may last; the most whole grains within both are taken.  Their number stays the same inside a
leap, since what they add depends on the step's tokens alone.

Legend: i replica, q tuning tokens of a step, p row of `engines`, t picoseconds.
"""

from __future__ import annotations

from forerun.sim.core.jit import jit
from forerun.sim.core.order import NEVER
from forerun.sim.core.price import lookup
from forerun.sim.core.wake import cut_leap


@jit
def is_over(state):
    """Whether all requests have ended and none is known to come."""
    clock = state.clock[0]
    more = clock.closed == 0 and clock.next_arrival < clock.n_arrivals
    return clock.n_live + clock.n_pending == 0 and clock.last_chunk == 1 and not more


@jit
def stop_if_over(state, t):
    """Replicas end their present step and compute no more, once the last request has ended."""
    if is_over(state):
        for i in range(state.replicas.shape[0]):
            if state.replicas[i].n_steps > 0:
                cut_leap(state, i, t)


@jit
def goes_on(state, i):
    """Whether replica i has something to tune, and may."""
    if state.engines[state.replicas[i].pool].tunes == 0:
        return False
    return state.tuned[i].left > 0 and state.replicas[i].accepts == 1 and not is_over(state)


@jit
def added_ps(state, p, n_tokens, q):
    """Picoseconds that q tuning tokens add to a step of n_tokens."""
    table = state.tokens_ps[p]
    return lookup(table, n_tokens + q) - lookup(table, n_tokens) + lookup(state.tune_ps[p], q)


@jit
def choose(state, i, n_tokens, first_ps, slope_ps):
    """(tuning tokens of the step that replica i forms, picoseconds they add, steps for which that
    stays so); first_ps, slope_ps : of the step without them."""
    replica = state.replicas[i]
    engine = state.engines[replica.pool]
    tokens, limit_ps = state.tune(replica, engine, state.tune_params)
    grain = engine.tune_grain
    most = min(min(tokens, state.tuned[i].left), engine.max_tokens - n_tokens)
    low, high = 0, most // grain
    if 0 < most < grain and state.tuned[i].left == most:
        grain, high = most, 1  # the last ones
    while low < high:
        middle = (low + high + 1) // 2
        if first_ps + added_ps(state, replica.pool, n_tokens, middle * grain) <= limit_ps:
            low = middle
        else:
            high = middle - 1
    if low <= 0:
        return 0, 0, NEVER
    q = low * grain
    added = added_ps(state, replica.pool, n_tokens, q)
    steps = state.tuned[i].left // q
    if slope_ps > 0 and limit_ps < NEVER:
        steps = min(steps, 1 + (limit_ps - first_ps - added) // slope_ps)
    return q, added, steps


@jit
def note(state, i, k, span_ps):
    """Replica i has completed k steps, which took span_ps together, with its tuning tokens."""
    replica, tuned = state.replicas[i], state.tuned[i]
    tuned.left -= k * replica.n_tune
    tuned.n_tokens += k * replica.n_tune
    if replica.in_step + replica.chunk == 0:
        tuned.alone_ps += span_ps
    else:
        tuned.beside_ps += k * replica.tune_added_ps
