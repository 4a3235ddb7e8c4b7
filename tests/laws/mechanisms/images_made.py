"""Images that are made: a diffusion model instead of the case's, steps instead of tokens."""

from __future__ import annotations

import numpy as np

from forerun.metrics.streams import frames_of
from mechanisms import Case, Mechanism


def made(case: Case) -> None:
    case["model"] = "z-image-turbo"
    traffic = case["traffic"]
    traffic["isl"] = traffic["osl"] = None
    traffic["rate_per_s"] = "20 req/s"
    steps = {"kind": "uniform", "mean": 4, "low": 1}
    traffic["render"] = {"size": {"256x256": 0.7, "512x256": 0.3}, "steps": steps}


def every_step(result) -> None:
    """Whoever has an answer had all its steps, and is shown once."""
    rows = result.log.requests
    done = rows[(rows["status"] == 0) & (rows["replica"] >= 0)]
    assert (done["n_out"] == done["osl"]).all()
    assert result.log.encodes["n_shown"].sum() >= len(done)
    assert (result.log.leaps["slope_ps"] == 0).all()


def streamed(case: Case) -> None:
    made(case)
    case["model"] = "wan2.1-t2v-1.3b"
    traffic = case["traffic"]
    traffic |= {"n_requests": 12, "rate_per_s": "4 req/s"}
    stream = {"fps": 16, "frames": 4, "past_frames": 8, "seconds": {"mean": 1}}
    traffic["render"] = {"size": "256x128", "steps": 2, "stream": stream}


def every_frame(result) -> None:
    """Every frame of every chunk has a latency, if it came or not."""
    every_step(result)
    found, log = frames_of(result.log), result.log
    assert len(found.latency_s) == len(log.requests) * log.streams.frames
    assert np.isfinite(found.latency_s).sum() == (log.requests["status"] == 0).sum() * 4


MECHANISMS = [
    Mechanism("images made", made, first=True, slot="model", law=every_step),
    Mechanism("video streams", streamed, first=True, slot="model", law=every_frame),
]
