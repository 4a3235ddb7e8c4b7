"""As many tuning tokens as fit a step of `step_s` seconds: the time a token may take.

Source of the idea: FlexLLM (Oliaro et al., NSDI 2026), which fills what inference leaves of a
step's time.  30 ms and at most 8192 `tokens` are estimates: give the goal of your own answers.
"""

PARAMS = {"step_s": 0.03, "tokens": 8192.0}


def slack(replica, engine, params):
    return int(params[1]), int(params[0] * 1e12)
