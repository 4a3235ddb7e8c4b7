"""What images and videos that requests ask for are to a diffusion model: tokens, steps, text."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from forerun.errors import SpecError
from forerun.spec.model import Model
from forerun.spec.requests import Requests
from forerun.spec.workload import Render


def copies(model: Model, render: Render) -> int:
    """How often a request stands in a step: twice with guidance, which streams do without."""
    assert model.diffusion is not None
    usual = model.diffusion.guided and render.stream is None
    guided = usual if render.guided is None else render.guided
    return 2 if guided else 1


def rendered(requests: Requests, model: Model, render: Render) -> Requests:
    """The requests as the model computes them.

        isl = copies * (latents + joined text)        tokens of a step
        osl = steps                                   where 0, as the model's maker does
        n_items = copies texts of the longest encoder's length

    Raises SpecError for sizes that are not whole tokens.
    """
    d = model.diffusion
    assert d is not None
    assert requests.item_width is not None
    assert requests.item_height is not None
    n, many = len(requests), copies(model, render)
    frames = np.full(n, d.frames) if requests.frames is None else requests.frames
    frames = np.where(frames == 0, d.frames, frames)
    kinds, which = np.unique(
        np.stack([requests.item_width, requests.item_height, frames], axis=1), axis=0,
        return_inverse=True,
    )  # fmt: skip
    latents_of = d.latents if render.stream is None else d.chunk
    latents = np.array([latents_of(*(int(x) for x in kind)) for kind in kinds])
    isl = many * (latents[which.reshape(-1)] + d.joined)
    kept = max(1, min(d.kept, int(isl.min()) // many - 1))
    shows = np.full(n, many)
    if render.stream is not None and requests.session is not None:
        _, first = np.unique(requests.session, return_index=True)
        shows = np.zeros(n, dtype=np.int64)
        shows[first] = many  # a stream's prompt is read once
    units, kept_of = (np.where(shows > 0, each, 0) for each in (d.read, kept))
    return replace(
        requests, isl=isl, osl=np.where(requests.osl == 0, d.steps, requests.osl), frames=frames,
        n_items=shows, item_units=units, item_tokens=kept_of,
    )  # fmt: skip


def past(model: Model, render: Render, width: int, height: int) -> int:
    """Tokens of earlier chunks that each token of a stream attends to; 0 for single answers.

    Raises SpecError for a past that is not whole latents.
    """
    assert model.diffusion is not None
    if render.stream is None or render.stream.past_frames == 0:
        return 0
    k = model.diffusion.vae.temporal
    if render.stream.past_frames % k:
        what = f"{render.stream.past_frames} frames are not a multiple of {k}, those of a latent"
        raise SpecError.one("traffic.render.stream.past_frames", what, f"a multiple of {k}")
    return model.diffusion.chunk(width, height, render.stream.past_frames)


def check_render(model: Model, render: Render | None) -> None:
    """Raises SpecError where a model that draws is asked for text, or one of text for images."""
    if model.diffusion is None and render is not None:
        what = f"{model.name} is no diffusion model"
        raise SpecError.one("traffic.render", what, "a model such as flux.1-dev, or drop render")
    if model.diffusion is not None and render is None:
        what = f"{model.name} makes images or video, and nothing says which are asked for"
        raise SpecError.one("traffic.render", what, "render: {size: 1024x1024}")
