"""Whole workflows: how long from the first request's arrival to the last answer, and why.

The critical path of a workflow goes back from its last answer: to the request, to the one whose end
released it, and so on to the first.  Its parts add up to the workflow's latency.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from forerun.metrics import latency, stats
from forerun.metrics.figure import Figure, text
from forerun.metrics.stats import Quantiles
from forerun.metrics.window import View
from forerun.sim.core.order import NEVER


@dataclass(frozen=True, eq=False)
class Workflows:
    """The workflows that began in a window; those that did not finish have no latency."""

    n: int
    finished: int  # all requests of which did
    e2el_s: Quantiles
    deadline_met: Figure  # share of all, None where no deadline was given
    path_queue_s: Figure  # means over finished ones of what is spent on the critical path
    path_service_s: Figure
    path_delay_s: Figure  # thinking, tools
    path_requests: Figure  # how many requests are on it


def workflows(part: View, rng: np.random.Generator | None = None) -> Workflows | None:
    """Figures of the workflows that began in the window; None for a run without any."""
    graph = part.log.graph
    if graph is None or not len(graph.start_ps):
        return None
    rows: Any = part.log.requests
    n = len(graph.workflow)
    ended = np.full(n, -1)
    ended[rows["request"]] = np.where(latency.finished(rows), rows["done_ps"], -1)
    named = np.flatnonzero(graph.workflow >= 0)
    of = graph.workflow[named]
    worst = np.full(len(graph.start_ps), NEVER)
    last = np.full(len(graph.start_ps), -1)
    np.minimum.at(worst, of, ended[named])
    np.maximum.at(last, of, ended[named])
    first = np.full(len(worst), NEVER)
    sent = rows[graph.workflow[rows["request"]] >= 0]
    np.minimum.at(first, graph.workflow[sent["request"]], sent["arrival_ps"])
    began = (first < NEVER) & (
        part.whole | ((first >= part.start_ps) & (first < part.end_ps))
    )  # fmt: skip
    done = began & (worst >= 0)
    order = np.flatnonzero(done)[np.argsort(first[done], kind="stable")]
    e2el = (last - first)[order] * latency.PS
    met = None
    if (graph.deadline_ps[began] < NEVER).any():
        met = float((done & (last <= graph.deadline_ps))[began].mean())
    means = _path_means(part, ended, of, named, last, order)
    source = "requests, critical path"
    return Workflows(
        n=int(began.sum()),
        finished=int(done.sum()),
        e2el_s=stats.quantiles(e2el, source="workflows", rng=rng),
        deadline_met=Figure(met, "share", "workflows"),
        path_queue_s=Figure(means[0], "s", source),
        path_service_s=Figure(means[1], "s", source),
        path_delay_s=Figure(means[2], "s", source),
        path_requests=Figure(means[3], "requests", source),
    )


def _path_means(
    part: View,
    ended: np.ndarray,
    of: np.ndarray,
    named: np.ndarray,
    last: np.ndarray,
    chosen: np.ndarray,
) -> list[float | None]:
    """Mean seconds of waiting, service and delay, and requests, on the chosen workflows' paths."""
    if not len(chosen):
        return [None] * 4
    graph, rows = part.log.graph, part.log.requests
    assert graph is not None
    n = len(ended)
    place = np.full(n, -1)
    place[rows["request"]] = np.arange(len(rows))
    # the edge that released each request: of those into it, the one that came last
    release = ended[graph.before] + graph.delay_ps
    order = np.lexsort((np.arange(len(release)), release, graph.after))
    via = np.full(n, -1)
    via[graph.after[order]] = order  # the last assignment stays
    end_at = np.full(len(last), -1)
    ends = named[ended[named] == last[of]]
    end_at[graph.workflow[ends]] = ends
    at = end_at[chosen]
    total = np.zeros((4, len(at)))
    alive = np.arange(len(at))
    while len(alive):
        row = rows[place[at[alive]]]
        scheduled = row["scheduled_ps"]
        scheduled = np.where(scheduled < 0, row["arrival_ps"], scheduled)  # a kept answer
        edge = via[at[alive]]
        total[0, alive] += (scheduled - row["arrival_ps"]) * latency.PS
        total[1, alive] += (row["done_ps"] - scheduled) * latency.PS
        total[3, alive] += 1
        on = edge >= 0
        alive, edge = alive[on], edge[on]
        total[2, alive] += graph.delay_ps[edge] * latency.PS
        at[alive] = graph.before[edge]
    return [float(mean) for mean in total.mean(axis=1)]


def sentence(found: Workflows | None) -> list[str]:
    """Where the time of a workflow goes, in a sentence; none when nothing is known."""
    if found is None or found.e2el_s.mean is None:
        return []
    parts = {
        "computing": found.path_service_s.value,
        "waiting to be scheduled": found.path_queue_s.value,
        "thinking and tools": found.path_delay_s.value,
    }
    mean = found.e2el_s.mean
    told = ", ".join(
        f"{text(value, 's')} ({text(value / mean, 'share')}) {name}"
        for name, value in sorted(parts.items(), key=lambda item: -(item[1] or 0.0))
        if value is not None and mean > 0
    )
    n = found.path_requests.value
    return [
        f"A workflow takes {text(mean, 's')} on average, along a critical path of "
        f"{text(n, 'requests')}: {told}."
    ]
