"""What requests ask and in which words, drawn from a description or around what a trace names."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from forerun.errors import SpecError
from forerun.spec.requests import Requests
from forerun.spec.streams import stream
from forerun.spec.wordings import Wordings, placed
from forerun.spec.workload import Questions


def with_questions(requests: Requests, categories: tuple[Questions, ...], *, seed: int) -> Requests:
    """The requests, each with a text.

    Those of a trace that names texts keep them, and get places by the category's description (the
    only one's, if there is one); each question is then a topic of its own.  Raises SpecError where
    a category is described twice or not at all.
    """
    names = tuple(one.category for one in categories)
    if len(set(names)) < len(names):
        what = f"a category is described twice: {', '.join(names)}"
        raise SpecError.one("traffic.questions", what, "category: a name of its own")
    rng = stream(seed, "questions")
    if requests.wordings is not None:
        return replace(requests, wordings=_of_trace(requests.wordings, categories, rng))
    sizes = np.array([one.topics * one.questions * one.wordings for one in categories])
    first = np.concatenate([[0], np.cumsum(sizes)])
    question, category, topic, at = [], [], [], []
    n_questions = n_topics = 0
    for c, one in enumerate(categories):
        own = np.repeat(np.arange(one.topics * one.questions), one.wordings)
        question.append(own + n_questions)
        topic.append(own // one.questions + n_topics)
        category.append(np.full(len(own), c))
        at.append(_places(one, own, rng))
        n_questions += one.topics * one.questions
        n_topics += one.topics
    shares = np.array([one.share for one in categories])
    which = rng.choice(len(categories), size=len(requests), p=shares / shares.sum())
    wording = np.empty(len(requests), dtype=np.int64)
    for c, one in enumerate(categories):
        mine = which == c
        wording[mine] = first[c] + _asked(one, int(mine.sum()), rng)
    widest = max(one.dimensions for one in categories)
    at = [np.pad(each, [(0, 0), (0, widest - each.shape[1])]) for each in at]
    wordings = placed(
        np.concatenate(question), np.concatenate(category), np.concatenate(topic),
        np.concatenate(at), names,
    )  # fmt: skip
    return replace(requests, wording=wording, wordings=wordings)


def _places(one: Questions, question: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Where each text lies, float64 [W, dimensions]; question : of each text, int64 [W].

    With variance s^2 of a question's texts and t^2 of a topic's questions, in each dimension,

        paraphrase = 1 - d s^2,    related = 1 - d (s^2 + t^2)
    """
    d = one.dimensions
    texts = np.sqrt((1 - one.paraphrase) / d) * rng.standard_normal((len(question), d))
    n = int(question.max(initial=-1)) + 1
    centres = np.sqrt((one.paraphrase - one.related) / d) * rng.standard_normal((n, d))
    return texts + centres[question]


def _asked(one: Questions, n: int, rng: np.random.Generator) -> np.ndarray:
    """The texts of n requests, numbered within their category."""
    n_questions = one.topics * one.questions
    weight = (1.0 + np.arange(n_questions)) ** -one.skew
    rank = rng.choice(n_questions, size=n, p=weight / weight.sum())
    question = rng.permutation(n_questions)[rank]
    return question * one.wordings + rng.integers(0, one.wordings, n)


def _of_trace(
    named: Wordings, categories: tuple[Questions, ...], rng: np.random.Generator
) -> Wordings:
    """The texts that a trace names, each at a place around its question."""
    told = {one.category: one for one in categories}
    widest = max(one.dimensions for one in categories)
    at = np.zeros((len(named), widest))
    for c, name in enumerate(named.names):
        one = categories[0] if len(categories) == 1 else told.get(name)
        if one is None:
            what = f"the category {name!r} of the trace is not described"
            raise SpecError.one("traffic.questions", what, f"category: {name}")
        mine = np.flatnonzero(named.category == c)
        _, question = np.unique(named.question[mine], return_inverse=True)
        alone = one.model_copy(update={"related": one.paraphrase})
        at[mine, : one.dimensions] = _places(alone, question, rng)
    return placed(named.question, named.category, named.question, at, named.names)
