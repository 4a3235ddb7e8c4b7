"""Figures by model, and what it took replicas to take turns with them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from forerun.metrics import goodput, latency
from forerun.metrics.figure import Figure, ratio
from forerun.metrics.latency import PS
from forerun.metrics.stats import quantiles
from forerun.metrics.window import View
from forerun.spec.slo import Slo


@dataclass(frozen=True)
class OfModel:
    """What the requests for one model met; None where no request tells."""

    model: str
    n: int  # requests that asked for it
    finished: int
    output_tokens_per_s: float | None
    ttft_p50_s: float | None
    ttft_p99_s: float | None
    tpot_p50_s: float | None
    tpot_p99_s: float | None
    attainment: float | None  # share of its requests that meet every bound
    goodput_per_s: float | None


def by_model(part: View, slo: Slo) -> tuple[OfModel, ...]:
    """A row a model, in the case's order; none where there is one model only."""
    names = part.log.meta.get("models", ())
    if len(names) < 2:
        return ()
    return tuple(_of(part, slo, m, name) for m, name in enumerate(names))


def _of(part: View, slo: Slo, m: int, name: str) -> OfModel:
    came = part.arrived[part.arrived["model"] == m]
    done = came[latency.finished(came)]
    ended = part.ended[part.ended["model"] == m]
    ttft, tpot = quantiles(latency.ttft_s(done)), quantiles(latency.tpot_s(done))
    goals = goodput.goals(slo, part.log)
    good = goodput.good(ended, goals)
    return OfModel(
        model=name,
        n=len(came),
        finished=len(done),
        output_tokens_per_s=ratio(float(ended["n_out"].sum(dtype=np.int64)), part.duration_s),
        ttft_p50_s=ttft.p50,
        ttft_p99_s=ttft.p99,
        tpot_p50_s=tpot.p50,
        tpot_p99_s=tpot.p99,
        attainment=goodput.attainment(came, goals),
        goodput_per_s=ratio(float(good.sum()), part.duration_s),
    )


def figures(part: View) -> dict[str, Any]:
    """turns, weights_loaded_bytes, loading, draining; None where replicas have one model each."""
    loads = part.log.loads
    turns = loaded = loading = draining = None
    if part.whole and loads is not None and loads["n"].any():
        turns = int(loads["n"].sum())
        loaded = float(loads["bytes"].sum())
        life_s = part.duration_s * len(loads)
        loading = ratio(float(loads["load_ps"].sum()) * PS, life_s)
        draining = ratio(float(loads["drain_ps"].sum()) * PS, life_s)
    return {
        "turns": Figure(turns, "count", "replicas"),
        "weights_loaded_bytes": Figure(loaded, "bytes", "replicas"),
        "loading": Figure(loading, "share", "replicas"),
        "draining": Figure(draining, "share", "replicas"),
    }
