"""What an engine reported every second or so, beside the simulation of its run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from forerun.calibrate.pictures import both
from forerun.metrics import latency
from forerun.sim.leaps import end_ps
from forerun.sim.log import Log


@dataclass(frozen=True, eq=False)
class Series:
    """One quantity over time: float64 [T] each, at t seconds of the run."""

    name: str
    t: np.ndarray
    recorded: np.ndarray
    simulated: np.ndarray

    @property
    def mean(self) -> float:
        """Of the run."""
        return float(self.recorded.mean())

    @property
    def difference(self) -> float:
        """Mean |simulated - recorded|."""
        return float(np.abs(self.simulated - self.recorded).mean())

    @property
    def plot(self) -> dict[str, Any]:
        """Both as lines over time."""
        rows = [
            {"x": float(x), "recorded": float(a), "simulated": float(b)}
            for x, a, b in zip(self.t, self.recorded, self.simulated, strict=True)
        ]
        return both(self.name, "s", "", rows, points=False)


def over_time(ticks: np.ndarray, log: Log) -> Iterator[Series]:
    """Batch, queue, output tokens a second, and use of the KV cache where that was recorded.

    ticks : float64 [T, 6]: t, prompt tokens/s, output tokens/s, running, waiting, KV cache in %,
    which is 0 throughout where the engine did not say.  Rates are of the time since the tick
    before; blocks held are those at the start of the steps under way.  The log is of one replica.
    """
    rows, leaps = log.requests, log.leaps
    assert leaps is not None
    if not len(ticks):
        return
    t, _, gen, running, waiting, kept = ticks.T
    arrival, began, ended = (
        rows[k] * latency.PS for k in ("arrival_ps", "scheduled_ps", "done_ps")
    )
    yield Series("running", t, running, ((began <= t[:, None]) & (t[:, None] < ended)).sum(axis=1))
    yield Series(
        "waiting", t, waiting, ((arrival <= t[:, None]) & (t[:, None] < began)).sum(axis=1)
    )
    start, end = leaps["start_ps"] * latency.PS, end_ps(leaps) * latency.PS
    tokens = leaps["n_seqs"].astype(float) * leaps["n_steps"]
    edges = np.concatenate([[t[0] - (t[1] - t[0] if len(t) > 1 else 1.0)], t])
    share = np.clip((edges[:, None] - start) / np.maximum(end - start, 1e-12), 0, 1) @ tokens
    yield Series("output tokens/s", t, gen, np.diff(share) / np.diff(edges))
    if kept.any():
        last = np.searchsorted(start, t, side="right") - 1
        held = np.where((last >= 0) & (t < end[last]), leaps["n_blocks"][last], 0)
        yield Series("KV cache, %", t, kept, 100.0 * held / log.kv_blocks[0])
