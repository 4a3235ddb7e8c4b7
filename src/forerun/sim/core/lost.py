"""What a request had computed is lost: it is computed again.

Legend: r slot of a request.
"""

from __future__ import annotations

from forerun.sim.core import denoise, encode
from forerun.sim.core.jit import jit


@jit
def forget(state, r):
    """What r had computed is lost."""
    request = state.live[r]
    encode.start_over(request)
    if state.clock[0].denoises == 1:
        denoise.start_over(state, r)
    request.recomputed += request.n_computed
    request.n_computed = 0
    request.n_known = request.isl + request.n_out
    request.n_retries += 1
