"""Experts near those that their tokens come from, as far as devices stay balanced.

After ExFlow (Yao et al., arXiv:2401.08383), greedily instead of by an integer program: the heaviest
slot first, to the device from which most of its tokens come among those that stay within SLACK of
the mean; where none does, to the lightest.
"""

from __future__ import annotations

import numpy as np

from forerun.sim.moe.placements.balanced import balanced, copied

LEARNS = True
SLACK = 1.05  # load of a device over the mean that nearness may cost


def affine(load, flow, *, n_devices, n_slots):
    if flow is None:
        return balanced(load, flow, n_devices=n_devices, n_slots=n_slots)
    slots = copied(load, n_slots)
    each = load[slots] / np.bincount(slots, minlength=len(load))[slots]
    room = n_slots // n_devices
    held: list[list[int]] = [[] for _ in range(n_devices)]
    weight = np.zeros(n_devices)
    most = SLACK * load.sum() / n_devices
    for s in np.argsort(-each, kind="stable"):
        e = int(slots[s])
        free = np.array([len(h) < room for h in held])
        fits = free & (weight + each[s] <= most)
        if fits.any():
            d = int(np.argmax(np.where(fits, flow[:, e], -1.0)))
        else:
            d = int(np.argmin(np.where(free, weight, np.inf)))
        held[d].append(e)
        weight[d] += each[s]
    return np.array(held, dtype=np.int64).ravel()
