"""KV that need not be computed: kept from earlier prompts, or moved from another replica."""

from __future__ import annotations

from typing import Any

from forerun.metrics.figure import Figure, ratio
from forerun.metrics.latency import PS
from forerun.metrics.stats import quantiles
from forerun.metrics.window import View


def figures(part: View) -> dict[str, Any]:
    """kv_hit, kv_moved_bytes_per_s, kv_wait_s, kv_wait_p99_s; None where nothing could be."""
    log, rows = part.log, part.arrived[part.arrived["scheduled_ps"] >= 0]
    hit = rate = None
    if log.meta.get("hash_tokens"):
        hit = ratio(float(rows["cached"].sum()), float(rows["isl"].sum()))
    moved = rows[rows["away_ps"] > 0]
    if part.whole and log.replicas["n_moved"].any():
        rate = ratio(float(log.replicas["moved_bytes"].sum()), part.duration_s)
    waits = quantiles(moved["away_ps"] * PS)
    mean, p99 = (waits.mean, waits.p99) if len(moved) else (None, None)
    return {
        "kv_hit": Figure(hit, "share", "requests"),
        "kv_moved_bytes_per_s": Figure(rate, "bytes/s", "transfers"),
        "kv_wait_s": Figure(mean, "s", "requests that moved"),
        "kv_wait_p99_s": Figure(p99, "s", "requests that moved"),
    }
