"""Inter-token latencies of a whole run: billions of gaps, never expanded.

Within a leap the gaps are an arithmetic series, each `n_decode` times; a GAP row moves `count` of
them, in the step that ends at its `end_ps`, to a longer value, or (resumed = 1) adds `count` gaps
across a preemption, whose tokens came out of a recomputation and not of decoding.  Tokens accepted
together (`n_extra` of a leap, which is then one step) come with the step's own: gaps of 0.  A
percentile is
an order statistic of that multiset, found exactly by bisection on the value in picoseconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from forerun.metrics.latency import PS
from forerun.metrics.stats import PERCENTILES, Quantiles


@dataclass(frozen=True, eq=False)
class Gaps:
    """Runs of gaps: first_ps + i*slope_ps for i < n, each `weight` times.  int64 [R] each.

    A negative weight takes gaps away that another run holds.  slope_ps >= 0.
    """

    first_ps: np.ndarray
    slope_ps: np.ndarray
    n: np.ndarray
    weight: np.ndarray

    @property
    def count(self) -> int:
        return int(np.sum(self.n * self.weight))

    def mean_s(self) -> float | None:
        one = self.n * self.first_ps + self.slope_ps * (self.n * (self.n - 1) // 2)
        total = float(np.sum(self.weight * one.astype(float)))  # could pass int64's range
        return total / self.count * PS if self.count else None

    def quantiles_s(self, q: Sequence[float]) -> list[float]:
        """np.quantile over the expanded gaps, seconds.  Raises ValueError when there are none."""
        if self.count <= 0:
            raise ValueError("a percentile of no gaps")
        out = []
        for one in q:
            h = (self.count - 1) * one
            below = int(h)
            lower = self._order_statistic(below)
            upper = self._order_statistic(min(below + 1, self.count - 1)) if h > below else lower
            out.append((lower + (upper - lower) * (h - below)) * PS)
        return out

    def _order_statistic(self, rank: int) -> int:
        """The gap with `rank` gaps before it when all are sorted, in picoseconds."""
        first, slope, n, weight = self.first_ps, self.slope_ps, self.n, self.weight
        last = first + slope * (n - 1)
        low, high = int(first.min()), int(last.max())
        settled = 0  # gaps in runs that lie wholly at or below `low - 1`
        while low < high:
            mid = (low + high) // 2
            k = np.clip((mid - first) // np.maximum(slope, 1) + 1, 0, n)
            k = np.where(slope == 0, np.where(first <= mid, n, 0), k)
            if settled + int(np.sum(k * weight)) > rank:
                high = mid
                keep = first <= high
            else:
                low = mid + 1
                keep = last >= low
                settled += int(np.sum((n * weight)[~keep]))
            if not keep.all():
                first, slope, n, weight, last = (x[keep] for x in (first, slope, n, weight, last))
        return low


def itl(leaps: np.ndarray, gaps: np.ndarray) -> Gaps:
    """All gaps between tokens that rows of dtype LEAP and GAP tell of.

    Raises ValueError if a GAP row names a step that is not the first of one of these leaps, or
    takes more gaps than that step has: the log contradicts itself.
    """
    decoding = leaps[leaps["n_decode"] > 0]
    n = decoding["n_steps"].astype(np.int64)
    first, slope = decoding["first_ps"], decoding["slope_ps"]
    parts = [(first + np.minimum(slope, 0) * (n - 1), np.abs(slope), n, decoding["n_decode"])]
    moved = gaps[gaps["resumed"] == 0]
    if len(moved):
        at = _first_steps(decoding, moved)
        by_leap = np.bincount(at, weights=moved["count"], minlength=len(decoding))
        if np.any(by_leap > decoding["n_decode"]):
            raise ValueError("GAP rows count more requests than their step has decoding")
        parts.append((first[at], 0 * at, 0 * at + 1, -moved["count"].astype(np.int64)))
    together = decoding["n_extra"][decoding["n_extra"] > 0].astype(np.int64)
    parts.append((0 * together, 0 * together, 0 * together + 1, together))
    zero = np.zeros(len(gaps), np.int64)
    parts.append((gaps["gap_ps"], zero, zero + 1, gaps["count"]))
    columns = (np.concatenate(c).astype(np.int64) for c in zip(*parts, strict=True))
    return Gaps(*columns)


def _first_steps(leaps: np.ndarray, gaps: np.ndarray) -> np.ndarray:
    """For each GAP row the leap whose first step ends at its end_ps: int64 [gaps]."""
    if not len(leaps):
        raise ValueError("GAP rows without a decoding step")
    ends = leaps["start_ps"] + leaps["first_ps"]
    order = np.lexsort((ends, leaps["replica"]))
    key = np.empty(len(leaps) + len(gaps), dtype=[("replica", "i8"), ("end", "i8")])
    key["replica"] = np.concatenate([leaps["replica"][order], gaps["replica"]])
    key["end"] = np.concatenate([ends[order], gaps["end_ps"]])
    _, code = np.unique(key, return_inverse=True)
    known, wanted = code[: len(leaps)], code[len(leaps) :]
    at = np.minimum(np.searchsorted(known, wanted), len(leaps) - 1)
    if np.any(known[at] != wanted):
        raise ValueError("a GAP row names a step that no leap starts with")
    return order[at]


def itl_quantiles(gaps: Gaps) -> Quantiles:
    """The distribution of all gaps, each token's gap counting once.  No sampling interval."""
    if gaps.count == 0:
        return Quantiles(source="steps")
    low, p50, p90, p95, p99, high = gaps.quantiles_s([0.0, *PERCENTILES.values(), 1.0])
    return Quantiles(gaps.count, gaps.mean_s(), low, p50, p90, p95, p99, high, source="steps")
