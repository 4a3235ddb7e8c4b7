"""Turned away when its deadline cannot be met: what would be refused late is refused at once.

The wait is judged by the prompt tokens ahead of it at the least loaded replica, computed at
`tokens_per_s`, its own prompt behind them, and `answer_s` for its answer.
Both are estimates: 20,000 tokens a second are about what an 8B model computes on one H100, and an
answer of no time refuses only what is surely late.  Set them too fast and requests are let in that
miss their deadline; too slow, and some are refused that would have met it.
"""

from forerun.sim.core.order import NEVER
from forerun.sim.core.signatures import OUTSTANDING_TOKENS

PARAMS = {"tokens_per_s": 20000.0, "answer_s": 0.0}


def feasible(request, load, now_ps, params, memory):
    if request.deadline_ps == NEVER:
        return 1
    ahead = load[OUTSTANDING_TOKENS, 0]
    for i in range(1, load.shape[1]):
        ahead = min(ahead, load[OUTSTANDING_TOKENS, i])
    ahead += request.isl
    return 1 if now_ps + (ahead / params[0] + params[1]) * 1e12 <= request.deadline_ps else 0
