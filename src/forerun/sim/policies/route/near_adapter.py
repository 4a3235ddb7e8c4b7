"""The fewest requests, where an adapter that has to come first counts as `load_requests` more.

Among replicas that would have to fetch it, all else equal, it goes to the adapter's own: number
adapter mod replicas.  So each replica comes to hold a part of the adapters.
8 is an estimate: loads of tens of milliseconds against requests that share a step.  More keeps
adapters where they are, and lets replicas be loaded more unevenly.
"""

from forerun.sim.core.least import is_better
from forerun.sim.core.signatures import OUTSTANDING, TO_LOAD

PARAMS = {"load_requests": 8.0}


def near_adapter(request, load, params, memory, rng):
    n = load.shape[1]
    best = -1
    least = 0.0
    for c in range(n):
        cost = load[OUTSTANDING, c] + params[0] * (load[TO_LOAD, c] > 0)
        if request.adapter >= 0 and request.adapter % n == c:
            cost -= 0.5
        if is_better(load, c, cost, best, least):
            best = c
            least = cost
    return best
