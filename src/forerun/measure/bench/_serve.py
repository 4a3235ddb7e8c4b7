"""What the results of vLLM's and SGLang's own load generators have in common.

Both write one JSON object a run: counts and sums, figures in ms, and with the detailed option a
list of requests.  SGLang's generator began as a copy of vLLM's.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from forerun.errors import SpecError
from forerun.measure.bench._bench import Bench, of_requests

NEEDS = ("completed", "total_input_tokens", "total_output_tokens")
DETAILED = ("input_lens", "output_lens", "ttfts", "itls")


def run_of(
    one: Mapping[str, Any], path: Path, *, where: str, tool: str, command: str, detailed: str,
    e2el: str = "e2el", about: Mapping[str, Any],
) -> Bench:  # fmt: skip
    """The run of one object, from its requests where they are there, else from its sums.

    where : the object in messages; command : what writes a whole one; detailed : the option that
    adds requests; e2el : what the file calls the end-to-end latency.
    Raises SpecError naming the keys that are missing, or where no request succeeded.
    """
    if all(one.get(key) for key in DETAILED):
        latencies = one.get("latencies") or [
            t + sum(gaps or ()) for t, gaps in zip(one["ttfts"], one["itls"], strict=False)
        ]
        return of_requests(
            path, tool, isl=one["input_lens"], osl=one["output_lens"], ttft_s=one["ttfts"],
            e2el_s=latencies, start_s=one.get("start_times"), figures=throughput(one), **about,
        )  # fmt: skip
    missing = [key for key in NEEDS if one.get(key) is None]
    if missing:
        raise SpecError.one(where, f"has no {', '.join(missing)}", command)
    n = int(one["completed"])
    if n < 1:
        raise SpecError.one(where, "no request succeeded", "a run that did")
    return Bench(
        file=path, tool=tool, n=n, mean_isl=one["total_input_tokens"] / n,
        mean_osl=one["total_output_tokens"] / n, figures=in_seconds(one, e2el) | throughput(one),
        notes=(f"the file has no single requests: use {detailed} for a sharper fit",), **about,
    )  # fmt: skip


def rate(value: Any) -> float | None:
    """Requests a second; None for "inf", which means all that the loop allows."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if 0 < number < float("inf") else None


def in_seconds(one: Mapping[str, Any], e2el: str = "e2el") -> dict[str, float]:
    """`mean_ttft_ms` and its like as `ttft_s_mean`, for those that are there."""
    out = {}
    for name, theirs in (("ttft_s", "ttft"), ("tpot_s", "tpot"), ("e2el_s", e2el)):
        for mine, prefix in (("mean", "mean"), ("p50", "median"), ("p90", "p90"), ("p95", "p95"),
                             ("p99", "p99")):  # fmt: skip
            value = one.get(f"{prefix}_{theirs}_ms")
            if isinstance(value, int | float) and value > 0:
                out[f"{name}_{mine}"] = 1e-3 * float(value)
    return out


def throughput(one: Mapping[str, Any]) -> dict[str, float]:
    """Requests and output tokens a second, as far as the file has them."""
    pairs = (("requests_per_s", "request_throughput"), ("output_tokens_per_s", "output_throughput"))
    return {mine: float(one[theirs]) for mine, theirs in pairs if one.get(theirs)}
