"""Mergeable sketches: latencies of runs too large to keep a row a request.

A `Sketch` is a histogram with logarithmic cells, so any percentile is off by at most 0.5 % of
itself (the idea of DDSketch, Masson et al., VLDB 2019).  Every sketch has the same cells: merging
is adding.  Count, sum, smallest and largest are exact.

    cell of x = ceil(log(x / 1e-12 s) / log(gamma)),  gamma = (1 + 0.005) / (1 - 0.005)

Definitions of the latencies are those of `latency`; a test compares both on the same log.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from forerun.metrics import latency
from forerun.metrics.gaps import Gaps, itl
from forerun.metrics.goodput import good
from forerun.metrics.stats import PERCENTILES, Quantiles
from forerun.sim.core.rows_log import STATUS
from forerun.sim.log import Log

if TYPE_CHECKING:
    from forerun.sim.settings import Batches  # imports the core, which a reader of logs need not
from forerun.spec.slo import Slo

ERROR = 0.005
SMALLEST_S = 1e-12
LARGEST_S = 1e8
LOG_GAMMA = math.log((1 + ERROR) / (1 - ERROR))
N_CELLS = math.ceil(math.log(LARGEST_S / SMALLEST_S) / LOG_GAMMA) + 1
CHUNK = 1 << 20  # gaps expanded at a time


def cell_of(values_s: np.ndarray) -> np.ndarray:
    """The cell of each value in seconds: int64, 0 for all up to a picosecond."""
    clipped = np.clip(values_s, SMALLEST_S, LARGEST_S)
    return np.ceil(np.log(clipped / SMALLEST_S) / LOG_GAMMA - 1e-9).astype(np.int64)


def value_of(cell: np.ndarray) -> np.ndarray:
    """The value that is within 0.5 % of everything in a cell: 2 gamma^i / (gamma + 1)."""
    gamma = math.exp(LOG_GAMMA)
    return SMALLEST_S * np.exp(np.asarray(cell) * LOG_GAMMA) * 2 / (gamma + 1)


@dataclass(frozen=True, eq=False)
class Sketch:
    """A distribution in 37 kB.  counts : int64 [N_CELLS]."""

    counts: np.ndarray = field(default_factory=lambda: np.zeros(N_CELLS, np.int64))
    total_s: float = 0.0
    min_s: float = math.inf
    max_s: float = -math.inf

    @property
    def n(self) -> int:
        return int(self.counts.sum())

    def add(self, values_s: np.ndarray, weights: np.ndarray | None = None) -> Sketch:
        """With further values (seconds, >= 0; NaN means no such latency and is left out)."""
        values_s = np.asarray(values_s, dtype=float)
        known = ~np.isnan(values_s)
        x = values_s[known]
        if not len(x):
            return self
        if x.min() < 0:
            raise ValueError("a latency below zero")
        w = None if weights is None else np.asarray(weights)[known].astype(np.int64)
        if w is None:
            counts = np.bincount(cell_of(x), minlength=N_CELLS)
        else:  # not bincount, which would sum the weights as floats
            counts = np.zeros(N_CELLS, np.int64)
            np.add.at(counts, cell_of(x), w)
        total = float(x.sum() if w is None else (x * w).sum())
        return self.merge(Sketch(counts, total, float(x.min()), float(x.max())))

    def add_gaps(self, gaps: Gaps) -> Sketch:
        """With inter-token gaps, expanded a bounded chunk at a time."""
        out, ends = self, np.cumsum(gaps.n)
        begin = 0
        while begin < len(ends):
            base = int(ends[begin - 1]) if begin else 0
            stop = max(begin + 1, int(np.searchsorted(ends, base + CHUNK, side="right")))
            out = out._expanded(gaps, begin, stop)
            begin = stop
        if gaps.count <= 0:
            return self
        # runs of negative weight took values away, so the ends are asked of the gaps themselves
        low, high = gaps.quantiles_s([0.0, 1.0])
        return replace(out, min_s=min(self.min_s, low), max_s=max(self.max_s, high))

    def _expanded(self, gaps: Gaps, begin: int, stop: int) -> Sketch:
        n = gaps.n[begin:stop]
        out = self
        for low in range(0, int(n.max()), CHUNK):  # one leap may be longer than a chunk
            k = np.clip(n - low, 0, CHUNK)
            i = low + np.arange(int(k.sum())) - np.repeat(np.cumsum(k) - k, k)
            gap = np.repeat(gaps.first_ps[begin:stop], k) + i * np.repeat(
                gaps.slope_ps[begin:stop], k
            )
            out = out.add(gap * latency.PS, np.repeat(gaps.weight[begin:stop], k))
        return out

    def merge(self, other: Sketch) -> Sketch:
        """Both together; in any order and grouping the counts are the same."""
        return Sketch(
            self.counts + other.counts,
            self.total_s + other.total_s,
            min(self.min_s, other.min_s),
            max(self.max_s, other.max_s),
        )

    def quantile(self, q: float) -> float | None:
        """The q-quantile (0 to 1) within 0.5 % of numpy's, None when empty."""
        n = self.n
        if n == 0:
            return None
        cumulative = np.cumsum(self.counts)
        h = (n - 1) * q
        below = math.floor(h)
        ranks = np.array([below, min(below + 1, n - 1)])
        pair = value_of(np.searchsorted(cumulative, ranks, side="right"))
        low, high = np.clip(pair, self.min_s, self.max_s)
        return float(low + (high - low) * (h - below))

    def quantiles(self) -> Quantiles:
        """As for exact values; percentiles within 0.5 %, the rest exact."""
        if self.n == 0:
            return Quantiles(source="sketch, within 0.5 %")
        p50, p90, p95, p99 = (self.quantile(q) for q in PERCENTILES.values())
        return Quantiles(
            self.n, self.total_s / self.n, self.min_s, p50, p90, p95, p99, self.max_s,
            source="sketch, within 0.5 %",
        )  # fmt: skip


#: what is counted beside the latencies
COUNTERS = (*STATUS, "input_tokens", "output_tokens", "preemptions", "recomputed_tokens", "good")


@dataclass(frozen=True, eq=False)
class SketchLog:
    """All that is kept of a run too large to log.  `counters` has the names of COUNTERS.

    `good` counts requests that met the SLO that was given when the rows were seen.
    """

    counters: Mapping[str, int] = field(default_factory=lambda: dict.fromkeys(COUNTERS, 0))
    ttft_s: Sketch = field(default_factory=Sketch)
    tpot_s: Sketch = field(default_factory=Sketch)
    e2el_s: Sketch = field(default_factory=Sketch)
    itl_s: Sketch = field(default_factory=Sketch)

    def add(self, log: Log | Batches, slo: Slo | None = None) -> SketchLog:
        """With all rows of a log, or of a batch of rows that leaves the core."""
        rows = log.requests
        done = rows[latency.finished(rows)]
        seen = {name: int(np.sum(rows["status"] == code)) for name, code in STATUS.items()}
        seen |= {
            "input_tokens": int(done["isl"].sum(dtype=np.int64)),
            "output_tokens": int(rows["n_out"].sum(dtype=np.int64)),
            "preemptions": int(rows["n_preempt"].sum(dtype=np.int64)),
            "recomputed_tokens": int(rows["recomputed"].sum(dtype=np.int64)),
            "good": int(good(rows, slo or Slo()).sum()),
        }
        gaps = self.itl_s
        if log.leaps is not None and log.gaps is not None and len(log.leaps):
            gaps = gaps.add_gaps(itl(log.leaps, log.gaps))
        return SketchLog(
            {name: self.counters[name] + seen[name] for name in COUNTERS},
            self.ttft_s.add(latency.ttft_s(done)),
            self.tpot_s.add(latency.tpot_s(done)),
            self.e2el_s.add(latency.e2el_s(done)),
            gaps,
        )

    def merge(self, other: SketchLog) -> SketchLog:
        """Both together."""
        return SketchLog(
            {name: self.counters[name] + other.counters[name] for name in COUNTERS},
            self.ttft_s.merge(other.ttft_s),
            self.tpot_s.merge(other.tpot_s),
            self.e2el_s.merge(other.e2el_s),
            self.itl_s.merge(other.itl_s),
        )

    def quantiles(self) -> dict[str, Quantiles]:
        """By latency."""
        names = ("ttft_s", "tpot_s", "itl_s", "e2el_s")
        return {name: getattr(self, name).quantiles() for name in names}
