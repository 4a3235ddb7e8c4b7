"""Where it emits least, of the replicas at most `within_s` away that have fewer than `spill`
outstanding requests; of equal ones the least outstanding.  Without any, the least outstanding.
"""

from forerun.sim.core.signatures import CARBON, OUTSTANDING, WAY_PS

PARAMS = {"within_s": 10.0, "spill": 64.0}


def greenest(request, load, params, memory, rng):
    best = -1
    for c in range(load.shape[1]):
        if load[WAY_PS, c] > params[0] * 1e12 or load[OUTSTANDING, c] >= params[1]:
            continue
        if (
            best < 0
            or load[CARBON, c] < load[CARBON, best]
            or (
                load[CARBON, c] == load[CARBON, best]
                and load[OUTSTANDING, c] < load[OUTSTANDING, best]
            )
        ):
            best = c
    return best if best >= 0 else load[OUTSTANDING].argmin()
