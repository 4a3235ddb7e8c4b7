"""Under load the least important classes are turned away first.

A request of priority p is let in while `waiting` x `share`**p requests wait for each replica.
Priorities below 0 count as 0.
Both are estimates: 64 x 0.25**p lets 64, 16 and 4 wait.  A larger `waiting` refuses fewer and lets
all wait longer; a smaller `share` turns away less important ones sooner.
"""

from forerun.sim.core.signatures import WAITING_REQUESTS

PARAMS = {"waiting": 64.0, "share": 0.25}


def classes_in_turn(request, load, now_ps, params, memory):
    most = params[0] * params[1] ** max(request.priority, 0) * load.shape[1]
    return 1 if load[WAITING_REQUESTS].sum() < most else 0
