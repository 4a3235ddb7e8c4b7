"""Where it emits least, of the replicas that are near and have few outstanding requests.

At most `within_s` away and fewer than `spill` requests; of equal ones the least outstanding.
Without any, the least outstanding.

Both are estimates: within 10 s is every region of the Earth.  A nearer `within_s` trades emissions
for time on the way, a smaller `spill` for a shorter queue.
"""

from forerun.sim.core.least import least_near
from forerun.sim.core.signatures import CARBON

PARAMS = {"within_s": 10.0, "spill": 64.0}


def greenest(request, load, params, memory, rng):
    return least_near(load, CARBON, params[0], params[1])
