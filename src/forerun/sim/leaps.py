"""What LEAP rows say: durations, steps by a time, amounts over time.

Step i (0-based) of a leap lasts first_ps + i*slope_ps, so k steps last
k*first_ps + slope_ps*k*(k-1)/2, exactly, in int64.
"""

from __future__ import annotations

import numpy as np


def span_ps(leaps: np.ndarray, k: np.ndarray | None = None) -> np.ndarray:
    """How long the first k steps of each leap last (all of them by default): int64 [L]."""
    k = leaps["n_steps"].astype(np.int64) if k is None else k.astype(np.int64)
    return k * leaps["first_ps"] + leaps["slope_ps"] * (k * (k - 1) // 2)


def end_ps(leaps: np.ndarray) -> np.ndarray:
    """When each leap's last step ends: int64 [L]."""
    return leaps["start_ps"] + span_ps(leaps)


def steps_ended_by(leaps: np.ndarray, t_ps: np.ndarray | int) -> np.ndarray:
    """How many steps of each leap ended at or before a time, one or one a leap: int64 [L]."""
    t = np.broadcast_to(np.asarray(t_ps, dtype=np.int64), len(leaps))
    n = leaps["n_steps"].astype(np.int64)
    k = np.where(end_ps(leaps) <= t, n, 0)
    cut = np.flatnonzero((leaps["start_ps"] < t) & (k < n))
    low, high = np.zeros(len(cut), np.int64), n[cut] - 1
    rows, until = leaps[cut], t[cut]
    while np.any(low < high):  # exact bisection on the step number
        mid = (low + high + 1) // 2
        ok = rows["start_ps"] + span_ps(rows, mid) <= until
        low, high = np.where(ok, mid, low), np.where(ok, high, mid - 1)
    k[cut] = low
    return k


def step_of(leaps: np.ndarray, k: np.ndarray) -> np.ndarray:
    """Step number k of each leap, as a leap of its own."""
    return _after(leaps, k, 1)


def _after(leaps: np.ndarray, k: np.ndarray, n: np.ndarray | int) -> np.ndarray:
    """The n steps of each leap that follow its first k."""
    rows = leaps.copy()
    rows["start_ps"] += span_ps(rows, k)
    rows["first_ps"] += rows["slope_ps"] * k
    rows["ctx"] += (rows["n_decode"] - rows["n_still"]) * k
    rows["past"] += rows["chunk"] * k
    rows["scored"] += rows["n_scored"] * k
    rows["n_steps"] = n
    return rows


def clip(leaps: np.ndarray, from_ps: int, to_ps: int) -> np.ndarray:
    """The leaps' steps that end in (from_ps, to_ps], as leaps."""
    before, by = steps_ended_by(leaps, from_ps), steps_ended_by(leaps, to_ps)
    keep = by > before
    return _after(leaps[keep], before[keep], (by - before)[keep])


def amount_by(
    edges_ps: np.ndarray, start_ps: np.ndarray, stop_ps: np.ndarray, amount: np.ndarray
) -> np.ndarray:
    """How much of all amounts, each spread evenly over its stretch, came by each edge: [E].

    sum over stretches of amount * clip((t - start)/(stop - start), 0, 1), by prefix sums over
    sorted starts and stops, so the cost is that of two sorts whatever the number of edges.
    A stretch of no length counts whole from its start.
    """
    if len(amount) == 0:
        return np.zeros(len(edges_ps))
    origin = int(start_ps.min())
    length = stop_ps - start_ps
    point = length <= 0
    rate = np.where(point, 0.0, amount / np.where(point, 1, length))
    t = (np.asarray(edges_ps) - origin).astype(float)
    total = np.zeros(len(t))
    for moments, sign in ((start_ps, 1.0), (stop_ps, -1.0)):
        order = np.argsort(moments, kind="stable")
        at = (moments[order] - origin).astype(float)
        rates = np.concatenate([[0.0], np.cumsum(rate[order])])
        moment_sums = np.concatenate([[0.0], np.cumsum(rate[order] * at)])
        i = np.searchsorted(at, t, side="left")
        total += sign * (rates[i] * t - moment_sums[i])
    if point.any():
        order = np.argsort(start_ps[point], kind="stable")
        sums = np.concatenate([[0.0], np.cumsum(amount[point][order])])
        total += sums[np.searchsorted(start_ps[point][order], np.asarray(edges_ps), side="right")]
    total = np.where(np.asarray(edges_ps) >= int(stop_ps.max()), float(amount.sum()), total)
    return np.maximum.accumulate(np.maximum(total, 0.0)) if (amount >= 0).all() else total
