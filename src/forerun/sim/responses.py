"""The response cache as the core's arrays, and what became of it as a log tells it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from forerun.errors import Problem, SpecError, nearest
from forerun.sim.core import doubt, rows_kept, rows_request, state
from forerun.sim.core.order import NEVER
from forerun.sim.tables import PS
from forerun.spec.caches import ResponseCache, Shelf
from forerun.spec.requests import Requests
from forerun.spec.wordings import Wordings


@dataclass(frozen=True, eq=False)
class Answered:
    """What a response cache did.

    asks : structured array of dtype ASK, by request number.
    category, question : int64 [N], of each request; -1 where it names no text.
    shelves : structured array of dtype SHELF; names : of them.
    """

    asks: np.ndarray
    category: np.ndarray
    question: np.ndarray
    shelves: np.ndarray
    names: tuple[str, ...]


def empty() -> dict[str, np.ndarray]:
    """The fields of a `State` where no answers are kept."""
    return {
        "asks": state.rows(0, rows_request.ASK),
        "texts": state.rows(0, rows_kept.TEXT),
        "near": np.zeros(0, dtype=np.int64),
        "similarity": np.zeros(0),
        "answers": state.rows(0, rows_kept.ANSWER),
        "shelves": state.rows(0, rows_kept.SHELF),
        "answer_links": np.zeros((2, 0, 2), dtype=np.int64),
        "shelf_ends": np.zeros((2, 0, 2), dtype=np.int64),
        "n_right": np.zeros(0, dtype=np.int64),
        "tried": np.zeros((0, doubt.N_BINS, 2), dtype=np.int64),
    }


def arrays(cache: ResponseCache, wordings: Wordings, n_authors: int) -> dict[str, np.ndarray]:
    """An empty cache for these texts.  Raises SpecError for a category that no request is of."""
    check_categories(cache, wordings)
    texts = state.rows(len(wordings), rows_kept.TEXT)
    texts.question, texts.shelf = wordings.question, wordings.category
    texts.near_at, texts.n_near = wordings.near_starts[:-1], np.diff(wordings.near_starts)
    answers = state.rows(len(wordings) * n_authors, rows_kept.ANSWER)
    answers.request = -1
    shelves = state.rows(len(wordings.names), rows_kept.SHELF)
    for row, name in zip(shelves, wordings.names, strict=True):
        _fill(row, cache, cache.shelf(name))
    return {
        "texts": texts,
        "near": wordings.near.astype(np.int64),
        "similarity": wordings.similarity.astype(np.float64),
        "answers": answers,
        "shelves": shelves,
        "answer_links": np.full((2, len(answers), 2), -1),
        "shelf_ends": np.full((2, len(shelves), 2), -1),
        "n_right": np.zeros(wordings.n_questions * n_authors, dtype=np.int64),
        "tried": np.zeros((len(shelves), doubt.N_BINS, 2), dtype=np.int64),
    }


def _fill(row: Any, cache: ResponseCache, shelf: Shelf) -> None:
    learns = shelf.max_error is not None  # then whoever is most alike comes into question
    row.threshold = -1.0 if learns else shelf.threshold
    row.max_error = shelf.max_error if learns else 0.0
    row.ttl_ps = NEVER // 4 if shelf.ttl_s is None else min(round(shelf.ttl_s * PS), NEVER // 4)
    row.most = NEVER if shelf.quota is None else shelf.quota
    row.most_bytes = NEVER if shelf.quota_bytes is None else int(shelf.quota_bytes)
    row.entry_bytes, row.token_bytes = int(cache.entry_bytes), int(cache.token_bytes)


def asks_of(cache: ResponseCache, requests: Requests) -> np.recarray:
    """A row of dtype ASK for each request.  Raises SpecError where requests name no texts."""
    if requests.wording is None or requests.wordings is None:
        what = "requests do not say what they ask, so none is like another"
        fix = "traffic.questions: [{topics: 1000}], or a trace with a column query_id"
        raise SpecError.one("deployment.response_cache", what, fix)
    rows = state.rows(len(requests), rows_request.ASK)
    rows.got = rows.doubted = -1
    past = np.array([cache.shelf(name).skip for name in requests.wordings.names], dtype=bool)
    category = category_of(requests.wording, requests.wordings)
    rows.wording = np.where((category >= 0) & ~past[category], requests.wording, -1)
    rows.lookup_ps = np.where(rows.wording >= 0, round(cache.lookup_s * PS), 0)
    return rows


def category_of(wording: np.ndarray, wordings: Wordings) -> np.ndarray:
    """The category of each request; -1 where it names no text."""
    if not len(wordings):
        return np.full(len(wording), -1)
    return np.where(wording >= 0, wordings.category[np.maximum(wording, 0)], -1)


def check_categories(cache: ResponseCache, wordings: Wordings) -> None:
    """Raises SpecError where the cache names a category that no text is of."""
    known = wordings.names
    problems = [
        Problem(
            f"deployment.response_cache.categories.{name}",
            f"no request is of the category {name!r}",
            nearest(name, known),
        )
        for name in cache.categories
        if name not in known
    ]
    if problems:
        raise SpecError(*problems)


def answered(now: state.State, wordings: Wordings, wording: np.ndarray) -> Answered:
    """What the cache has done so far; wording : int64 [N], the text of each request."""
    at = np.maximum(wording, 0)
    return Answered(
        asks=np.array(now.asks),
        category=category_of(wording, wordings),
        question=np.where(wording >= 0, wordings.question[at], -1),
        shelves=np.array(now.shelves),
        names=wordings.names,
    )


def assumed(cache: ResponseCache | None) -> tuple[str, ...]:
    """What a run with a response cache takes for granted."""
    if cache is None:
        return ()
    errors = [cache.max_error, *(one.max_error for one in cache.categories.values())]
    learns = any(error is not None for error in errors)
    judged = (
        "response cache: where thresholds are learnt, whether a match was right is known as soon "
        "as the request is computed, for nothing and without mistakes; the same text is never in "
        "doubt",
    )
    return (
        *(judged if learns else ()),
        "response cache: similarity is that of the requests' own description; every lookup takes "
        f"{1e3 * cache.lookup_s:.3g} ms whatever the load, and whether an answer that is another "
        "question's does harm is not looked at",
    )
