"""The workflow that can wait least is next: its deadline, less the work still on its critical path.

The graph is known, lengths are not: each request on the longest path from this one to the end is
thought to take `call_s`, an estimate.  Workflows without a deadline come last, those near their end
first.
Source: urgency of Text-to-SQL workflows as in HEXGEN-TEXT2SQL (Peng et al. 2025).
"""

from forerun.sim.core.order import NEVER

PARAMS = {"call_s": 3.0}


def critical_path(request, now_ps, params):
    rest = int(request.left_calls * params[0] * 1e12)
    if request.deadline_ps == NEVER:
        return NEVER // 2 + rest
    return request.deadline_ps - rest
