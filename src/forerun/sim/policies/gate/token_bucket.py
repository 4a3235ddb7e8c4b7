"""Each tenant has a bucket of tokens: `per_s` flow in, `burst` at most stay, prompts take theirs.

A request is let in when the bucket holds its prompt, so the prompt tokens let in over any time T
are at most per_s * T + burst.
Both are estimates: give the limits of your own tenants.
Source: the token bucket of rate limits (Turner, "New directions in communications", 1986).
"""

from forerun.sim.core.signatures import GATE_OF_TENANT

PARAMS = {"per_s": 10000.0, "burst": 20000.0}


def token_bucket(request, load, now_ps, params, memory):
    # in millionths of a token: what has been taken and not flowed in again, and as of when
    at = GATE_OF_TENANT + 2 * request.tenant
    flowed = int((now_ps - memory[at + 1]) * 1e-6 * params[0])
    taken = max(0, memory[at] - flowed)
    memory[at], memory[at + 1] = taken, now_ps
    if taken + request.isl * 1000000 > params[1] * 1e6:
        return 0
    memory[at] = taken + request.isl * 1000000
    return 1
