"""Figures by tenant and by SLO class, and how evenly those who wait are served."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from forerun.metrics import goodput, latency
from forerun.metrics.figure import Figure, ratio
from forerun.metrics.stats import quantiles
from forerun.metrics.window import View
from forerun.spec.slo import Slo

WINDOWS = 100  # that a run is cut into


@dataclass(frozen=True)
class OfTenant:
    """What the requests of a tenant, or of all tenants of a class, met; None where none tells."""

    name: str
    slo_class: str | None
    weight: float | None  # None for a class
    n: int
    finished: int
    input_tokens_per_s: float | None  # of requests that finished
    output_tokens_per_s: float | None
    ttft_p50_s: float | None
    ttft_p99_s: float | None
    tpot_p99_s: float | None
    e2el_p99_s: float | None
    attainment: float | None  # share of its requests that meet every bound of their class
    asked: float | None  # the share that its class asks for
    goodput_per_s: float | None


def by_tenant(part: View, slo: Slo) -> tuple[OfTenant, ...]:
    """A row a tenant, in the case's order; none where the case names none."""
    return tuple(
        _of(part, slo, [u], said.name, said.slo_class, said.weight)
        for u, said in enumerate(part.log.meta.get("tenants", ()))
    )


def by_class(part: View, slo: Slo) -> tuple[OfTenant, ...]:
    """A row a class; those without one stand together, last."""
    if not slo.classes:
        return ()
    of = [said.slo_class for said in part.log.meta.get("tenants", ())]
    rows = []
    for name in (*slo.classes, None):
        members = [u for u, own in enumerate(of) if own == name]
        if members:
            rows.append(_of(part, slo, members, name or "none", name, None))
    return tuple(rows)


def _of(
    part: View, slo: Slo, members: Sequence[int], name: str, own: str | None, weight: float | None
) -> OfTenant:
    came = part.arrived[np.isin(part.arrived["tag"], members)]
    done = came[latency.finished(came)]
    ended = part.ended[np.isin(part.ended["tag"], members)]
    goals = goodput.goals(slo, part.log)
    ttft = quantiles(latency.ttft_s(done))
    asked = None if own is None else slo.classes[own].attainment
    return OfTenant(
        name=name,
        slo_class=own,
        weight=weight,
        n=len(came),
        finished=len(done),
        input_tokens_per_s=ratio(float(ended["isl"].sum(dtype=np.int64)), part.duration_s),
        output_tokens_per_s=ratio(float(ended["n_out"].sum(dtype=np.int64)), part.duration_s),
        ttft_p50_s=ttft.p50,
        ttft_p99_s=ttft.p99,
        tpot_p99_s=quantiles(latency.tpot_s(done)).p99,
        e2el_p99_s=quantiles(latency.e2el_s(done)).p99,
        attainment=goodput.attainment(came, goals),
        asked=slo.attainment if asked is None else asked,
        goodput_per_s=ratio(float(goodput.good(ended, goals).sum()), part.duration_s),
    )


def figures(part: View) -> dict[str, Any]:
    """jain, service_gap_tokens_per_s: over windows in which at least two tenants always waited.

    Service is counted as `vtc` counts it, over a tenant's weight: prompts evenly from start to
    first token, answers evenly from there to the last.
    jain : (sum x)^2 / (n sum x^2) of the n tenants' services x, mean of the windows.
    Source: Jain, Chiu and Hawe, "A Quantitative Measure of Fairness", 1984.
    """
    index = gap = None
    tenants = part.log.meta.get("tenants", ())
    if len(tenants) > 1 and part.whole and part.duration_s > 0:
        edges = np.linspace(part.start_ps, part.end_ps, WINDOWS + 1)
        rows = [part.arrived[part.arrived["tag"] == u] for u in range(len(tenants))]
        count = part.log.meta["fair"]
        served = np.array([
            np.diff(served_until(own, edges, count["input"], count["output"])) / said.weight
            for own, said in zip(rows, tenants, strict=True)
        ])  # fmt: skip
        waits = np.array([waiting_throughout(own, edges) for own in rows])
        both = np.flatnonzero(waits.sum(axis=0) >= 2)
        each = [served[waits[:, w], w] for w in both]
        each = [x for x in each if x.any()]
        if each:
            index = float(np.mean([x.sum() ** 2 / (len(x) * (x**2).sum()) for x in each]))
            gap = float(max(x.max() - x.min() for x in each)) * WINDOWS / part.duration_s
    return {
        "jain": Figure(index, "share", "requests"),
        "service_gap_tokens_per_s": Figure(gap, "token/s", "requests"),
    }


def served_until(rows: np.ndarray, edges: np.ndarray, inp: float, out: float) -> np.ndarray:
    """Service of some requests until each of the times: float64 [edges]."""
    rows = rows[rows["first_token_ps"] >= 0]
    start, first = rows["scheduled_ps"].astype(float), rows["first_token_ps"].astype(float)
    done = np.maximum(rows["done_ps"].astype(float), first)
    total = np.zeros(len(edges))
    for begin, end, tokens in (
        (start, first, inp * (rows["isl"] - rows["cached"])),
        (first, done, out * rows["n_out"]),
    ):
        span = np.maximum(end - begin, 1.0)
        for e, edge in enumerate(edges):
            total[e] += (tokens * np.clip((edge - begin) / span, 0.0, 1.0)).sum()
    return total


def waiting_throughout(rows: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """In which windows some request waited to start all the time: bool [windows]."""
    begin = rows["arrival_ps"].astype(float)
    end = np.where(rows["scheduled_ps"] >= 0, rows["scheduled_ps"], rows["done_ps"]).astype(float)
    order = np.argsort(begin, kind="stable")
    begin, end = begin[order], np.maximum.accumulate(end[order]) if len(end) else end
    # the stretches in which somebody waits: a new one begins where all before have started
    new = np.zeros(0, dtype=np.int64)
    if len(begin):
        new = np.flatnonzero(np.concatenate([[True], begin[1:] > end[:-1]]))
    out = np.zeros(len(edges) - 1, dtype=bool)
    for k, at in enumerate(new):
        last = end[new[k + 1] - 1] if k + 1 < len(new) else end[-1]
        out |= (edges[:-1] >= begin[at]) & (edges[1:] <= last)
    return out
