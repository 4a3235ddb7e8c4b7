"""Where a request is done first, as far as counts tell: requests there, over the pool's speed.

For unequal hardware: a replica half as fast gets half as many.  Speed is that of decoding 16
sequences, relative to the fastest pool.
"""

from forerun.sim.core.least import is_better
from forerun.sim.core.signatures import OUTSTANDING, SPEED


def fastest_free(request, load, params, memory, rng):
    best = 0
    for c in range(1, load.shape[1]):
        mine = (load[OUTSTANDING, c] + 1) * load[SPEED, best]
        if is_better(load, c, mine, best, (load[OUTSTANDING, best] + 1) * load[SPEED, c]):
            best = c
    return best
