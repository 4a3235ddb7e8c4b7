"""Who waits for whom, as the core's arrays: successors, workflows, and every request by number."""

from __future__ import annotations

from typing import Any

import numpy as np

from forerun.sim import tables as table_arrays
from forerun.sim.core import rows_request, state
from forerun.sim.core.order import NEVER
from forerun.sim.log import Graph
from forerun.spec.graph import check_graph
from forerun.spec.requests import Requests


def wanted_by(requests: Requests) -> bool:
    """Whether some of these requests belong together or wait for others."""
    return requests.workflow is not None or requests.successors is not None


def later(t_ps: np.ndarray, span_ps: np.ndarray) -> np.ndarray:
    """t + span; NEVER where the span is."""
    never = span_ps == NEVER
    return np.where(never, NEVER, t_ps + np.where(never, 0, span_ps))


def first_of(labels: np.ndarray) -> np.ndarray:
    """Where the label of each entry occurs first; an entry's own place for those below 0."""
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    return np.where(labels < 0, np.arange(len(labels)), first[inverse])


def calls_of(
    rows: Any, requests: Requests, now: state.State
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """The arrays of State with these requests added, and the places of those that wait for nobody.

    rows : ARRIVAL [n], deadlines counted from arrival; their `workflow` is filled in.
    Raises SpecError where requests wait for each other in a circle.
    """
    check_graph(requests)
    start, n = len(now.calls), len(rows)
    first = int(rows.request[0]) if n else start
    more = state.rows(first - start + n, rows_request.CALL)  # those put in before had none
    more.workflow = more.slot = more.twin = more.loser = -1
    rows.workflow, flows = _flows(rows, requests, len(now.flows))
    own = more[first - start :]
    own.workflow = rows.workflow
    edges = state.rows(0, rows_request.SUCCESSOR)
    if requests.successors is not None:
        assert requests.delay_s is not None
        starts = np.asarray(requests.successor_starts)
        edges = state.rows(len(requests.successors), rows_request.SUCCESSOR)
        edges.request = requests.successors + first
        edges.delay_ps = table_arrays.picoseconds(requests.delay_s)
        own.next_at = len(now.successors) + starts[:-1]
        own.n_next = np.diff(starts)
        own.n_before = np.bincount(requests.successors, minlength=n)
    own.left_calls, own.left_tokens = rest_of(requests)
    wanted = state.rows(first - start + n, rows_request.ARRIVAL)
    wanted[first - start :] = rows
    joined: dict[str, np.ndarray] = {
        name: np.concatenate([getattr(now, name), add]).view(np.recarray)
        for name, add in (
            ("calls", more), ("wanted", wanted), ("successors", edges), ("flows", flows),
        )
    }  # fmt: skip
    return joined, np.flatnonzero(own.n_before == 0)


def rest_of(requests: Requests) -> tuple[np.ndarray, np.ndarray]:
    """Most requests, and most tokens, on a path from each request to an end: int64 [N], [N].

    Both count the request itself; the two paths need not be the same.
    """
    tokens = (requests.isl + requests.osl).astype(np.int64)
    n_calls = np.ones(len(requests), dtype=np.int64)
    if requests.successors is None:
        return n_calls, tokens
    assert requests.successor_starts is not None
    after = requests.successors
    before = np.repeat(np.arange(len(requests)), np.diff(requests.successor_starts))
    left, own = tokens.copy(), tokens
    open_ends = np.bincount(before, minlength=len(requests))
    by_after = np.argsort(after, kind="stable")
    first = np.searchsorted(after[by_after], np.arange(len(requests) + 1))
    ready = np.flatnonzero(open_ends == 0)  # all that follow them are known
    while len(ready):
        count = first[ready + 1] - first[ready]
        place = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
        b = before[by_after[np.repeat(first[ready], count) + place]]
        np.maximum.at(n_calls, b, np.repeat(n_calls[ready], count) + 1)
        np.maximum.at(left, b, own[b] + np.repeat(left[ready], count))
        np.subtract.at(open_ends, b, 1)
        ready = np.unique(b[open_ends[b] == 0])
    return n_calls, left


def _flows(rows: Any, requests: Requests, n_before: int) -> tuple[np.ndarray, np.recarray]:
    """The workflow of each request, numbered on from those before, and a row for each."""
    workflow = np.full(len(rows), -1, dtype=np.int64)
    flows = state.rows(0, rows_request.FLOW)
    if requests.workflow is not None and (named := requests.workflow >= 0).any():
        first = first_of(requests.workflow)[named]
        labels, workflow[named] = np.unique(first, return_inverse=True)
        flows = state.rows(len(labels), rows_request.FLOW)
        flows.n_left = np.bincount(workflow[named])
        flows.start_ps = rows.arrival_ps[labels]
        workflow[named] += n_before
    return workflow, flows


def graph_of(now: state.State) -> Graph:
    """Workflows and who waited for whom, as a log keeps them."""
    calls: Any = now.calls
    wanted: Any = now.wanted
    due = np.full(len(now.flows), -1)
    named = np.flatnonzero(calls.workflow >= 0)
    span = np.array(wanted.deadline_ps[named])
    span[span == NEVER] = -1
    np.maximum.at(due, calls.workflow[named], span)
    start = np.array(now.flows["start_ps"])
    return Graph(
        workflow=np.array(calls.workflow),
        before=np.repeat(np.arange(len(calls)), calls.n_next),
        after=np.array(now.successors["request"]),
        delay_ps=np.array(now.successors["delay_ps"]),
        start_ps=start,
        deadline_ps=np.where(due < 0, NEVER, start + due),
    )
