"""All requests of a session go to one replica, chosen by hash; others to the least loaded.

A hash spreads sessions as chance would, some replicas get more of them than others: that is what
session routing costs.
"""

from forerun.sim.core.rng import scattered
from forerun.sim.core.signatures import OUTSTANDING


def session_sticky(request, load, params, memory, rng):
    if request.session < 0:
        return load[OUTSTANDING].argmin()
    return scattered(request.session) % load.shape[1]
