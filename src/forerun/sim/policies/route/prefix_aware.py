"""Where the least is left to do: prompt tokens that are not kept there, beside the load.

A replica's cost is the tokens of this prompt that it would compute, plus `load_tokens` for every
request already there: with 0 only the prefix counts, with much only the load.  256 is an estimate:
what a request in an answer takes of a step, in prompt tokens.
Source: the cost of NVIDIA Dynamo's KV router, overlap and active blocks weighed against each other
(docs/architecture/kv_cache_routing.md, 2025).
"""

from forerun.sim.core.least import is_better
from forerun.sim.core.signatures import CACHED, OUTSTANDING, OUTSTANDING_TOKENS

CACHED_WANTED = True
PARAMS = {"load_tokens": 256.0}


def prefix_aware(request, load, params, memory, rng):
    best = -1
    least = 0.0
    for c in range(load.shape[1]):
        cost = load[OUTSTANDING_TOKENS, c] - load[CACHED, c] + params[0] * load[OUTSTANDING, c]
        if is_better(load, c, cost, best, least):
            best = c
            least = cost
    return best
