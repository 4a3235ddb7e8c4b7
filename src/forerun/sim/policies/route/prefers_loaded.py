"""The fewest requests, where weights that have to be loaded first count as `load_requests` more.

With 0 only the load counts; the more, the rather a request waits at a replica that has its model
than make another one load it.
8 is an estimate: about as many as a replica ends while a model of some GB comes.
"""

from forerun.sim.core.least import is_better
from forerun.sim.core.signatures import OUTSTANDING, TO_LOAD

PARAMS = {"load_requests": 8.0}


def prefers_loaded(request, load, params, memory, rng):
    best = -1
    least = 0.0
    for c in range(load.shape[1]):
        cost = load[OUTSTANDING, c] + params[0] * (load[TO_LOAD, c] > 0)
        if is_better(load, c, cost, best, least):
            best = c
            least = cost
    return best
