"""The same number of tokens for every request in every step: `k`, or all that the engine may.

Source: `num_speculative_tokens` of vLLM; -1 takes the engine's own.
"""

PARAMS = {"k": -1.0}


def fixed(request, replica, engine, step_ps, params):
    k = int(params[0])
    if k < 0:
        return engine.draft_most
    return min(k, engine.draft_most)
