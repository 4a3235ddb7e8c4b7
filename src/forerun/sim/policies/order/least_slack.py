"""Who can wait least is next: due, less the time its work will take.

Due is the first token (goal of its class) less its prompt, and the whole answer (its deadline) less
prompt and answer; the nearer of the two counts.  The prompt goes at `tokens_per_s`, the answer is
thought to have `answer_tokens`, each `token_s` after the one before.  As time passes all have as
much less slack, so who is asked once stays in place.
All three are estimates, of an 8B model on one H100 under load: they order requests whose prompts or
goals differ, and cancel out where all are alike.  Too slow a `tokens_per_s` favours long prompts,
too long an answer those that have a deadline over those with a first token due.
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
