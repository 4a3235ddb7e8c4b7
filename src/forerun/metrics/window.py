"""`View`: the part of a log that a window selects.

Latencies and attainment are those of requests that *arrive* in the window, rates those of requests
that *end* in it, everything else that of steps that end in it.  Without a window all three are the
whole run, warm-up and drain included.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from forerun.errors import SpecError
from forerun.metrics import work
from forerun.metrics.latency import PS, finished
from forerun.sim import leaps as leap_rows
from forerun.sim.core.rows_log import STATUS
from forerun.sim.log import Log


@dataclass(frozen=True, eq=False)
class View:
    """One window of a log.  `arrived` and `ended` are rows of DONE, in order of arrival and end."""

    log: Log
    start_ps: int
    end_ps: int
    arrived: np.ndarray
    ended: np.ndarray  # finished requests only
    leaps: np.ndarray | None
    gaps: np.ndarray | None
    whole: bool

    @property
    def duration_s(self) -> float:
        return (self.end_ps - self.start_ps) * PS

    @property
    def n_devices(self) -> int:
        return round(float(work.of_replica(self.log, "n_devices").sum()))


def view(log: Log, window: tuple[float, float] | None = None) -> View:
    """The part of a log between two times in seconds from the start of the run.

    Raises SpecError when the window is empty or lies outside the run.
    """
    rows = log.requests[np.argsort(log.requests["arrival_ps"], kind="stable")]
    done = rows[finished(rows)]
    done = done[np.argsort(done["done_ps"], kind="stable")]
    if window is None:
        return View(log, log.start_ps, log.end_ps, rows, done, log.leaps, log.gaps, True)
    start, end = (round(t / PS) for t in window)
    if not (start < end and start < log.end_ps and end > log.start_ps):
        raise SpecError.one(
            "window",
            f"{window[0]:g} s to {window[1]:g} s holds nothing of a run from "
            f"{log.start_ps * PS:g} s to {log.end_ps * PS:g} s",
            "a start before the end, inside the run",
        )
    start, end = max(start, log.start_ps), min(end, log.end_ps)
    arrived = rows[(rows["arrival_ps"] >= start) & (rows["arrival_ps"] < end)]
    ended = done[(done["done_ps"] > start) & (done["done_ps"] <= end)]
    leaps, gaps = log.leaps, log.gaps
    if leaps is not None:
        leaps = leap_rows.clip(leaps, start, end)
    if gaps is not None:
        gaps = gaps[(gaps["end_ps"] > start) & (gaps["end_ps"] <= end)]
    return View(log, start, end, arrived, ended, leaps, gaps, False)


def count(requests: np.ndarray, status: str) -> int:
    """How many requests ended in a given way."""
    return int(np.sum(requests["status"] == STATUS[status]))
