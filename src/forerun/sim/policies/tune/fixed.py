"""As many tuning tokens in every step.

`tokens` is an estimate: 256 beside a few hundred decodes keep a step near what it takes to read the
weights.  More trains sooner and makes each token of an answer wait longer.
"""

from forerun.sim.core.signatures import NO_LIMIT

PARAMS = {"tokens": 256.0}


def fixed(replica, engine, params):
    return int(params[0]), NO_LIMIT
