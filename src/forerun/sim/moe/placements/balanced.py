"""Copies for the most chosen experts, then the heaviest slot first onto the lightest device.

Greedy as DeepSeek's EPLB (github.com/deepseek-ai/EPLB): a copy goes to the expert with the most
load a copy, and slots are packed longest first (LPT, Graham 1969) with equally many on each device.
Copies share an expert's tokens evenly.  Where fewer copies would leave the busiest device lighter,
the rest repeat an expert on its own device, so more slots never make it heavier.
"""

from __future__ import annotations

import heapq

import numpy as np

LEARNS = True


def balanced(load, flow, *, n_devices, n_slots):
    E = len(load)
    best, least = None, np.inf
    fewest = -(-E // n_devices) * n_devices
    for n in range(fewest, n_slots + 1, n_devices):
        found = packed(load, copied(load, n), n_devices)
        filled = _filled(found, n_slots // n_devices, n_devices)
        if filled is None:
            continue
        busiest = device_loads(load, filled, n_devices).max()
        if busiest < least * (1 - 1e-12):
            best, least = filled, busiest
    if best is None:
        best = packed(load, copied(load, n_slots), n_devices)
    return best


def copied(load, n_slots):
    """Experts of n_slots slots: each once, further copies to the most loaded a copy."""
    times = np.ones(len(load))
    slots = list(range(len(load)))
    for _ in range(n_slots - len(load)):
        e = int(np.argmax(load / times))
        times[e] += 1
        slots.append(e)
    return np.array(slots, dtype=np.int64)


def packed(load, slots, n_devices):
    """Slots in the order of devices: the heaviest first, onto the lightest that has room."""
    each = load[slots] / np.bincount(slots, minlength=len(load))[slots]
    room = len(slots) // n_devices
    lightest = [(0.0, d) for d in range(n_devices)]
    held: list[list[int]] = [[] for _ in range(n_devices)]
    for s in np.argsort(-each, kind="stable"):
        weight, d = heapq.heappop(lightest)
        held[d].append(int(slots[s]))
        if len(held[d]) < room:
            heapq.heappush(lightest, (weight + float(each[s]), d))
    return np.array(held, dtype=np.int64).ravel()


def device_loads(load, slots, n_devices):
    """Share of pairs on each device, float64 [n_devices]."""
    each = load[slots] / np.bincount(slots, minlength=len(load))[slots]
    return each.reshape(n_devices, -1).sum(axis=1)


def _filled(slots, room, n_devices):
    """The same placement with `room` slots a device: the rest repeat an expert of that device
    alone, which moves no load.  None where a device has none."""
    rows = slots.reshape(n_devices, -1)
    if rows.shape[1] == room:
        return slots
    where: list[set[int]] = [set() for _ in range(int(slots.max()) + 1)]
    for d, row in enumerate(rows):
        for e in row:
            where[e].add(d)
    out = []
    for row in rows:
        own = [int(e) for e in row if len(where[e]) == 1]
        if not own:
            return None
        out.append([*row, *[own[0]] * (room - len(row))])
    return np.array(out, dtype=np.int64).ravel()
