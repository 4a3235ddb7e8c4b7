"""Experts dealt out one by one (vLLM's --expert-placement-strategy round_robin)."""

from __future__ import annotations

import numpy as np

LEARNS = False


def round_robin(load, flow, *, n_devices, n_slots):
    dealt = np.arange(n_slots) % len(load)
    return dealt.reshape(-1, n_devices).T.ravel()
