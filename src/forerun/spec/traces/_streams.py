"""Streams of video as requests: each is a run of chunks of frames, sent at the video's pace."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from forerun.spec.requests import STREAMS, Requests
from forerun.spec.streams import stream
from forerun.spec.traces._processes import draw_tokens
from forerun.spec.workload import Render


def with_streams(requests: Requests, render: Render, *, seed: int) -> Requests:
    """Each request, a stream of so many seconds, as its chunks (random stream `streams`).

    Chunk k of a stream that begins at t is sent at t + k * frames / fps; `session` is the number of
    the stream.  All of a stream have one size and number of steps.
    """
    said = render.stream
    assert said is not None
    seconds = draw_tokens(said.seconds, stream(seed, "streams"), len(requests))
    chunks = np.maximum(1, np.ceil(seconds * said.fps / said.frames)).astype(np.int64)
    which = np.repeat(np.arange(len(requests)), chunks)
    place = np.arange(len(which)) - np.repeat(np.cumsum(chunks) - chunks, chunks)
    at = requests.arrival_s[which] + place * said.frames / said.fps
    order = np.lexsort((which, at))
    which, at = which[order], at[order]
    columns = ("isl", "osl", "item_width", "item_height")
    return replace(
        requests,
        arrival_s=at,
        session=which,
        frames=np.full(len(which), said.frames),
        meta={**requests.meta, STREAMS: (said.fps, said.frames)},
        **{name: getattr(requests, name)[which] for name in columns},
    )
