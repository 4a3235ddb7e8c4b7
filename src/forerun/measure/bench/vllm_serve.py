"""The JSON of `vllm bench serve --save-result`, with --save-detailed or without.

Read: date, backend (or endpoint_type), model_id, request_rate, burstiness, max_concurrency,
duration, completed, total_input_tokens, total_output_tokens, the `mean_`, `median_` and `p99_`
figures in ms; detailed: input_lens, output_lens, ttfts, itls (seconds), errors, and from v0.11 on
start_times, later latencies.  --append-result puts one object on each line.

Source: vllm/benchmarks/serve.py of vLLM v0.6 to v0.19 (benchmarks/benchmark_serving.py before).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from forerun.measure.bench._bench import Bench
from forerun.measure.bench._serve import rate, run_of

TOOL = "vllm bench serve"


def detect(found: list[Any]) -> bool:
    first = found[0] if found else None
    return (
        isinstance(first, dict)
        and "completed" in first
        and ("model_id" in first or "endpoint_type" in first or "request_goodput" in first)
        and "mean_e2e_latency_ms" not in first  # SGLang's word
    )


def read(found: list[Any], path: Path) -> tuple[Bench, ...]:
    """One run an object.  Raises SpecError naming the keys that are missing."""
    return tuple(_run(one, path) for one in found if isinstance(one, dict))


def _run(one: dict[str, Any], path: Path) -> Bench:
    about = {
        "rate_per_s": rate(one.get("request_rate")),
        "burstiness": float(one.get("burstiness") or 1.0),
        "concurrency": one.get("max_concurrency") or None,
        "model": str(one.get("model_id") or ""),
        "engine": _engine(one),
        "engine_version": str(one.get("vllm_version") or one.get("version") or ""),
        "date": _date(str(one.get("date") or "")),
    }
    return run_of(
        one, path, where=str(path), tool=TOOL, command="vllm bench serve --save-result",
        detailed="--save-detailed", about=about,
    )  # fmt: skip


def _engine(one: dict[str, Any]) -> str:
    """The engine behind the endpoint, where the backend's name says it."""
    backend = str(one.get("backend") or one.get("endpoint_type") or "")
    return next((name for name in ("vllm", "sglang", "tensorrt-llm") if name in backend), "")


def _date(text: str) -> str:
    """20260914-101500 as 2026-09-14."""
    digits = text[:8]
    return (
        f"{digits[:4]}-{digits[4:6]}-{digits[6:]}" if digits.isdigit() and len(digits) == 8 else ""
    )
