"""The replica with most free KV for each of its requests, the new one counted.

For `place`: where a request that is moved makes the least difference.
"""

from forerun.sim.core.least import is_better
from forerun.sim.core.signatures import KV_BLOCKS, KV_CAPACITY, OUTSTANDING

FRESH = True


def freest(request, load, params, memory, rng):
    best = -1
    most = 0.0
    for c in range(load.shape[1]):
        free = (load[KV_CAPACITY, c] - load[KV_BLOCKS, c]) / (load[OUTSTANDING, c] + 1)
        if is_better(load, c, -free, best, -most):
            best, most = c, free
    return best
