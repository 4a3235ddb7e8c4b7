"""Small fleets that denoise, and requests for images, for the laws of the core."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from fleets import pool
from seeing import encoder
from serving import table

from forerun.sim.branches import Branching
from forerun.spec.requests import Requests


def denoiser(*, replicas=1, n_blocks=60, name="d", flat=2e-3, **how):
    """A pool that denoises: a step of 200 tokens at most."""
    how = {
        "batch": "denoise", "max_num_batched_tokens": 200, "max_num_seqs": 8,
        "prefix_caching": False, **how,
    }  # fmt: skip
    costs = table(200, 8, flat=flat)
    one = pool("both", name, costs=costs, replicas=replicas, n_blocks=n_blocks, **how)
    return replace(one, denoises=True)


def idle(one, name):
    """The same without replicas: a row of costs."""
    update = {"replicas": 0, "name": name}
    return replace(one, pool=one.pool.model_copy(update=update), denoises=False)


def denoising_fleets():
    """Text in front or on a pool of its own (with none to encode there), pixels priced or not."""
    one = denoiser(replicas=2)
    text = idle(encoder(n_blocks=0), "text")
    pixels = idle(denoiser(n_blocks=0, flat=5e-3), "pixels")
    two = [denoiser(replicas=2), denoiser(name="slow", flat=5e-3, n_blocks=50)]
    return {
        "steps alone": [one],
        "pixels": [replace(one, shows=1), pixels],
        "text and pixels": [replace(one, encoder=1, shows=2), text, pixels],
        "text apart": [encoder(replicas=1), replace(one, shows=2), pixels],
        "two speeds": [replace(each, encoder=2, shows=3) for each in two] + [text, pixels],
        "tight": [replace(denoiser(replicas=2, n_blocks=30), encoder=1, shows=2), text, pixels],
    }


def asked_for(seed, n, *, rate=60.0, text=True, ties=False, most=12):
    """Random requests for images of three sizes."""
    draw = np.random.default_rng(seed)
    at = np.cumsum(draw.exponential(1 / rate, n))
    columns = {}
    if text:
        columns = {
            "n_items": draw.integers(1, 3, n),
            "item_units": np.full(n, 12),
            "item_tokens": np.full(n, 6),
        }
    return Requests(
        np.round(at, 1) if ties else at,
        isl=draw.choice([24, 60, 110], n),
        osl=draw.integers(1, most + 1, n),
        priority=draw.integers(0, 3, n),
        session=draw.integers(-1, 5, n),
        **columns,
    )


#: devices of their own, and how long what they give takes, that branches have
BRANCHES = {
    "beside": Branching(3),
    "apart": Branching(3, devices=1, blocks=4, residual_s=1e-6, latent_s=1e-7, trip_s=1e-4,
                       ahead=0.05, each=0.15),
    "two devices": Branching(3, devices=2, blocks=3, residual_s=2e-6, latent_s=0.0, trip_s=5e-5,
                             ahead=0.1, each=0.3),
    "a slow link": Branching(3, devices=1, blocks=4, residual_s=2e-4, latent_s=1e-6, trip_s=1e-3,
                             ahead=0.05, each=0.15),
    "shared": Branching(3, devices=2, shared="d", blocks=4, residual_s=1e-6, latent_s=1e-7,
                        trip_s=1e-4, ahead=0.05, each=0.15),
}  # fmt: skip


def with_branches(pools, branch):
    """The fleet, each of whose denoisers has ControlNets."""
    row = idle(denoiser(n_blocks=0, flat=7e-4), "controlnet")
    own = replace(branch, row=len(pools))
    return [*(replace(one, branch=own if one.denoises else None) for one in pools), row]


def using(requests, seed, share=0.6):
    """The requests, most of which use some of three ControlNets."""
    draw = np.random.default_rng(seed + 7)
    n = len(requests)
    return replace(requests, controls=draw.integers(1, 8, n) * (draw.random(n) < share))


#: how ControlNets come, of which replicas keep three of six or fewer
WAYS_OF_NETS = {
    "three slots": Branching(6, slots=3, load_bytes=1e6, near_s=0.02),
    "a host for four": Branching(6, slots=3, host_slots=4, load_bytes=1e6, near_s=0.01, far_s=0.2),
    "in the step": Branching(6, slots=3, in_step=True, load_bytes=1e6, near_s=0.03),
    "slots for all": Branching(6, slots=6, load_bytes=1e6, near_s=0.05),
}


def of_six(requests, seed, share=0.7, most=3):
    """The requests, most of which use some of six ControlNets, the first ones more often."""
    draw = np.random.default_rng(seed + 11)
    bits = np.zeros(len(requests), dtype=np.int64)
    for n in range(len(requests)):
        if draw.random() < share:
            weight = 1 / np.arange(1, 7)
            some = draw.choice(
                6, draw.integers(1, most + 1), replace=False, p=weight / weight.sum()
            )
            bits[n] = sum(1 << int(k) for k in some)
    return replace(requests, controls=bits)
