"""As many tuning tokens in every step."""

from forerun.sim.core.signatures import NO_LIMIT

PARAMS = {"tokens": 256.0}


def fixed(replica, engine, params):
    return int(params[0]), NO_LIMIT
