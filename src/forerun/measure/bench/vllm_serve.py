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

from forerun.errors import SpecError
from forerun.measure.bench._bench import Bench, of_requests

TOOL = "vllm bench serve"
NEEDS = ("completed", "total_input_tokens", "total_output_tokens")
DETAILED = ("input_lens", "output_lens", "ttfts", "itls")


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
    missing = [key for key in NEEDS if key not in one]
    has = [key for key in DETAILED if one.get(key)]
    if missing and len(has) < len(DETAILED):
        raise SpecError.one(
            str(path), f"has no {', '.join(missing)}", "vllm bench serve --save-result"
        )
    about: dict[str, Any] = {
        "rate_per_s": rate(one.get("request_rate")),
        "burstiness": float(one.get("burstiness") or 1.0),
        "concurrency": one.get("max_concurrency") or None,
        "model": str(one.get("model_id") or ""),
        "engine": _engine(one),
        "engine_version": str(one.get("vllm_version") or one.get("version") or ""),
        "date": _date(str(one.get("date") or "")),
    }
    figures = in_seconds(one) | throughput(one)
    if len(has) == len(DETAILED):
        e2el = one.get("latencies") or [
            t + sum(gaps or ()) for t, gaps in zip(one["ttfts"], one["itls"], strict=False)
        ]
        return of_requests(
            path, TOOL, isl=one["input_lens"], osl=one["output_lens"], ttft_s=one["ttfts"],
            e2el_s=e2el, start_s=one.get("start_times"), figures=throughput(one), **about,
        )  # fmt: skip
    n = int(one["completed"])
    if n < 1:
        raise SpecError.one(str(path), "no request succeeded", "a run that did")
    return Bench(
        file=path, tool=TOOL, n=n, mean_isl=one["total_input_tokens"] / n,
        mean_osl=one["total_output_tokens"] / n, figures=figures,
        notes=("the file has no single requests: use --save-detailed for a sharper fit",), **about,
    )  # fmt: skip


def rate(value: Any) -> float | None:
    """Requests a second; None for "inf", which means all that the loop allows."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if 0 < number < float("inf") else None


def in_seconds(one: dict[str, Any], e2el: str = "e2el") -> dict[str, float]:
    """`mean_ttft_ms` and its like as `ttft_s_mean`, for those that are there."""
    out = {}
    for name, theirs in (("ttft_s", "ttft"), ("tpot_s", "tpot"), ("e2el_s", e2el)):
        for mine, prefix in (("mean", "mean"), ("p50", "median"), ("p90", "p90"), ("p95", "p95"),
                             ("p99", "p99")):  # fmt: skip
            value = one.get(f"{prefix}_{theirs}_ms")
            if isinstance(value, int | float) and value > 0:
                out[f"{name}_{mine}"] = 1e-3 * float(value)
    return out


def throughput(one: dict[str, Any]) -> dict[str, float]:
    pairs = (("requests_per_s", "request_throughput"), ("output_tokens_per_s", "output_throughput"))
    return {mine: float(one[theirs]) for mine, theirs in pairs if one.get(theirs)}


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
