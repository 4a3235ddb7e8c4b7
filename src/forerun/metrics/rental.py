"""How long replicas were rented, powered and up, by the spans of a log; without any, always."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from forerun.metrics import work
from forerun.metrics.figure import Figure
from forerun.metrics.latency import PS
from forerun.metrics.window import View
from forerun.sim.log import COLD, PAID, POWERED, UP, WANTED  # noqa: F401  (said of spans)


def time_s(part: View, states: tuple[int, ...]) -> np.ndarray:
    """Seconds of the window that each replica spent in one of these states: float64 [replicas]."""
    n = len(part.log.pool_of_replica)
    if part.log.spans is None:
        return np.full(n, part.duration_s)
    out = np.zeros(n, dtype=np.int64)
    spans = part.log.spans[np.isin(part.log.spans["state"], states)]
    long = np.minimum(spans["to_ps"], part.end_ps) - np.maximum(spans["from_ps"], part.start_ps)
    np.add.at(out, spans["replica"], np.maximum(long, 0))
    return out * PS


def share(part: View, states: tuple[int, ...]) -> np.ndarray:
    """The same as a share of the window; ones without spans."""
    if part.log.spans is None or part.duration_s <= 0:
        return np.ones(len(part.log.pool_of_replica))
    return time_s(part, states) / part.duration_s


def devices_rented(part: View) -> float:
    """Devices paid for, on average over the window."""
    each = work.of_replica(part.log, "n_devices")
    return float((each * share(part, PAID)).sum())


@dataclass(frozen=True)
class Rental:
    """A fleet that changes: how much of it was there.  A replica has all its pipeline stages."""

    replicas_mean: float  # paid for
    replicas_peak: int
    device_hours: float  # paid for
    cold_share: float | None  # of the paid time
    availability: float | None  # time up over time wanted; None when nothing was wanted
    lost_s: float  # of steps that failures cut short, all replicas


def rental(part: View) -> Rental | None:
    """None for a log without spans: everything was there all the time."""
    log = part.log
    if log.spans is None or part.duration_s <= 0:
        return None
    stages = np.array([t.stages for t in log.tables])[log.pool_of_replica]
    paid, up, wanted = (time_s(part, states) for states in (PAID, (UP,), (WANTED,)))
    cold = time_s(part, (COLD,))
    return Rental(
        replicas_mean=float((paid / stages).sum()) / part.duration_s,
        replicas_peak=_peak(part, stages),
        device_hours=devices_rented(part) * part.duration_s / 3600,
        cold_share=float(cold.sum() / paid.sum()) if paid.sum() > 0 else None,
        availability=float(min(up.sum() / wanted.sum(), 1.0)) if wanted.sum() > 0 else None,
        lost_s=float(log.replicas["lost_ps"].sum()) * PS,
    )


def figures(part: View) -> dict[str, Any]:
    """How much of a fleet that changes was there; None each for one that does not."""
    found = rental(part)
    units = {
        "replicas_mean": "replicas", "replicas_peak": "replicas", "device_hours": "device-hours",
        "cold_share": "share", "availability": "share", "lost_s": "s",
    }  # fmt: skip
    return {
        name: Figure(None if found is None else getattr(found, name), unit, "replicas' states")
        for name, unit in units.items()
    }


def _peak(part: View, stages: np.ndarray) -> int:
    """The most replicas paid for at once in the window."""
    assert part.log.spans is not None
    spans = part.log.spans[np.isin(part.log.spans["state"], PAID)]
    spans = spans[(spans["from_ps"] < part.end_ps) & (spans["to_ps"] > part.start_ps)]
    each = 1.0 / stages[spans["replica"]]
    times = np.concatenate([spans["from_ps"], spans["to_ps"]])
    steps = np.concatenate([each, -each])
    # what ends at a moment goes before what begins then
    order = np.lexsort((steps, times))
    return round(float(np.max(np.cumsum(steps[order]), initial=0.0)))
