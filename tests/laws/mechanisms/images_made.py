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


def controlled(case: Case) -> None:
    made(case)
    case["model"] = "flux.1-dev"
    case["traffic"]["rate_per_s"] = "8 req/s"
    case["traffic"]["render"]["controls"] = {"n": 2, "share": 0.6, "most": 2}
    for k, pool in enumerate(case["deployment"]["pools"]):
        pool["controlnets"] = {"where": "apart" if k % 2 == 0 else "beside"}


def with_controls(result) -> None:
    """ControlNets that were used took time, and draw what their steps take."""
    every_step(result)
    done = result.log.branched
    assert (done["busy_ps"] > 0).any()
    assert ((done["busy_ps"] > 0) == (done["n_steps"] > 0)).all()
    leaps = result.log.leaps
    assert ((leaps["draft_tokens"] > 0) == (leaps["depth"] > 0)).all()
    drawn = result.log.tables[0].branch
    assert drawn is not None
    assert result.metrics.energy_j.value > 0


def coming(case: Case) -> None:
    controlled(case)
    case["traffic"]["render"]["controls"] = {"n": 5, "share": 0.8, "most": 2, "skew": 0.5}
    for pool in case["deployment"]["pools"]:
        pool["controlnets"] = {"slots": 2, "host_slots": 3, "far_link": "ethernet-100g"}


def with_slots(result) -> None:
    """No more are held than there are slots, and what came is held or made room."""
    with_controls(result)
    found = result.log.netted
    assert (found["most_held"] <= 2).all()
    assert found["n_loads"].sum() > 0
    assert (found["n_far"] <= found["n_loads"]).all()


def shared(case: Case) -> None:
    controlled(case)
    for pool in case["deployment"]["pools"]:
        pool["controlnets"] = {"where": "shared", "devices": 1}


def with_shared(result) -> None:
    """A device is never busy for longer than the run takes."""
    with_controls(result)
    log = result.log
    pools = len(set(log.pool_of_replica.tolist()))
    assert log.branched["busy_ps"].sum() <= pools * (log.end_ps - log.start_ps)


MECHANISMS = [
    Mechanism("images made", made, first=True, slot="model", law=every_step),
    Mechanism("ControlNets", controlled, first=True, slot="model", law=with_controls),
    Mechanism("ControlNets that come", coming, first=True, slot="model", law=with_slots),
    Mechanism("ControlNets shared", shared, first=True, slot="model", law=with_shared),
    Mechanism("video streams", streamed, first=True, slot="model", law=every_frame),
]
