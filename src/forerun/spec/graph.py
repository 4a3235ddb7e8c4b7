"""Who waits for whom: checks that it can be done, with a sentence where it cannot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from forerun.errors import Problem, SpecError
from forerun.spec.requests import Requests


def circle(after: Mapping[str, Sequence[str]]) -> list[str] | None:
    """Names that wait for each other in a circle, the first repeated at the end; None without one.

    after : for each name those it waits for; names that are no key wait for nobody.
    """
    done: set[str] = set()
    for start in after:
        path: list[str] = []
        stack = [(start, iter(after.get(start, ())))]
        while stack:
            name, rest = stack[-1]
            if not path or path[-1] != name:
                path.append(name)
            following = next((b for b in rest if b not in done), None)
            if following is None:
                done.add(name)
                path.pop()
                stack.pop()
            elif following in path:
                return [*path[path.index(following) :], following][::-1]
            else:
                stack.append((following, iter(after.get(following, ()))))
    return None


def check_graph(requests: Requests) -> None:
    """Raises SpecError where requests wait for what does not exist or, in a circle, for each other;
    where they wait across workflows, or for a time that is none."""
    after, starts, delay = requests.successors, requests.successor_starts, requests.delay_s
    if after is None:
        return
    where, n = "requests.successors", len(requests)
    if starts is None or delay is None or len(starts) != n + 1 or len(delay) != len(after):
        what = "come without successor_starts [N+1] or delay_s [E] of their length"
        raise SpecError.one(where, what, "give the three together")
    problems = []
    before = np.repeat(np.arange(n), np.diff(starts))
    bad = np.flatnonzero((after < 0) | (after >= n))
    if len(bad):
        e = int(bad[0])
        what = f"request {before[e]} is followed by {after[e]}, and there are {n} requests"
        raise SpecError.one(where, what, f"numbers from 0 to {n - 1}")
    wrong = np.flatnonzero(~(np.isfinite(delay) & (delay >= 0)))
    if len(wrong):
        e = int(wrong[0])
        what = f"{delay[e]:g} s from request {before[e]} to {after[e]}"
        problems.append(Problem("requests.delay_s", what, "a time from 0 on"))
    flow = requests.workflow
    if flow is not None and (apart := np.flatnonzero(flow[before] != flow[after])).size:
        e = int(apart[0])
        what = f"request {after[e]} waits for {before[e]} of another workflow"
        problems.append(Problem("requests.workflow", what, "one number for both"))
    if len(left := _in_circles(before, after, n)):
        inside = set(left.tolist())
        names: dict[str, list[str]] = {str(b): [] for b in left.tolist()}
        for a, b in zip(before.tolist(), after.tolist(), strict=True):
            if a in inside and b in inside:
                names[str(b)].append(str(a))
        found = circle(names)
        assert found is not None
        what = "wait for each other in a circle: " + " -> ".join(found)
        problems.append(Problem(where, what, "leave one of these steps out"))
    if problems:
        raise SpecError(*problems)


def _in_circles(before: np.ndarray, after: np.ndarray, n: int) -> np.ndarray:
    """Requests that no order of sending reaches; empty when all can be sent."""
    waits = np.bincount(after, minlength=n)
    starts = np.searchsorted(before, np.arange(n + 1))  # `before` is sorted
    ready = np.flatnonzero(waits == 0)
    sent = np.zeros(n, dtype=bool)
    while len(ready):
        sent[ready] = True
        count = starts[ready + 1] - starts[ready]
        first = np.repeat(starts[ready] - np.cumsum(count) + count, count)
        following = after[first + np.arange(count.sum())]
        np.subtract.at(waits, following, 1)
        ready = np.unique(following[waits[following] == 0])
    return np.flatnonzero(~sent)
