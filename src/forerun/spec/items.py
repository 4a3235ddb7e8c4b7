"""What images and video become: patches that an encoder computes, tokens of a prompt.

An *item* is what the encoder takes as a whole: an image, or as many video frames as it joins.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil, floor, sqrt
from typing import Any

import numpy as np

from forerun.errors import SpecError
from forerun.spec.item_blocks import BLOCK_TOKENS, mixed, with_blocks
from forerun.spec.model import Model
from forerun.spec.requests import Requests

#: meta["frames"] of requests whose n_items counts video frames, not yet items
FRAMES = "frames"


@dataclass(frozen=True)
class Item:
    """One item: `units` patches in, `tokens` tokens of the prompt out."""

    units: int
    tokens: int


def item(model: Model, width: int, height: int) -> Item:
    """What an image (or frame) of this many pixels is to the model.

    Native resolution (`max_pixels`): both sides are rounded to multiples of f = patch * merge, and
    scaled to stay between min_pixels and max_pixels;

        units = w h / patch^2      tokens = w h / f^2

    `image_size`: every image is resized to a square of it, plus `class_tokens` units.
    Raises SpecError for a model without an encoder, or where the rule is not known.
    Source: `smart_resize` of Qwen2-VL's image processor in transformers.
    """
    v, where = model.vision, f"model.{model.name}"
    if v is None:
        raise SpecError.one(where, "has no image encoder", "a vision-language model, or text only")
    if v.image_size is not None:
        patches = (v.image_size // v.patch) ** 2
        return Item(patches + v.class_tokens, v.tokens_per_image or patches // v.merge**2)
    if v.max_pixels is None:
        what = f"how many tokens an image has is not known for model_type {model.family!r}"
        raise SpecError.one(where, what, "patches and tokens of an item in traffic.media")
    f = v.patch * v.merge
    w, h = (max(f, round(side / f) * f) for side in (width, height))
    if w * h > v.max_pixels:
        beta = sqrt(width * height / v.max_pixels)
        w, h = (max(f, floor(side / beta / f) * f) for side in (width, height))
    elif w * h < (v.min_pixels or 0):
        beta = sqrt((v.min_pixels or 0) / (width * height))
        w, h = (ceil(side * beta / f) * f for side in (width, height))
    return Item(w * h // v.patch**2, w * h // f**2)


def sound(
    model: Model, n: np.ndarray, seconds: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Items, units of each and tokens of each, for n pieces of sound of so many seconds.

    Units are positions after the convolutions, `rate` a second.  A window is padded to `window_s`
    and computed whole; with `chunked` longer sound is several windows, and each gives all of its
    tokens; else it is cut to one (`cut_s` when less is computed), and

        tokens = floor(positions of the sound / merge), at least 1

    Raises SpecError for a model without an encoder of sound, or sound longer than a window.
    Source: the processors of Whisper, Qwen2-Audio and Voxtral in transformers.
    """
    a, where = model.audio, f"model.{model.name}"
    if a is None:
        raise SpecError.one(where, "has no audio encoder", "an audio model, or media without sound")
    whole = round(a.window_s * a.rate)
    if a.chunked:
        windows = np.ceil(seconds / a.window_s).astype(np.int64)
        return n * windows, np.full(len(n), whole), np.full(len(n), whole // a.merge)
    if (seconds > a.window_s).any():
        what = f"hears {a.window_s:g} s at a time, and some sound is {seconds.max():g} s long"
        raise SpecError.one(where, what, f"sound of at most {a.window_s:g} s")
    tokens = np.maximum(1, np.floor(seconds * a.rate / a.merge)).astype(np.int64)
    return n, np.full(len(n), whole), tokens


def with_items(
    requests: Requests, models: Sequence[Model], *, block_tokens: int = BLOCK_TOKENS
) -> Requests:
    """The requests with what their images are to the models they ask for; `isl` counts them too.

    models : by number, as `Requests.model` names them.  block_tokens : of prefix blocks, where
    images have names and text has none.  Raises SpecError as `item` does.
    """
    if requests.n_items is None or not requests.n_items.any():
        bare: dict[str, Any] = {
            "n_items": None,
            "item_units": None,
            "item_tokens": None,
            "item_s": None,
        }
        return replace(requests, **bare, item_names=None, item_starts=None)
    n, wide, high = requests.n_items.copy(), requests.item_width, requests.item_height
    zero = np.zeros(len(requests), dtype=np.int64)
    units = zero.copy() if requests.item_units is None else requests.item_units.copy()
    tokens = zero.copy() if requests.item_tokens is None else requests.item_tokens.copy()
    asked = zero if requests.model is None else requests.model
    for m in np.unique(asked[n > 0]).tolist():
        mine = (asked == m) & (n > 0)
        vision = models[m].vision
        if requests.item_s is not None and (heard := mine & (requests.item_s > 0)).any():
            n[heard], units[heard], tokens[heard] = sound(
                models[m], n[heard], requests.item_s[heard]
            )
            mine &= ~heard
            if not mine.any():
                continue
            if models[m].audio is not None:
                what = "requests show images and others have sound, for one model"
                raise SpecError.one("requests", what, "a case for each kind")
        if vision is None:
            item(models[m], 1, 1)  # says so
        elif requests.meta.get(FRAMES):
            n[mine] = -(-n[mine] // vision.frames)
        unknown = mine & (units == 0)
        if not unknown.any():
            continue
        if wide is None or high is None or not (wide[unknown] * high[unknown]).all():
            what = "have images without a width and a height"
            raise SpecError.one("requests", what, "image_width and image_height, in pixels")
        sizes = np.stack([wide[unknown], high[unknown]], axis=1)
        kinds, which = np.unique(sizes, axis=0, return_inverse=True)
        found = [item(models[m], int(w), int(h)) for w, h in kinds]
        which = which.reshape(-1)
        units[unknown] = np.array([one.units for one in found])[which]
        tokens[unknown] = np.array([one.tokens for one in found])[which]
    units[n == 0] = tokens[n == 0] = 0
    whole = replace(
        requests, n_items=n, item_units=units, item_tokens=tokens, isl=requests.isl + n * tokens,
        **_named(requests, n),
    )  # fmt: skip
    return with_blocks(whole, block_tokens)


def _named(requests: Requests, n: np.ndarray) -> dict[str, Any]:
    """item_names and item_starts of n items each, where one name stood for several: the groups of a
    video's frames, the windows of a sound."""
    names, starts = requests.item_names, requests.item_starts
    if names is None or starts is None:
        return {}
    had = np.diff(starts)
    each = np.where(had > 0, n // np.maximum(had, 1), 0)
    if (had * each != n).any():
        what = "name another number of images than they show"
        raise SpecError.one("requests", what, "a name for each image")
    times = np.repeat(each, had)
    of = np.repeat(np.arange(len(names)), times)
    part = np.arange(len(of)) - np.repeat(np.cumsum(times) - times, times)
    several = np.repeat(each > 1, n)
    out = np.where(several & (names[of] >= 0), mixed(names[of], part), names[of])
    return {
        "item_names": out.astype(np.int64),
        "item_starts": np.concatenate([[0], np.cumsum(n)]).astype(np.int64),
    }
