"""The fullest replica gives a request away while it is fuller than the emptiest by `gap`.

Full is the share of KV blocks in use.  Evens out what the router could not foresee, wanted or not:
each move costs the link and keeps its request waiting.
0.2 is an estimate: less moves sooner and oftener, and pays for the link; more leaves replicas
uneven until one has to preempt.
"""

import numpy as np

PARAMS = {"gap": 0.2}


def even_kv(fleet, rule, memory):
    gap = rule.policy.params.get("gap", PARAMS["gap"])
    full = 1 - fleet.kv_blocks_free / fleet.kv_blocks
    gives = np.zeros(len(full))
    if full.max() - full.min() > gap:
        gives[full.argmax()] = 1
    return gives
