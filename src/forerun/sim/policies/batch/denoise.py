"""Requests join a step whole, with all their tokens, while those of the step stay in the budget.

For replicas that denoise: whoever has begun takes part in every step until its last one.
"""

from forerun.sim.core.signatures import YES


def denoise(replica, engine, params):
    return YES, max(0, engine.max_tokens - replica.ctx), 1, engine.max_seqs
