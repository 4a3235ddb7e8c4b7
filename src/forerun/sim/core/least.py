"""For routers: what comes before what, and for those that look far the least of a figure, near
enough and not too full."""

from __future__ import annotations

from forerun.sim.core.jit import jit
from forerun.sim.core.signatures import OUTSTANDING, WAY_PS


@jit
def is_better(load, c, cost, best, least):
    """Whether column c costs less than the best so far (-1: none), or as much with fewer requests
    there; of columns that are alike in both the first one stays."""
    if best < 0 or cost < least:
        return True
    return cost == least and load[OUTSTANDING, c] < load[OUTSTANDING, best]


@jit
def least_near(load, figure, within_s, spill):
    """The column with the least of a row of `load`, of those at most `within_s` away that have
    fewer than `spill` outstanding requests; of equal ones, or without any, the least outstanding.
    """
    best = -1
    for c in range(load.shape[1]):
        if load[WAY_PS, c] > within_s * 1e12 or load[OUTSTANDING, c] >= spill:
            continue
        if is_better(load, c, load[figure, c], best, load[figure, max(best, 0)]):
            best = c
    return best if best >= 0 else load[OUTSTANDING].argmin()
