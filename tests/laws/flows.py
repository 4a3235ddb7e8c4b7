"""Random workflows for the laws: requests in groups, each waiting for some of those before it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

PS = 10**12


def woven(requests, seed, *, most=6, delay_s=0.05, graph=True):
    """The requests in workflows of 1 to `most`, with edges forward; half of the delays are zero."""
    draw = np.random.default_rng(seed + 7)
    n = len(requests)
    sizes = draw.integers(1, most + 1, n)
    workflow = np.repeat(np.arange(n), sizes)[:n]
    first = np.flatnonzero(np.diff(workflow, prepend=-1))
    edges = []
    for start, end in zip(first, [*first[1:], n], strict=True):
        for b in range(start + 1, end):
            before = draw.choice(np.arange(start, b), int(draw.integers(0, min(3, b - start) + 1)))
            edges += [(int(a), b) for a in sorted(set(before.tolist()))]
    edges.sort()
    before = np.array([a for a, _ in edges], dtype=np.int64)
    delay = np.where(draw.random(len(edges)) < 0.5, 0.0, draw.exponential(delay_s, len(edges)))
    return replace(
        requests,
        arrival_s=requests.arrival_s[first][workflow],
        workflow=workflow,
        session=workflow,
        deadline_s=np.where(draw.random(n) < 0.5, np.inf, draw.uniform(0.01, 2, n)),
        **({} if not graph else {
            "successors": np.array([b for _, b in edges], dtype=np.int64),
            "successor_starts": np.searchsorted(before, np.arange(n + 1)),
            "delay_s": delay,
        }),
    )  # fmt: skip


def alone(requests):
    """Each request as a workflow of its own."""
    n = len(requests)
    return replace(
        requests,
        workflow=np.arange(n),
        successors=np.zeros(0, dtype=np.int64),
        successor_starts=np.zeros(n + 1, dtype=np.int64),
        delay_s=np.zeros(0),
    )


def assert_order(log, requests, *, go_on=False):
    """Each request is sent when the last it waits for has ended, and its delay has passed; those
    that wait for no answer are cancelled."""
    rows, graph = log.requests, log.graph
    place = np.full(len(requests), -1)
    place[rows["request"]] = np.arange(len(rows))
    sent = np.full(len(requests), -1)
    lost = np.zeros(len(requests), dtype=bool)
    for a, b, delay in zip(graph.before, graph.after, graph.delay_ps, strict=True):
        if place[b] < 0:
            continue
        before = rows[place[a]]
        assert before["done_ps"] >= 0
        sent[b] = max(sent[b], before["done_ps"] + delay)
        lost[b] |= before["status"] != 0
    for b in np.flatnonzero((sent >= 0) & (place >= 0)):
        row = rows[place[b]]
        if lost[b] and not go_on:
            assert row["status"] == 4
            assert (row["n_out"], row["scheduled_ps"]) == (0, -1)
        else:
            assert row["status"] != 4
            assert row["arrival_ps"] == sent[b]
