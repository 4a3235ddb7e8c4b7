"""The replica with most free KV for each of its requests, the new one counted.

For `place`: where a request that is moved makes the least difference.
"""

from forerun.sim.core.signatures import KV_BLOCKS, KV_CAPACITY, OUTSTANDING

FRESH = True


def freest(request, load, params, memory, rng):
    best = 0
    most = -1.0
    for i in range(load.shape[1]):
        free = (load[KV_CAPACITY, i] - load[KV_BLOCKS, i]) / (load[OUTSTANDING, i] + 1)
        if free > most:
            best, most = i, free
    return best
