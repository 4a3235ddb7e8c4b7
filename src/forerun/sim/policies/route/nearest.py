"""The nearest region; in it the replica with the fewest outstanding requests.

`spill`: replicas with so many outstanding requests are passed over while others have fewer, so that
a full region sends what it cannot take to the next one.  0: nobody is ever sent on,
which is no estimate.
"""

from forerun.sim.core.signatures import OUTSTANDING, WAY_PS

PARAMS = {"spill": 0.0}


def nearest(request, load, params, memory, rng):
    best = 0
    for c in range(1, load.shape[1]):
        full = params[0] > 0 and load[OUTSTANDING, c] >= params[0]
        best_full = params[0] > 0 and load[OUTSTANDING, best] >= params[0]
        if full != best_full:
            if best_full:
                best = c
        elif load[WAY_PS, c] < load[WAY_PS, best] or (
            load[WAY_PS, c] == load[WAY_PS, best] and load[OUTSTANDING, c] < load[OUTSTANDING, best]
        ):
            best = c
    return best
