"""The JSON lines of `python -m sglang.bench_serving --output-file`, one run a line.

Read: backend, request_rate, max_concurrency, duration, completed, total_input_tokens,
total_output_tokens, the `mean_`, `median_` and `p99_` figures in ms (end to end under the name
e2e_latency), server_info; with --output-details input_lens, output_lens, ttfts, itls, errors.

Source: python/sglang/bench_serving.py and docs/developer_guide/bench_serving.md, v0.4 to v0.5.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from forerun.errors import SpecError
from forerun.measure.bench._bench import Bench, of_requests
from forerun.measure.bench.vllm_serve import in_seconds, rate, throughput

TOOL = "sglang.bench_serving"
NEEDS = ("completed", "total_input_tokens", "total_output_tokens")
DETAILED = ("input_lens", "output_lens", "ttfts", "itls")


def detect(found: list[Any]) -> bool:
    first = found[0] if found else None
    return (
        isinstance(first, dict)
        and "completed" in first
        and ("total_output_tokens_retokenized" in first or "mean_e2e_latency_ms" in first)
    )


def read(found: list[Any], path: Path) -> tuple[Bench, ...]:
    """One run a line.  Raises SpecError naming the keys that are missing."""
    return tuple(_run(one, path, i) for i, one in enumerate(found, 1) if isinstance(one, dict))


def _run(one: dict[str, Any], path: Path, line: int) -> Bench:
    missing = [key for key in NEEDS if key not in one]
    if missing:
        where = f"{path}:{line}"
        raise SpecError.one(
            where, f"has no {', '.join(missing)}", "sglang.bench_serving's own file"
        )
    server = one.get("server_info") or {}
    server = server if isinstance(server, dict) else {}
    about: dict[str, Any] = {
        "rate_per_s": rate(one.get("request_rate")),
        "concurrency": one.get("max_concurrency") or None,
        "model": str(server.get("model_path") or one.get("model") or ""),
        "engine": "sglang" if "sglang" in str(one.get("backend") or "sglang") else "",
        "engine_version": str(server.get("version") or ""),
    }
    if all(one.get(key) for key in DETAILED):
        e2el = [t + sum(gaps or ()) for t, gaps in zip(one["ttfts"], one["itls"], strict=False)]
        return of_requests(
            path, TOOL, isl=one["input_lens"], osl=one["output_lens"], ttft_s=one["ttfts"],
            e2el_s=e2el, start_s=one.get("start_times"), figures=throughput(one), **about,
        )  # fmt: skip
    n = int(one["completed"])
    if n < 1:
        raise SpecError.one(f"{path}:{line}", "no request succeeded", "a run that did")
    return Bench(
        file=path, tool=TOOL, n=n, mean_isl=one["total_input_tokens"] / n,
        mean_osl=one["total_output_tokens"] / n,
        figures=in_seconds(one, "e2e_latency") | throughput(one),
        notes=("the file has no single requests: use --output-details for a sharper fit",), **about,
    )  # fmt: skip
