"""What the loop calls by address: two processes compile the engine, each about half of it.

Compiled, `state` says where the code of each of these is (`native.py`), so the loop is compiled
without them and they without it; the source is called as it stands.
"""

from __future__ import annotations

from forerun.sim.core import batch


def form(state, i, t):
    """`batch.form`: the leap of replica i that starts at t."""
    return batch.form(state, i, t)
