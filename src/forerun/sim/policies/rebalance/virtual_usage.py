"""From the replica whose memory is soonest full to the freest: Llumnix' virtual usage.

Freeness is how many steps its memory lasts: tokens that fit beside what is in use and what those
who wait will need, over the requests that run.  The least free replica below `low` gives `most`
requests to the freest above `high`, the next one to the next.  The thresholds are estimates.
Source: Sun et al., "Llumnix: Dynamic Scheduling for LLM Serving", OSDI 2024.
"""

import numpy as np

PARAMS = {"low": 50.0, "high": 200.0, "most": 1.0}


def virtual_usage(fleet, rule, memory):
    knobs = {**PARAMS, **rule.policy.params}
    left = (fleet.kv_blocks_free - fleet.kv_blocks_wanted) * fleet.block_tokens
    free = left / np.maximum(fleet.running, 1)
    gives = np.zeros(len(free))
    crowded = [i for i in np.argsort(free, kind="stable") if free[i] < knobs["low"]]
    empty = int((free > knobs["high"]).sum())
    for i in crowded[:empty]:
        gives[i] = knobs["most"]
    return gives
