"""Iteration-level batching with whole prompts beside decodes (Orca).

Source: Yu et al., Orca, OSDI 2022.
"""

from forerun.sim.core.signatures import YES


def whole(replica, engine, params):
    return YES, engine.max_tokens - replica.n_decode, 1, engine.max_seqs
