"""The model whose first request was sent earliest is next; all who wait for it start together.

The loaded model goes on only while its own queue holds the earliest request, so with mixed traffic
replicas load often and no model waits long for its turn.
"""

from forerun.sim.core.signatures import HEAD_PS, QUEUED


def oldest_first(replica, engine, model, queued, now_ps, params):
    m = queued[HEAD_PS].argmin()
    if queued[HEAD_PS, m] == queued[HEAD_PS, model] and queued[QUEUED, model] > 0:
        return model
    return m
