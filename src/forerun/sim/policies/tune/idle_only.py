"""Tuning tokens when a replica has nothing else to do, and none beside requests.

`tokens` is an estimate: 512 are about what binds a step by arithmetic.  More trains a little
faster, and whoever comes waits longer for the step to end.
"""

from forerun.sim.core.signatures import NO_LIMIT

PARAMS = {"tokens": 512.0}


def idle_only(replica, engine, params):
    if replica.n_running + replica.n_waiting > 0:
        return 0, NO_LIMIT
    return int(params[0]), NO_LIMIT
