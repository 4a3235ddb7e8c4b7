"""Bring a replica to its next boundary sooner: something it can use has come.

Legend: i replica, t picoseconds.
"""

from __future__ import annotations

from forerun.sim.core import heaps
from forerun.sim.core.clock import span, steps_to_reach
from forerun.sim.core.jit import jit


@jit
def due(state, i, t):
    """The earliest moment at which replica i can still have a boundary, when now is t.

    At one moment boundaries come by index, so those up to the one being handled have been; a leap
    that runs over such a boundary must not be cut there.
    """
    clock = state.clock[0]
    return t + 1 if clock.passed_ps == t and i < clock.passed else t


@jit
def cut_leap(state, i, t):
    """End the leap of replica i at its first step boundary from t on; 1 if it was longer."""
    replica = state.replicas[i]
    elapsed = due(state, i, t) - replica.start_ps
    k = steps_to_reach(replica.first_ps, replica.slope_ps, replica.n_steps, elapsed)
    if k < replica.n_steps:
        replica.n_steps = k
        end = replica.start_ps + span(replica.first_ps, replica.slope_ps, k)
        heaps.reschedule(state, i, end)
        return 1
    return 0


@jit
def wake(state, i, t):
    """Replica i forms its next batch at t when it idles, else at its next step boundary."""
    if state.replicas[i].n_steps == 0:
        heaps.reschedule(state, i, t)
    else:
        cut_leap(state, i, t)
