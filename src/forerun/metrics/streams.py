"""Figures of video streams: frames in time, how late the others are, how even they come.

Frame m of a stream that begins at t, at f frames a second, has its place at t + m / f.  Its latency
is the time from its place until its chunk is done; it is in time when that is at most the SLO's
`frame_s`, so that a player that waits so long before it begins never stops.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from forerun.metrics import latency
from forerun.metrics.figure import Figure, ratio, text
from forerun.metrics.latency import PS
from forerun.metrics.window import View
from forerun.sim.log import Log
from forerun.spec.slo import Slo


@dataclass(frozen=True, eq=False)
class Frames:
    """Every frame that streams wanted: seconds from its place; inf for those that never came.

    latency_s : float64 [frames].   uneven_s : float64 [chunks but the first of each stream], how
    much longer or shorter than a chunk of video the time between two ends was.
    """

    latency_s: np.ndarray
    uneven_s: np.ndarray
    fps: np.ndarray  # float64 [streams], frames over the time from the first place to the last end


def frames_of(log: Log) -> Frames | None:
    """The frames of a run; None where it has no streams."""
    if log.streams is None:
        return None
    rate, n = log.streams.fps, log.streams.frames
    rows, session = log.requests, log.streams.session[log.requests["request"]]
    order = np.lexsort((rows["request"], session))
    rows, session = rows[order], session[order]
    first = np.concatenate([[True], session[1:] != session[:-1]])
    start = np.maximum.accumulate(np.where(first, np.arange(len(rows)), 0))
    place = rows["arrival_ps"] * PS
    done = np.where(latency.finished(rows), rows["done_ps"] * PS, np.inf)
    own = np.arange(n) / rate
    late = done[:, None] - (place[:, None] + own[None, :])
    pairs = np.flatnonzero(~first & np.isfinite(done) & np.isfinite(np.roll(done, 1)))
    uneven = np.abs(done[pairs] - done[pairs - 1] - n / rate)
    counts = np.bincount(start, minlength=len(rows))[first] * n
    last = np.maximum.reduceat(done, np.flatnonzero(first))
    fps = counts / np.maximum(last - place[first], 1e-12)
    return Frames(late.ravel(), uneven, np.where(np.isfinite(last), fps, 0.0))


def figures(part: View, slo: Slo) -> dict[str, Any]:
    """frame_p50_s, frame_p99_s, frames_in_time, good_frames_per_s, uneven_p99_s, stream_fps."""
    found = frames_of(part.log) if part.whole else None
    values: dict[str, float | None] = dict.fromkeys(
        ("p50", "p99", "share", "good", "uneven", "fps")
    )
    if found is not None and len(found.latency_s):
        values["p50"], values["p99"] = (_quantile(found.latency_s, q) for q in (0.5, 0.99))
        values["fps"] = float(np.median(found.fps))
        if len(found.uneven_s):
            values["uneven"] = _quantile(found.uneven_s, 0.99)
        if slo.frame_s is not None:
            good = float((found.latency_s <= slo.frame_s).sum())
            values["share"] = ratio(good, float(len(found.latency_s)))
            values["good"] = ratio(good, part.duration_s)
    return {
        "frame_p50_s": Figure(values["p50"], "s", "frames"),
        "frame_p99_s": Figure(values["p99"], "s", "frames"),
        "frames_in_time": Figure(values["share"], "share", "frames"),
        "good_frames_per_s": Figure(values["good"], "frame/s", "frames"),
        "uneven_p99_s": Figure(values["uneven"], "s", "chunks"),
        "stream_fps": Figure(values["fps"], "frame/s", "streams"),
    }


def met(part: View, slo: Slo) -> bool | None:
    """Whether enough frames were in time; None where nothing was asked of them."""
    found = frames_of(part.log) if slo.frame_s is not None else None
    if found is None or not len(found.latency_s):
        return None
    assert slo.frame_s is not None
    return bool((found.latency_s <= slo.frame_s).mean() >= slo.attainment)


def told(part: View) -> list[str]:
    """How many streams kept their pace."""
    found = frames_of(part.log) if part.whole else None
    if found is None or part.log.streams is None:
        return []
    rate = part.log.streams.fps
    kept = int((found.fps >= 0.95 * rate).sum())
    return [
        f"{kept:,} of {len(found.fps):,} streams kept 95 % or more of their "
        f"{text(rate, 'frame/s')}; the slowest had {text(float(found.fps.min()), 'frame/s')}."
    ]


def _quantile(values: np.ndarray, q: float) -> float:
    """The smallest value that a share q of all does not exceed; inf among them counts as such."""
    return float(np.sort(values)[min(len(values) - 1, max(0, int(np.ceil(q * len(values))) - 1))])
