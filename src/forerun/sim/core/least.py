"""For routers that look far: the least of a figure, near enough and not too full."""

from __future__ import annotations

from forerun.sim.core.jit import jit
from forerun.sim.core.signatures import OUTSTANDING, WAY_PS


@jit
def least_near(load, figure, within_s, spill):
    """The column with the least of a row of `load`, of those at most `within_s` away that have
    fewer than `spill` outstanding requests; of equal ones, or without any, the least outstanding.
    """
    best = -1
    for c in range(load.shape[1]):
        if load[WAY_PS, c] > within_s * 1e12 or load[OUTSTANDING, c] >= spill:
            continue
        less = best < 0 or load[figure, c] < load[figure, best]
        if less or (
            load[figure, c] == load[figure, best] and load[OUTSTANDING, c] < load[OUTSTANDING, best]
        ):
            best = c
    return best if best >= 0 else load[OUTSTANDING].argmin()
