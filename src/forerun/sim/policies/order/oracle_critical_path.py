"""`critical_path` that knows all lengths: the most tokens from here to the end, each `token_s`.

5 ms is an estimate: what a token of prompt and answer together takes in a chat.  The more, the more
the work that is left counts beside the deadline.
"""

from forerun.sim.core.order import NEVER

PARAMS = {"token_s": 0.005}


def oracle_critical_path(request, now_ps, params):
    rest = int(request.left_tokens * params[0] * 1e12)
    if request.deadline_ps == NEVER:
        return NEVER // 2 + rest
    return request.deadline_ps - rest
