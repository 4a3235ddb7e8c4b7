"""A dump of Prometheus range queries over vLLM's or SGLang's metrics.

Accepted: an answer of /api/v1/query_range ({status, data: {resultType: matrix, result}}), a list of
such, or a mapping of query to such.  Read, as increases over the range and summed over instances:
the histograms `<engine>:time_to_first_token_seconds`, `..._time_per_output_token_seconds` (or
inter_token_latency), `e2e_request_latency_seconds`; the counters prompt_tokens_total and
generation_tokens_total; the gauges of running and waiting requests.  Query the raw series, not
rate(): `{__name__=~"vllm:.+"}`.

Source: docs/usage/metrics.md of vLLM v0.6 to v0.19 (vllm/v1/metrics/loggers.py) and SGLang's
docs/references/production_metrics.md; the HTTP API of Prometheus 2 and 3.
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from pathlib import Path
from typing import Any

from forerun.errors import SpecError
from forerun.measure.bench._bench import PERCENTILES, Bench

TOOL = "prometheus"
HISTOGRAMS = {
    "ttft_s": ("time_to_first_token_seconds",),
    "tpot_s": ("request_time_per_output_token_seconds", "time_per_output_token_seconds",
               "inter_token_latency_seconds"),
    "e2el_s": ("e2e_request_latency_seconds",),
}  # fmt: skip
GAUGES = {
    "running": ("num_requests_running", "num_running_reqs"),
    "waiting": ("num_requests_waiting", "num_queue_reqs"),
}

Series = list[tuple[dict[str, str], list[tuple[float, float]]]]


def detect(found: list[Any]) -> bool:
    return any(
        str(labels.get("__name__", "")).startswith(("vllm:", "sglang:"))
        for labels, _ in _series(found)
    )


def read(found: list[Any], path: Path) -> tuple[Bench, ...]:
    """One run: the whole range.  Raises SpecError naming the metrics that are missing."""
    by_name: dict[str, Series] = defaultdict(list)
    for labels, values in _series(found):
        if len(values) > 1:
            by_name[str(labels.get("__name__", ""))].append((labels, values))
    engine = next(
        (e for e in ("vllm", "sglang") if any(n.startswith(f"{e}:") for n in by_name)), ""
    )

    def increase(*names: str) -> float | None:
        for name in names:
            if series := by_name.get(f"{engine}:{name}"):
                return sum(_increase(values) for _, values in series)
        return None

    n = increase("e2e_request_latency_seconds_count", "time_to_first_token_seconds_count")
    prompt = increase("prompt_tokens_total", "prompt_tokens")
    answer = increase("generation_tokens_total", "generation_tokens")
    named = (("e2e_request_latency_seconds_count", n), ("prompt_tokens_total", prompt),
             ("generation_tokens_total", answer))  # fmt: skip
    missing = [f"{engine}:{name}" for name, value in named if value is None]
    if missing:
        fix = f'query_range with query={{__name__=~"{engine or "vllm"}:.+"}}'
        raise SpecError.one(str(path), f"has no series {', '.join(missing)}", fix)
    assert n is not None and prompt is not None and answer is not None  # noqa: PT018
    if n < 2:
        raise SpecError.one(str(path), f"{n:g} requests ended in its range", "a longer range")
    figures: dict[str, float] = {}
    for figure, names in HISTOGRAMS.items():
        for name in names:
            if f"{engine}:{name}_count" in by_name:
                figures |= _histogram(figure, by_name, f"{engine}:{name}")
                break
    for gauge, names in GAUGES.items():
        for name in names:
            if series := by_name.get(f"{engine}:{name}"):
                figures[gauge] = sum(sum(v for _, v in x) / len(x) for _, x in series)
    times = [t for series in by_name.values() for _, values in series for t, _ in values]
    span = max(times) - min(times)
    figures |= {"requests_per_s": n / span, "output_tokens_per_s": answer / span}
    labels = next(iter(by_name.values()))[0][0]
    instances = {lab.get("instance", "") for s in by_name.values() for lab, _ in s}
    notes = ["counters over the whole range: requests under way at its ends blur the means"]
    if len(instances) > 1:
        notes.append(f"{len(instances)} instances are summed")
    return (
        Bench(
            file=path, tool=TOOL, n=round(n), mean_isl=prompt / n, mean_osl=answer / n,
            figures=figures, rate_per_s=n / span, model=str(labels.get("model_name", "")),
            engine=engine, date=_date(min(times)), notes=tuple(notes),
        ),
    )  # fmt: skip


def _series(found: list[Any]) -> Series:
    """Every series of the dump; histograms in Prometheus's native form are left out."""
    out: Series = []
    stack = list(found)
    while stack:
        one = stack.pop(0)
        if isinstance(one, list):
            stack = one + stack
        elif isinstance(one, dict) and "metric" in one and "values" in one:
            values = [(float(t), float(v)) for t, v in one["values"]]
            out.append((one["metric"], [(t, v) for t, v in values if math.isfinite(v)]))
        elif isinstance(one, dict):
            stack = [v for v in one.values() if isinstance(v, dict | list)] + stack
    return out


def _increase(values: list[tuple[float, float]]) -> float:
    """What a counter grew; a fall is a restart from zero."""
    total = 0.0
    for (_, before), (_, after) in itertools.pairwise(values):
        total += after - before if after >= before else after
    return total


def _histogram(figure: str, by_name: dict[str, Series], name: str) -> dict[str, float]:
    """Mean and percentiles of what a histogram gained, linear inside its buckets."""
    count = sum(_increase(values) for _, values in by_name[f"{name}_count"])
    if count <= 0:
        return {}
    out = {}
    if f"{name}_sum" in by_name:
        out[f"{figure}_mean"] = sum(_increase(v) for _, v in by_name[f"{name}_sum"]) / count
    upto: dict[float, float] = defaultdict(float)
    for labels, values in by_name.get(f"{name}_bucket", ()):
        upto[float(labels.get("le", "inf"))] += _increase(values)
    edges = sorted(upto)
    for p in PERCENTILES if edges else ():
        rank, low, below = count * p / 100, 0.0, 0.0
        for edge in edges:
            if upto[edge] >= rank and math.isfinite(edge):
                share = (rank - below) / max(upto[edge] - below, 1e-12)
                out[f"{figure}_p{p}"] = low + (edge - low) * share
                break
            low, below = edge, upto[edge]
    return out


def _date(seconds: float) -> str:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(seconds, UTC).date().isoformat()
