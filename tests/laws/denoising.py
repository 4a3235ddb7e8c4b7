"""Small fleets that denoise, and requests for images, for the laws of the core."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from fleets import pool
from seeing import encoder
from serving import table

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
