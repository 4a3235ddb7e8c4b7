"""Adapters for the laws of the core: some of several ranks, and requests that name them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from fleets import assert_same

from forerun.sim.adapters import Fitting

#: how adapters can come, and who waits
WAYS = {
    "beside": {},
    "in step": {"in_step": True},
    "in order": {"in_order": True},
    "far": {"host_slots": 4, "max_adapters": 3},
    "in step, in order": {"in_step": True, "in_order": True, "gathered": True},
    **{
        f"paged, {name}": {"paged": True, **how}
        for name, how in {
            "beside": {},
            "in step": {"in_step": True, "leaves": "adapters"},
            "in order": {"in_order": True, "leaves": "at_once"},
            "adapters first": {"leaves": "adapters", "max_adapters": 4},
            "at once": {"leaves": "at_once"},
        }.items()
    },
}


def fitting(n=6, *, paged=False, **how):
    """n adapters, a thousand bytes and a millisecond of loading for each rank; in the KV cache a
    block for each four of them."""
    ranks = np.resize([8, 16, 32], n)
    costs = {"launch_s": 1e-4, "rank_s": 2e-5, "token_s": 1e-5, "rank_flop_s": 1e-6}
    sizes = {"load_bytes": ranks * 1e3, "near_s": ranks * 1e-3, "far_s": ranks * 4e-3}
    if paged:
        how = {"blocks": -(-ranks // 12), "n_slots": n, **how}
    return Fitting(**{"ranks": ranks, "max_adapters": 2, "n_slots": 3, **sizes, **costs, **how})


def fitted(pools, **how):
    return [replace(one, adapters=fitting(**how)) for one in pools]


def naming(requests, n=6, seed=0):
    """The same requests, each with a random adapter, or with none."""
    draw = np.random.default_rng(seed + 5)
    return replace(requests, adapter=draw.integers(-1, n, len(requests)))


def assert_adapters(server, pools):
    """Capacity at every step, and nothing left behind at the end."""
    log, state = server.log_so_far(), server._state
    one = next(served.adapters for served in pools if served.adapters is not None)
    if len(log.leaps):
        assert log.leaps["n_adapters"].max() <= one.max_adapters
        assert (log.leaps["n_adapters"] <= log.leaps["n_adapted"]).all()
    held = state.slots["held"].sum(axis=1)
    np.testing.assert_array_equal(held, log.fitted["n_held"])
    assert (held <= one.n_slots).all()
    blocks = state.slots["blocks"] * (state.slots["held"] == 1)
    np.testing.assert_array_equal(blocks, state.slots["blocks"])
    np.testing.assert_array_equal(blocks.sum(axis=1), log.fitted["idle_blocks"])
    assert (blocks.sum(axis=1) > 0).any() or one.blocks is None or not held.any()
    assert not state.replicas.n_apart.any()
    for name in ("n_using", "n_waiting", "n_decoding"):
        assert not state.slots[name].any(), name
    for name in ("n_active", "n_decode", "decode_ranks", "n_distinct", "distinct_ranks"):
        assert not log.fitted[name].any(), name
    return log


def assert_same_adapters(a, b):
    assert_same(a, b)
    for name in set(a.fitted.dtype.names) - {"rounds"}:
        np.testing.assert_array_equal(a.fitted[name], b.fitted[name], err_msg=name)
