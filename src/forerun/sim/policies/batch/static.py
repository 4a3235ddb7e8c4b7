"""Request-level batching (FasterTransformer): a batch runs to its end before the next starts.

What is still to be computed of prompts comes first: of those that join the batch when their KV has
come from a tier, and of one that was cut because it outgrew a step.
"""

from forerun.sim.core.signatures import IF_NO_PREFILL, YES


def static(replica, engine, params):
    if replica.n_running == 0:
        return IF_NO_PREFILL, engine.max_tokens, 1, engine.max_seqs
    if replica.n_decode == 0:  # its prompts are to be computed: what they need has just come
        return IF_NO_PREFILL, engine.max_tokens, 1, 0
    return YES, 0, 1, 0
