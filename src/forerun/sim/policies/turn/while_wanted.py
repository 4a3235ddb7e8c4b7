"""The loaded model goes on while it has requests; then the longest queue is next.

Loads least, and a model with steady traffic can keep the others waiting without end.
Source: exhaustive service of polling systems (Takagi, "Analysis of polling systems", 1986).
"""

from forerun.sim.core.signatures import QUEUED


def while_wanted(replica, engine, model, queued, now_ps, params):
    if replica.n_running + queued[QUEUED, model] > 0:
        return model
    return queued[QUEUED].argmax()
