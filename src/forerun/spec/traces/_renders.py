"""Images or videos that requests ask for: their sizes, frames and steps, drawn."""

from __future__ import annotations

import numpy as np

from forerun.spec.requests import Requests
from forerun.spec.streams import stream
from forerun.spec.traces._columns import take
from forerun.spec.traces._processes import draw_tokens
from forerun.spec.workload import Render


def with_render(requests: Requests, render: Render, *, seed: int) -> Requests:
    """The requests with what they ask for (stream `render`).

    `isl` is not known before the model is.  Steps and frames are 0 where its maker says them.
    """
    draw, n = stream(seed, "render"), len(requests)
    sizes = [tuple(map(int, name.split("x"))) for name in render.size]
    weights = np.array(list(render.size.values()))
    which = draw.choice(len(sizes), size=n, p=weights / weights.sum())
    wide, high = (np.array([size[k] for size in sizes], dtype=np.int64) for k in (0, 1))
    none = np.zeros(n, dtype=np.int64)
    steps = none if render.steps is None else draw_tokens(render.steps, draw, n)
    frames = none if render.frames is None else np.full(n, render.frames)
    return take(
        requests, np.arange(n), item_width=wide[which], item_height=high[which], osl=steps,
        frames=frames,
    )  # fmt: skip
