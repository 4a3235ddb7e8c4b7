"""The less loaded of two replicas drawn at random.

Source: Mitzenmacher, "The power of two choices in randomized load balancing", 2001.
"""

from forerun.sim.core.rng import integer
from forerun.sim.core.signatures import OUTSTANDING


def power_of_two(request, load, params, memory, rng):
    a = integer(rng, load.shape[1])
    b = integer(rng, load.shape[1])
    if load[OUTSTANDING, b] < load[OUTSTANDING, a]:
        return b
    return a
