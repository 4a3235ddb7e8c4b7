"""Experts near those that their tokens come from, as far as devices stay balanced.

After ExFlow (Yao et al., arXiv:2401.08383), greedily instead of by an integer program: the heaviest
slot first, to the device from which most of its tokens come among those that stay within SLACK of
the mean, or to the lightest.  Then slots of the busiest and the lightest device change places,
those that lose least nearness for the load they move, until it is within SLACK or nothing helps.
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
    place = np.array(held, dtype=np.int64)
    times = np.bincount(slots, minlength=len(load))
    for _ in range(4 * n_slots):
        if not _swapped(place, load / times, flow, most):
            break
    return place.ravel()


def _swapped(place, each, flow, most):
    """Whether two slots of `place` [D, room] changed places for a lighter busiest device."""
    weight = each[place].sum(axis=1)
    d, l = int(np.argmax(weight)), int(np.argmin(weight))
    if weight[d] <= most:
        return False
    a, b = place[d][:, None], place[l][None, :]
    moves = each[a] - each[b]
    lost = flow[d][a] + flow[l][b] - flow[l][a] - flow[d][b]
    helps = (moves > 0) & (moves < weight[d] - weight[l])
    if not helps.any():
        return False
    price = np.where(helps, lost / np.where(helps, np.minimum(moves, weight[d] - most), 1), np.inf)
    i, j = np.unravel_index(int(np.argmin(price)), price.shape)
    place[d, i], place[l, j] = place[l, j], place[d, i]
    return True
