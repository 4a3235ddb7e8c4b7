"""Prompts that begin with images or video: how many, of which size."""

from __future__ import annotations

from typing import Any

import numpy as np

from forerun.errors import SpecError
from forerun.spec.items import FRAMES
from forerun.spec.requests import Requests
from forerun.spec.streams import stream
from forerun.spec.traces._columns import take
from forerun.spec.traces._processes import draw_tokens
from forerun.spec.workload import Media


def with_media(requests: Requests, media: Media, *, seed: int) -> Requests:
    """The requests with images or video before their text (stream `media`).

    `isl` stays that of the text until `spec.items.with_items` knows the model.
    Raises SpecError where prompts name their blocks, show images already, or are of workflows.
    """
    where = "traffic.media"
    if requests.n_items is not None:
        raise SpecError.one(where, "the trace tells what its prompts show", "drop media")
    if requests.workflow is not None:
        what = "the requests of a workflow have text only"
        raise SpecError.one(where, what, "drop media, or the workflow")
    if requests.block_hashes is not None:
        what = "the prompts of this trace (or their documents) name their blocks already"
        raise SpecError.one(where, what, "a trace without block hashes, or isl")
    draw, n = stream(seed, "media"), len(requests)
    shows = draw.random(n) < media.share
    sizes = [tuple(map(int, name.split("x"))) for name in media.size] or [(0, 0)]
    weights = np.array(list(media.size.values()) or [1.0])
    which = draw.choice(len(sizes), size=n, p=weights / weights.sum())
    if media.seconds is None:
        count = draw_tokens(media.n, draw, n)
    else:
        count = np.ceil(draw_tokens(media.seconds, draw, n) * media.fps).astype(np.int64)
    wide, high = (np.array([size[k] for size in sizes], dtype=np.int64) for k in (0, 1))
    columns: dict[str, Any] = {
        "n_items": np.where(shows, count, 0),
        "item_width": wide[which],
        "item_height": high[which],
    }
    if media.patches is not None and media.tokens is not None:
        columns["item_units"] = np.full(n, media.patches)
        columns["item_tokens"] = np.full(n, media.tokens)
    if media.seconds is not None:
        columns["meta"] = {**requests.meta, FRAMES: True}
    return take(requests, np.arange(n), **columns)
