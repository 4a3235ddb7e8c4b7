"""Moved if that takes less time than computing, by the estimates of both.

`margin` multiplies the time to move, 1 as in the source: above 1 it asks for more than a draw,
since a step that computes also serves others.  Source of the comparison: Jin et al., "Compute or
load KV cache? Why not both?" (Cake), 2024, without its overlap of the two.
"""

PARAMS = {"margin": 1.0}


def faster(request, engine, offer, params):
    if offer.move_ps * params[0] <= offer.compute_ps:
        return offer.n_blocks
    return 0
