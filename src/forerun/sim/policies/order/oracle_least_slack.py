"""`least_slack` that knows how long each answer will be: what predicting lengths could gain.

As there, `tokens_per_s` and `token_s` are estimates: too slow a rate favours long prompts, too long
a time a token long answers.
"""

from forerun.sim.core.order import NEVER

PARAMS = {"tokens_per_s": 10000.0, "token_s": 0.02}


def oracle_least_slack(request, now_ps, params):
    prompt = int(request.n_known / params[0] * 1e12)
    answer = int((request.isl + request.osl - request.n_known) * params[1] * 1e12)
    key = NEVER
    if request.first_by_ps != NEVER and request.first_token_ps < 0:
        key = request.first_by_ps - prompt
    if request.deadline_ps != NEVER:
        key = min(key, request.deadline_ps - prompt - answer)
    return key
