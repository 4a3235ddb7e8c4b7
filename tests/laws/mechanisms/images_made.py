"""Images that are made: a diffusion model instead of the case's, steps instead of tokens."""

from __future__ import annotations

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


MECHANISMS = [Mechanism("images made", made, first=True, slot="model", law=every_step)]
