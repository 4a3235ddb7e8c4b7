"""The JSON or YAML report of GuideLLM: one run for each of its `benchmarks`.

Read of a request under requests.successful: prompt_tokens, output_tokens, time_to_first_token_ms,
request_latency (s), request_start_time (start_time before v0.3); of the benchmark its strategy
under config (args before v0.4): type_, rate, streams or max_concurrency; the report's metadata.

Source: src/guidellm/schemas/request_stats.py and benchmark/schemas, v0.2 to v0.5.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from forerun.errors import SpecError
from forerun.measure.bench._bench import Bench, of_requests

TOOL = "guidellm"


def detect(found: list[Any]) -> bool:
    first = found[0] if found else None
    if not isinstance(first, dict) or not isinstance(first.get("benchmarks"), list):
        return False
    return any(isinstance(b, dict) and "requests" in b for b in first["benchmarks"])


def read(found: list[Any], path: Path) -> tuple[Bench, ...]:
    """Every benchmark of the report that has successful requests."""
    report = found[0]
    version = str((report.get("metadata") or {}).get("guidellm_version") or "")
    out, empty = [], 0
    for one in report["benchmarks"]:
        requests = ((one.get("requests") or {}).get("successful")) or []
        if requests:
            out.append(_run(one, requests, path, version))
        else:
            empty += 1
    if not out:
        what = f"none of its {empty} benchmarks has a successful request in it"
        raise SpecError.one(str(path), what, "guidellm benchmark ... with requests kept")
    return tuple(out)


def _run(one: dict[str, Any], requests: list[Any], path: Path, version: str) -> Bench:
    columns: dict[str, list[Any]] = {"isl": [], "osl": [], "ttft_s": [], "e2el_s": []}
    starts = []
    for r in requests:
        ttft = _first(r, "time_to_first_token_ms", "ttft_ms")
        latency = _first(r, "request_latency")
        start, end = (
            _first(r, "request_start_time", "start_time"),
            _first(r, "request_end_time", "end_time"),
        )
        if latency is None and start is not None and end is not None:
            latency = end - start
        columns["isl"].append(_nan(_first(r, "prompt_tokens")))
        columns["osl"].append(_nan(_first(r, "output_tokens")))
        columns["ttft_s"].append(_nan(ttft) * 1e-3)
        columns["e2el_s"].append(_nan(latency))
        starts.append(_nan(start))
    names = {"isl": "prompt_tokens", "osl": "output_tokens", "ttft_s": "time_to_first_token_ms",
             "e2el_s": "request_latency"}  # fmt: skip
    missing = [names[k] for k, v in columns.items() if all(x != x for x in v)]
    if missing:
        what = f"its requests have no {', '.join(missing)}"
        raise SpecError.one(str(path), what, "a streaming backend, and requests kept in the report")
    strategy = _strategy(one)
    kind = str(strategy.get("type_") or "")
    concurrency = rate = None
    if kind == "synchronous":
        concurrency = 1
    elif kind in ("concurrent", "throughput"):
        concurrency = strategy.get("streams") or strategy.get("max_concurrency")
        concurrency = int(concurrency) if concurrency else None
    else:
        rate = _first(strategy, "rate", "initial_rate")
    return of_requests(
        path, TOOL, isl=columns["isl"], osl=columns["osl"], ttft_s=columns["ttft_s"],
        e2el_s=columns["e2el_s"], start_s=starts, concurrency=concurrency, rate_per_s=rate,
        model=_model(one), notes=(f"guidellm {version}",) if version else (),
    )  # fmt: skip


def _strategy(one: dict[str, Any]) -> dict[str, Any]:
    for key in ("config", "args", "scheduler"):
        found = (one.get(key) or {}).get("strategy")
        if isinstance(found, dict):
            return found
    return {}


def _model(one: dict[str, Any]) -> str:
    for key in ("config", "worker", "args", "benchmarker"):
        part = one.get(key) or {}
        backend = part.get("backend") if isinstance(part.get("backend"), dict) else {}
        name = (backend or {}).get("model") or part.get("backend_model") or part.get("model")
        if isinstance(name, str):
            return name
    return ""


def _first(r: dict[str, Any], *names: str) -> Any:
    return next((r[name] for name in names if r.get(name) is not None), None)


def _nan(value: Any) -> float:
    return float("nan") if value is None else float(value)
