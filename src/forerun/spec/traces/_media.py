"""Prompts that begin with images or video: how many, of which size."""

from __future__ import annotations

from typing import Any

import numpy as np

from forerun.errors import SpecError
from forerun.spec.items import FRAMES
from forerun.spec.requests import CONTENT, Requests
from forerun.spec.streams import stream
from forerun.spec.traces._columns import take
from forerun.spec.traces._processes import draw_tokens
from forerun.spec.workload import Media


def with_media(requests: Requests, media: Media, *, seed: int) -> Requests:
    """The requests with images or video before their text (stream `media`).

    `isl` stays that of the text until `spec.items.with_items` knows the model.
    Raises SpecError where prompts show images already, are of workflows, or begin with documents
    whose blocks are named wherever they stand.
    """
    where = "traffic.media"
    if requests.n_items is not None:
        raise SpecError.one(where, "the trace tells what its prompts show", "drop media")
    if requests.workflow is not None:
        what = "the requests of a workflow have text only"
        raise SpecError.one(where, what, "drop media, or the workflow")
    if requests.meta.get("blocks") == CONTENT:
        what = "documents name their blocks by what stands in them, which images would move"
        raise SpecError.one(where, what, "images or documents")
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
    if media.audio is not None:
        columns["item_s"] = draw_tokens(media.audio, draw, n)
    if media.distinct is not None:
        columns |= _names(media, columns, which, stream(seed, "which media"))
    if media.patches is not None and media.tokens is not None:
        columns["item_units"] = np.full(n, media.patches)
        columns["item_tokens"] = np.full(n, media.tokens)
    if media.seconds is not None:
        columns["meta"] = {**requests.meta, FRAMES: True}
    return take(requests, np.arange(n), **columns)


def _names(
    media: Media, columns: dict[str, Any], which: np.ndarray, draw: np.random.Generator
) -> dict[str, np.ndarray]:
    """item_names and item_starts: item k of `distinct` of a size has weight 1 / (k + 1) ** skew.

    A video has one name, and its length is drawn with it: so has a piece of sound.
    """
    distinct = media.distinct or 1
    n_items, whole = columns["n_items"], media.seconds is not None
    count = (n_items > 0).astype(np.int64) if whole else n_items
    weight = np.arange(1, distinct + 1, dtype=float) ** -media.skew
    chance = np.cumsum(weight) / weight.sum()
    k = np.searchsorted(chance, draw.random(int(count.sum())), side="right")
    k = np.minimum(k, distinct - 1)
    out = {
        "item_names": (k + distinct * np.repeat(which, count)).astype(np.int64),
        "item_starts": np.concatenate([[0], np.cumsum(count)]).astype(np.int64),
    }
    shows, first = n_items > 0, out["item_starts"][:-1]
    if whole and media.seconds is not None:
        frames = np.ceil(draw_tokens(media.seconds, draw, distinct) * media.fps).astype(np.int64)
        out["n_items"] = n_items.copy()
        out["n_items"][shows] = frames[k[first[shows]]]
    if media.audio is not None:
        lengths = draw_tokens(media.audio, draw, distinct)
        out["item_s"] = columns["item_s"].copy()
        out["item_s"][shows] = lengths[k[first[shows]]]
        # all pieces of a prompt are as long as its first, so one name goes with its length
        size = np.repeat(k[first[shows]], count[shows])
        out["item_names"] += size * np.int64(distinct)
    return out
