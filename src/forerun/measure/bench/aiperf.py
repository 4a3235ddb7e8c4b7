"""AIPerf's `profile_export.jsonl` (a record a request) and `profile_export_aiperf.json` (summary).

Read of a record: metadata.request_start_ns, benchmark_phase, was_cancelled; metrics
input_sequence_length, output_sequence_length (or output_token_count), time_to_first_token and
request_latency, each {value, unit}; error.  Of the summary the same metrics and request_throughput,
output_token_throughput, request_count, each {unit, avg, p50, ...}, and input_config.loadgen.
A record says nothing of the load: give the summary beside it (`profile_export_aiperf.json` in the
same folder is looked for) or the times in it count.

`profile_export.json` (GenAI-Perf's raw form) holds no token counts and is refused with that reason.

Source: docs/tutorials/working-with-profile-exports.md and reference/json-export-schema.md of
ai-dynamo/aiperf, v0.2 to v0.13.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from forerun.errors import SpecError
from forerun.measure.bench._bench import Bench, of_requests

TOOL = "aiperf"
SCALE = {"ms": 1e-3, "s": 1.0, "sec": 1.0, "seconds": 1.0, "us": 1e-6, "ns": 1e-9}
STATISTICS = (("mean", "avg"), ("p50", "p50"), ("p90", "p90"), ("p95", "p95"), ("p99", "p99"))


def detect(found: list[Any]) -> bool:
    first = found[0] if found else None
    if not isinstance(first, dict):
        return False
    if isinstance(first.get("metadata"), dict) and "metrics" in first:
        return True
    if isinstance(first.get("experiments"), list):
        return True
    return _is_metric(_metrics(first).get("time_to_first_token")) or "input_config" in first


def read(found: list[Any], path: Path) -> tuple[Bench, ...]:
    """One run.  Raises SpecError where token counts or times are missing."""
    first = found[0]
    if "experiments" in first:
        what = "holds responses without token counts"
        raise SpecError.one(str(path), what, "profile_export.jsonl, or profile_export_aiperf.json")
    return (_records(found, path),) if "metadata" in first else (_summary(first, path),)


def _records(found: list[Any], path: Path) -> Bench:
    columns: dict[str, list[float]] = {"isl": [], "osl": [], "ttft_s": [], "e2el_s": []}
    starts, left = [], 0
    for one in found:
        about, metrics = one.get("metadata") or {}, one.get("metrics") or {}
        if about.get("benchmark_phase", "profiling") != "profiling":
            continue
        if one.get("error") or about.get("was_cancelled"):
            left += 1
            continue
        osl = metrics.get("output_sequence_length") or metrics.get("output_token_count")
        columns["isl"].append(_value(metrics.get("input_sequence_length")))
        columns["osl"].append(_value(osl))
        columns["ttft_s"].append(_value(metrics.get("time_to_first_token")))
        columns["e2el_s"].append(_value(metrics.get("request_latency")))
        starts.append(1e-9 * float(about.get("request_start_ns") or "nan"))
    names = {"isl": "input_sequence_length", "osl": "output_sequence_length",
             "ttft_s": "time_to_first_token", "e2el_s": "request_latency"}  # fmt: skip
    missing = [names[k] for k, v in columns.items() if all(x != x for x in v)]
    if missing:
        what = f"its records have no {', '.join(missing)}"
        raise SpecError.one(str(path), what, "aiperf profile --streaming")
    beside = path.with_name("profile_export_aiperf.json")
    load = _load(json.loads(beside.read_text(encoding="utf-8"))) if beside.is_file() else {}
    notes = [f"{left} requests failed or were cancelled and are left out"] if left else []
    return of_requests(
        path,
        TOOL,
        isl=columns["isl"],
        osl=columns["osl"],
        ttft_s=columns["ttft_s"],
        e2el_s=columns["e2el_s"],
        start_s=starts,
        notes=notes,
        **load,
    )


def _summary(one: dict[str, Any], path: Path) -> Bench:
    metrics = _metrics(one)
    needs = ("request_count", "input_sequence_length", "output_sequence_length",
             "time_to_first_token", "request_latency")  # fmt: skip
    missing = [name for name in needs if not _is_metric(metrics.get(name))]
    if missing:
        raise SpecError.one(str(path), f"has no {', '.join(missing)}", "aiperf profile --streaming")
    figures = {}
    for mine, theirs in (("ttft_s", "time_to_first_token"), ("tpot_s", "inter_token_latency"),
                         ("e2el_s", "request_latency")):  # fmt: skip
        for name, key in STATISTICS:
            value = _value(metrics.get(theirs), key)
            if value == value:
                figures[f"{mine}_{name}"] = value
    for mine, theirs in (("requests_per_s", "request_throughput"),
                         ("output_tokens_per_s", "output_token_throughput")):  # fmt: skip
        value = _value(metrics.get(theirs), "avg")
        if value == value:
            figures[mine] = value
    return Bench(
        file=path, tool=TOOL, n=round(_value(metrics["request_count"], "avg")),
        mean_isl=_value(metrics["input_sequence_length"], "avg"),
        mean_osl=_value(metrics["output_sequence_length"], "avg"), figures=figures,
        notes=("the file has no single requests: profile_export.jsonl gives a sharper fit",),
        **_load(one),
    )  # fmt: skip


def _load(one: dict[str, Any]) -> dict[str, Any]:
    """The load and the model as the configuration states them."""
    config = one.get("input_config") or {}
    generator = config.get("loadgen") or config.get("load_generator") or {}
    names = (config.get("endpoint") or {}).get("model_names") or []
    rate, concurrency = generator.get("request_rate"), generator.get("concurrency")
    return {
        "rate_per_s": float(rate) if rate else None,
        "concurrency": int(concurrency) if concurrency else None,
        "model": str(names[0]) if names else "",
        "date": str(one.get("start_time") or "")[:10],
    }


def _metrics(one: dict[str, Any]) -> dict[str, Any]:
    records = one.get("records")
    return records if isinstance(records, dict) else one


def _is_metric(value: Any) -> bool:
    return isinstance(value, dict) and "avg" in value


def _value(metric: Any, key: str = "value") -> float:
    """A metric in SI; NaN where it is not there."""
    if not isinstance(metric, dict) or metric.get(key) is None:
        return float("nan")
    return float(metric[key]) * SCALE.get(str(metric.get("unit")), 1.0)
