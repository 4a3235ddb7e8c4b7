"""The loaded model goes on while it has requests, until another's has waited `wait_s`.

Then the model of the request that waits longest is next.  0 switches as soon as another model is
asked for, a long wait loads as seldom as `while_wanted`.
5 s is an estimate: several times what an 8B model takes to load from its host (16 GB over PCIe), so
that most of the time is spent on answers.
"""

from forerun.sim.core.signatures import HEAD_PS, QUEUED

EVERY_STEP = True  # it reads the time
PARAMS = {"wait_s": 5.0}


def patience(replica, engine, model, queued, now_ps, params):
    own = replica.n_running + queued[QUEUED, model]
    best = -1
    for m in range(queued.shape[1]):
        if m != model and (best < 0 or queued[HEAD_PS, m] < queued[HEAD_PS, best]):
            best = m
    if own > 0 and now_ps - queued[HEAD_PS, best] < params[0] * 1e12:
        return model
    return best
