"""As many replicas as bring the metric to its target, Kubernetes' rule.

    wanted = ceil(total of the metric / target a replica)

No change while that is within `tolerance` of what there is.  A metric that is no sum over replicas
(ttft_s) is taken times their number.  Source: Kubernetes, Horizontal Pod Autoscaling, "Algorithm
details" (tolerance 0.1).
"""

from math import ceil

PARAMS = {"tolerance": 0.1}


def target_tracking(pool, rule, memory):
    total = pool.total(rule.metric)
    if total is None:  # nothing finished since the last look
        return pool.wanted
    ratio = total / rule.target
    tolerance = rule.policy.params.get("tolerance", PARAMS["tolerance"])
    if pool.wanted > 0 and abs(ratio / pool.wanted - 1) <= tolerance:
        return pool.wanted
    return ceil(ratio - 1e-9)
