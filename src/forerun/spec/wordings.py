"""`Wordings`: the texts that requests can have, what each asks, and how alike they are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from forerun.errors import SpecError

MOST_PAIRS = 50_000_000


@dataclass(frozen=True, eq=False)
class Wordings:
    """What a response cache can tell of requests, and what it cannot.

    question : int64 [W], texts with one number have the same right answer.
    category : int64 [W], a place in `names`; a cache never answers across categories.
    near_starts, near, similarity : int64 [W+1], int64 [E], float64 [E]: the other texts that text w
        can be taken for, near[near_starts[w]:near_starts[w+1]], the most alike first, with the
        cosine of their embeddings.
    names : of the categories.
    """

    question: np.ndarray
    category: np.ndarray
    near_starts: np.ndarray
    near: np.ndarray
    similarity: np.ndarray
    names: tuple[str, ...] = ("all",)

    def __len__(self) -> int:
        return len(self.question)

    @property
    def n_questions(self) -> int:
        return int(self.question.max(initial=-1)) + 1


def apart(
    question: np.ndarray, category: np.ndarray, names: tuple[str, ...] = ("all",)
) -> Wordings:
    """Texts of which none is like another one: only the same text finds an answer."""
    n, nothing = len(question), np.zeros(0, dtype=np.int64)
    starts = np.zeros(n + 1, dtype=np.int64)
    return Wordings(question, category, starts, nothing, np.zeros(0), names)


def placed(
    question: np.ndarray, category: np.ndarray, topic: np.ndarray, at: np.ndarray,
    names: tuple[str, ...] = ("all",),
) -> Wordings:  # fmt: skip
    """Texts at places of an embedding space; those of different topics are never alike.

    topic : int64 [W], of one category each.  at : float64 [W, d], what an embedding of length 1
    differs by from that of its topic, so that for two of them

        cosine = 1 - |a - b|^2 / 2

    Raises SpecError where topics are so large that their pairs are too many.
    """
    order = np.argsort(topic, kind="stable")
    _, first, size = np.unique(topic[order], return_index=True, return_counts=True)
    pairs = int((size.astype(np.int64) * (size - 1)).sum())
    if pairs > MOST_PAIRS:
        what = f"{pairs:,} pairs of texts in one topic are more than {MOST_PAIRS:,}"
        raise SpecError.one("traffic.questions", what, "more topics, or fewer texts in each")
    n_near = np.zeros(len(question), dtype=np.int64)
    n_near[order] = np.repeat(size - 1, size)
    starts = np.concatenate([[0], np.cumsum(n_near)]).astype(np.int64)
    near, alike = np.empty(pairs, dtype=np.int64), np.empty(pairs)
    for begin, n in zip(first.tolist(), size.tolist(), strict=True):
        if n == 1:
            continue
        texts = order[begin : begin + n]
        apart2 = ((at[texts][:, None, :] - at[texts][None, :, :]) ** 2).sum(axis=2)
        np.fill_diagonal(apart2, np.inf)
        nearest = np.argsort(apart2, axis=1, kind="stable")[:, : n - 1]
        cosine = np.maximum(1 - np.take_along_axis(apart2, nearest, axis=1) / 2, -1.0)
        into = starts[texts][:, None] + np.arange(n - 1)
        near[into], alike[into] = texts[nearest], cosine
    return Wordings(question, category, starts, near, alike, names)
