"""The JSON lines of `python -m sglang.bench_serving --output-file`, one run a line.

Read: backend, request_rate, max_concurrency, duration, completed, total_input_tokens,
total_output_tokens, the `mean_`, `median_` and `p99_` figures in ms (end to end under the name
e2e_latency), server_info; with --output-details input_lens, output_lens, ttfts, itls, errors.

Source: python/sglang/bench_serving.py and docs/developer_guide/bench_serving.md, v0.4 to v0.5.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from forerun.measure.bench._bench import Bench
from forerun.measure.bench._serve import rate, run_of

TOOL = "sglang.bench_serving"


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
    server = one.get("server_info")
    server = server if isinstance(server, dict) else {}
    about = {
        "rate_per_s": rate(one.get("request_rate")),
        "concurrency": one.get("max_concurrency") or None,
        "model": str(server.get("model_path") or one.get("model") or ""),
        "engine": "sglang" if "sglang" in str(one.get("backend") or "sglang") else "",
        "engine_version": str(server.get("version") or ""),
    }
    return run_of(
        one, path, where=f"{path}:{line}", tool=TOOL, command="sglang.bench_serving's own file",
        detailed="--output-details", e2el="e2e_latency", about=about,
    )  # fmt: skip
