"""Who can wait least is next: due, less the time its work will take.

Due is the first token (goal of its class) less its prompt, and the whole answer (its deadline) less
prompt and answer; the nearer of the two counts.  The prompt goes at `tokens_per_s`, the answer is
thought to have `answer_tokens`, each `token_s` after the one before.  As time passes all have as
much less slack, so who is asked once stays in place.
"""

from forerun.sim.core.order import NEVER

PARAMS = {"tokens_per_s": 10000.0, "answer_tokens": 256.0, "token_s": 0.02}


def least_slack(request, now_ps, params):
    prompt = int(request.n_known / params[0] * 1e12)
    answer = int(params[1] * params[2] * 1e12)
    key = NEVER
    if request.first_by_ps != NEVER and request.first_token_ps < 0:
        key = request.first_by_ps - prompt
    if request.deadline_ps != NEVER:
        key = min(key, request.deadline_ps - prompt - answer)
    return key
