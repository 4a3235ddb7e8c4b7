"""All requests of a session go to one replica, chosen by hash; others to the least loaded.

A hash spreads sessions as chance would, some replicas get more of them than others: that is what
session routing costs.  Source of the mixing: splitmix64, Steele, Lea and Flood, OOPSLA 2014.
"""

from forerun.sim.core.signatures import OUTSTANDING


def session_sticky(request, load, params, memory, rng):
    if request.session < 0:
        return load[OUTSTANDING].argmin()
    mixed = (request.session + 1) * 0x1E3779B97F4A7C15  # products wrap
    mixed = (mixed ^ (mixed >> 30)) * 0x3F58476D1CE4E5B9
    return ((mixed ^ (mixed >> 27)) & 0x7FFFFFFFFFFF) % load.shape[1]
