"""Stall-free batching (Sarathi-Serve): decodes first, then chunks up to a token budget.

The same as `chunked` with a budget of its own: `chunk_tokens` bounds a step's tokens, decodes
included; 0 takes the engine's max_num_batched_tokens.
Source: Agrawal et al., Sarathi-Serve, OSDI 2024, algorithm 3.
"""

from forerun.sim.core.signatures import YES

PARAMS = {"chunk_tokens": 512.0}


def decode_first(replica, engine, params):
    budget = engine.max_tokens
    if params[0] > 0:
        budget = min(budget, int(params[0]))
    return YES, max(0, budget - replica.n_decode), 0, engine.max_seqs
