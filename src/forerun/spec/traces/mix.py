"""Requests for several models as one workload: shares of one traffic, and traffics of their own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from forerun.errors import SpecError, nearest
from forerun.spec.case import Case
from forerun.spec.items import FRAMES
from forerun.spec.requests import Requests
from forerun.spec.streams import stream
from forerun.spec.traces._columns import take
from forerun.spec.traces.regional import drawn_in

#: what a request has of a column that its traffic does not tell
_UNSAID: dict[str, Any] = {
    "priority": 0, "session": -1, "tenant": 0, "workflow": -1, "deadline_s": np.inf,
    "n_items": 0, "item_width": 0, "item_height": 0, "item_units": 0, "item_tokens": 0,
    "item_s": 0.0,
    "region": 0, "took_s": np.nan, "adapter": -1,
    "kept_tokens": 0, "attended_tokens": 0,
}  # fmt: skip
_NUMBERED = ("session", "tenant", "workflow")


def mixed(case: Case) -> Requests:
    """All requests of the case, each with the number of the model it asks for.

    The case's traffic asks for the models that its trace names; without names it is divided at
    random (stream `models`) by the shares of the models that have no traffic of their own.  A
    model's own traffic is drawn with a seed of its own.
    """
    common = drawn_in(case.regions, case.traffic, seed=case.seed, models=True)
    shared = [m for m, asked in enumerate(case.models.values()) if asked.traffic is None]
    which = _named(case, common) if common.model is not None else _drawn(case, common, shared)
    parts = [replace(common, model=which)]
    for m, (name, asked) in enumerate(case.models.items()):
        if asked.traffic is not None:
            seed = int(stream(case.seed, f"traffic of {name}").integers(2**31))
            own = drawn_in(case.regions, asked.traffic, seed=seed)
            parts.append(replace(own, model=np.full(len(own), m, dtype=np.int64)))
    return merged(parts)


def _named(case: Case, common: Requests) -> np.ndarray:
    """The models that a trace names, as numbers of the case's."""
    names, known = common.meta["models"], list(case.models)
    unknown = [name for name in names if name not in known]
    if unknown:
        what = (
            f"{case.traffic.trace} asks for {unknown[0]!r}, which is not one of the case's models"
        )
        raise SpecError.one("models", what, nearest(unknown[0], known))
    numbers = np.array([known.index(name) for name in names], dtype=np.int64)
    assert common.model is not None
    return numbers[common.model]


def _drawn(case: Case, common: Requests, shared: list[int]) -> np.ndarray:
    """A model for each request, by the shares; one for a whole conversation or workflow."""
    shares = np.array([list(case.models.values())[m].share for m in shared])
    draw = stream(case.seed, "models")
    return np.array(shared, dtype=np.int64)[drawn_by_share(common, shares, draw)]


def drawn_by_share(common: Requests, shares: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    """A number for each request, by the shares; one for a whole conversation or workflow."""
    which = draw.choice(len(shares), size=len(common), p=shares / shares.sum())
    for together in (common.session, common.workflow):
        if together is not None:
            _, first, member = np.unique(together, return_index=True, return_inverse=True)
            which = np.where(together >= 0, which[first][member], which)
    return which


def merged(parts: Sequence[Requests], *, apart: Sequence[str] = _NUMBERED) -> Requests:
    """Several workloads on one clock, in order of arrival.

    Sessions, tenants, workflows (those of the columns `apart`) and prefix blocks of different parts
    stay apart.
    """
    if len(parts) == 1:
        return parts[0]
    columns: dict[str, Any] = {
        name: np.concatenate([getattr(part, name) for part in parts])
        for name in ("arrival_s", "isl", "osl", "model")
        if getattr(parts[0], name) is not None
    }
    for name, unsaid in _UNSAID.items():
        if any(getattr(part, name) is not None for part in parts):
            columns[name] = np.concatenate(_apart(parts, name, unsaid, name in apart))
    columns |= _blocks(parts) | _successors(parts) | _texts(parts) | _items(parts)
    order = np.argsort(columns["arrival_s"], kind="stable")
    shows = {bool(part.meta.get(FRAMES)) for part in parts if part.n_items is not None}
    if len(shows) > 1:
        what = "some traffics show images and others video, whose frames are counted otherwise"
        raise SpecError.one("models", what, "images in all of them, or video")
    meta = {**parts[0].meta, FRAMES: True} if shows == {True} else parts[0].meta
    return take(Requests(**columns, meta=meta), order)


def _items(parts: Sequence[Requests]) -> dict[str, Any]:
    """What each part's images are; a number in two traffics is two images."""
    if all(part.item_names is None for part in parts):
        return {}
    names, counts = [], []
    for k, part in enumerate(parts):
        if part.item_names is not None and part.item_starts is not None:
            known = part.item_names >= 0
            names.append(np.where(known, part.item_names ^ np.int64(k << 48), -1))
            counts.append(np.diff(part.item_starts))
            continue
        n = np.zeros(len(part), dtype=np.int64) if part.n_items is None else part.n_items
        names.append(np.full(n.sum(), -1))
        counts.append(n)
    starts = np.concatenate([[0], np.cumsum(np.concatenate(counts))]).astype(np.int64)
    return {"item_names": np.concatenate(names), "item_starts": starts}


def _texts(parts: Sequence[Requests]) -> dict[str, Any]:
    """The texts of the one part that names any; requests of the others name none."""
    named = [part.wordings for part in parts if part.wordings is not None]
    if not named:
        return {}
    if len(named) > 1:
        what = "several traffics say what their requests ask, each with texts of its own"
        raise SpecError.one("models", what, "questions in one traffic, which models share")
    unsaid = [np.full(len(part), -1) if part.wording is None else part.wording for part in parts]
    return {"wording": np.concatenate(unsaid), "wordings": named[0]}


def _apart(parts: Sequence[Requests], name: str, unsaid: Any, apart: bool) -> list[np.ndarray]:
    """A column of every part; numbers of sessions and tenants begin after those before."""
    out, first = [], 0
    for part in parts:
        values = getattr(part, name)
        if values is None:
            values = np.full(len(part), unsaid)
        elif apart:
            values = np.where(values >= 0, values + first, values)
        out.append(values)
        if apart:
            first = max(first, int(values.max(initial=-1)) + 1)
    return out


def _blocks(parts: Sequence[Requests]) -> dict[str, Any]:
    """Prefix blocks of all parts; requests of a part without them name none."""
    sizes = {part.hash_tokens for part in parts if part.block_hashes is not None}
    if not sizes:
        return {}
    if len(sizes) > 1:
        what = f"name prefix blocks of {' and '.join(map(str, sorted(sizes)))} tokens"
        raise SpecError.one("models", what, "traces with one size of prefix blocks")
    named = {part.answers_named for part in parts if part.block_hashes is not None}
    if len(named) > 1:
        what = "blocks of some go on into the answers, those of others end with the prompts"
        raise SpecError.one("models", what, "traces of one kind")
    hashes, counts = [], []
    for k, part in enumerate(parts):
        if part.block_hashes is None or part.block_starts is None:
            counts.append(np.zeros(len(part), dtype=np.int64))
            continue
        hashes.append(part.block_hashes ^ np.int64(k << 48))  # one number in two traces: two blocks
        counts.append(np.diff(part.block_starts))
    starts = np.concatenate([[0], np.cumsum(np.concatenate(counts))]).astype(np.int64)
    return {
        "block_hashes": np.concatenate(hashes),
        "block_starts": starts,
        "hash_tokens": sizes.pop(),
        "answers_named": named.pop(),
    }


def _successors(parts: Sequence[Requests]) -> dict[str, Any]:
    """Who waits for whom, numbered on from part to part."""
    if all(part.successors is None for part in parts):
        return {}
    after, counts, delays = [], [], []
    first = 0
    for part in parts:
        if part.successors is None or part.successor_starts is None or part.delay_s is None:
            counts.append(np.zeros(len(part), dtype=np.int64))
        else:
            after.append(part.successors + first)
            counts.append(np.diff(part.successor_starts))
            delays.append(part.delay_s)
        first += len(part)
    starts = np.concatenate([[0], np.cumsum(np.concatenate(counts))]).astype(np.int64)
    return {
        "successors": np.concatenate(after),
        "successor_starts": starts,
        "delay_s": np.concatenate(delays),
    }
