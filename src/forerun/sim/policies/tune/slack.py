"""As many tuning tokens as fit a step of `step_s` seconds: the time a token may take."""

PARAMS = {"step_s": 0.03, "tokens": 8192.0}


def slack(replica, engine, params):
    return int(params[1]), int(params[0] * 1e12)
