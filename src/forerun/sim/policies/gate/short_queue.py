"""Turned away while all replicas together have `waiting` requests waiting for each of them.

The usual bound on an engine's queue, at the front: what would wait too long is refused at once.
64 is an estimate: more refuses fewer and lets all wait longer.
"""

from forerun.sim.core.signatures import WAITING_REQUESTS

PARAMS = {"waiting": 64.0}


def short_queue(request, load, now_ps, params, memory):
    return 1 if load[WAITING_REQUESTS].sum() < params[0] * load.shape[1] else 0
