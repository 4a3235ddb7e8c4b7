"""The longest queue is next, once it is `factor` times as long as that of the loaded model.

Requests that run count for the loaded model.  Where nothing is left of it the longest queue comes
at once.
2 is an estimate: less turns oftener and spends more time loading, more lets short queues wait.
"""

from forerun.sim.core.signatures import QUEUED

PARAMS = {"factor": 2.0}


def longest_queue(replica, engine, model, queued, now_ps, params):
    own = replica.n_running + queued[QUEUED, model]
    m = queued[QUEUED].argmax()
    if own > 0 and queued[QUEUED, m] <= params[0] * own:
        return model
    return m
