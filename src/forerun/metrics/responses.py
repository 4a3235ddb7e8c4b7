"""What a response cache in front of the fleet gave, and what of it was another question's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from forerun.metrics.figure import Figure, plural, ratio, text
from forerun.metrics.window import View
from forerun.sim.responses import Answered


@dataclass(frozen=True)
class OfCategory:
    """What the cache did for one category of requests."""

    category: str
    asked: int  # requests that looked for an answer
    hits: int  # of them answered
    wrong: int  # of these with the answer to another question
    missed: int  # had none, though a right one was kept
    kept: int  # answers at the end
    evicted: int  # for want of room ...
    expired: int  # ... and for their age
    explored: int  # requests computed to learn whether an answer kept were right


def by_category(part: View) -> tuple[OfCategory, ...]:
    """A row a category, of the requests that arrived in the window; none without a cache.

    Answers kept, evicted and expired are those of the whole run.
    """
    found = part.log.answered
    if found is None:
        return ()
    came = np.zeros(len(found.asks), dtype=bool)
    came[part.arrived["request"]] = True
    asked = came & (found.asks["n_asked"] > 0)
    hit = asked & (found.asks["got"] >= 0)
    wrong = hit & wrongly(found)
    missed = asked & ~hit & (found.asks["n_missed"] > 0)
    explored = asked & ~hit & (found.asks["n_explored"] > 0)
    out = []
    for c, name in enumerate(found.names):
        mine, shelf = found.category == c, found.shelves[c]
        n_asked, n_hit, n_wrong, n_missed, n_explored = (
            int((mine & which).sum()) for which in (asked, hit, wrong, missed, explored)
        )
        kept, evicted, expired = (int(shelf[name]) for name in ("n", "n_evicted", "n_expired"))
        out.append(
            OfCategory(name, n_asked, n_hit, n_wrong, n_missed, kept, evicted, expired, n_explored)
        )
    return tuple(out)


def wrongly(found: Answered) -> np.ndarray:
    """Which requests got the answer to another question: bool [N]."""
    got = found.asks["got"]
    return (got >= 0) & (found.question[np.maximum(got, 0)] != found.question)


def figures(part: View) -> dict[str, Any]:
    """All figures of the group responses; None where there is no cache."""
    rows = by_category(part)
    found = part.log.answered
    learns = found is not None and bool((found.shelves["max_error"] > 0).any())
    asked, hits, wrong, missed, explored = (
        float(sum(getattr(row, name) for row in rows))
        for name in ("asked", "hits", "wrong", "missed", "explored")
    )
    return {
        "response_hit": Figure(ratio(hits, asked), "share", "requests that asked the cache"),
        "response_wrong": Figure(ratio(wrong, hits), "share", "answers of the cache"),
        "response_missed": Figure(ratio(missed, asked), "share", "requests that asked the cache"),
        "response_explored": Figure(
            ratio(explored if learns else None, asked), "share", "requests that asked the cache"
        ),
    }


def note(part: View) -> list[str]:
    """That wrong answers count as answers, where there are any."""
    wrong = sum(row.wrong for row in by_category(part))
    if not wrong:
        return []
    were = "was" if wrong == 1 else "were"
    return [
        f"{plural(wrong, 'answer')} of the response cache {were} another question's: they count as "
        "finished, and as good where they came in time"
    ]


def told(part: View) -> list[str]:
    """What the cache did, category by category, in sentences."""
    out = []
    rows = by_category(part)
    for row in rows:
        of = f" for {row.category}" if len(rows) > 1 else ""
        if not row.asked:
            out.append(f"No request of {row.category} asked the response cache.")
            continue
        wrong = "none of them another question's"
        if row.wrong:
            share = text(row.wrong / row.hits, "share")
            wrong = f"{row.wrong:,} of them ({share}) another question's"
        if not row.hits:
            wrong = "not one"
        out.append(
            f"The response cache{of} answered {row.hits:,} of {plural(row.asked, 'request')} "
            f"({text(row.hits / row.asked, 'share')}), {wrong}; {_not_given(row)}; "
            f"{plural(row.kept, 'answer')} "
            f"kept at the end, {row.evicted:,} dropped for room, {row.expired:,} for age."
        )
    return out


def _not_given(row: OfCategory) -> str:
    if row.explored:
        return (
            f"{row.explored:,} were computed to learn whether the answer most alike were right, "
            f"and {row.missed:,} got none though a right one was kept"
        )
    return f"{row.missed:,} found none though a right one was kept under a text not like enough"
