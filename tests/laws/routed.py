"""Shares of experts, window by window."""

from __future__ import annotations

from itertools import islice

import numpy as np

from forerun.sim.moe import routing


def windows_of(how, n=5, *, seed=0, n_layers=3, n_experts=16, topk=4, window_s=10.0):
    drawn = routing.shares(
        how, n_layers=n_layers, n_experts=n_experts, topk=topk, window_s=window_s, seed=seed
    )
    return np.array(list(islice(drawn, n)))
