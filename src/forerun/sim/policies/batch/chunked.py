"""One token budget for everything (vLLM V1): decodes take a token each, prompts the rest.

Prompts are cut at the budget, so no decode ever waits for a whole prompt.
"""

from forerun.sim.core.signatures import YES


def chunked(replica, engine, params):
    return YES, engine.max_tokens - replica.n_decode, 0, engine.max_seqs
