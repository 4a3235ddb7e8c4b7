"""KV that need not be computed: kept from earlier prompts, or moved from another replica."""

from __future__ import annotations

from typing import Any

from forerun.metrics.encoders import encodes
from forerun.metrics.figure import Figure, ratio
from forerun.metrics.latency import PS
from forerun.metrics.stats import quantiles
from forerun.metrics.window import View


def figures(part: View) -> dict[str, Any]:
    """All figures of the group kv; None where there could be nothing."""
    log, rows = part.log, part.arrived[part.arrived["scheduled_ps"] >= 0]
    hit = rate = None
    if log.meta.get("hash_tokens"):
        hit = ratio(float(rows["cached"].sum()), float(rows["isl"].sum()))
    moved = rows[rows["away_ps"] > 0]
    if part.whole and log.replicas["n_moved"][~encodes(log)].any():
        rate = ratio(float(log.replicas["moved_bytes"][~encodes(log)].sum()), part.duration_s)
    waits = quantiles(moved["away_ps"] * PS)
    mean, p99 = (waits.mean, waits.p99) if len(moved) else (None, None)
    tokens, wait = float(rows["isl"].sum()), ratio(log.fetch_s, float(log.n_fetched))
    below: dict[str, float | None] = dict.fromkeys(("hit", "read", "written"))
    if part.whole and log.tiers:
        below["hit"] = ratio(float(sum(tier.hit_tokens for tier in log.tiers)), tokens)
        for way in ("read", "written"):
            total = sum(getattr(tier, f"{way}_bytes") for tier in log.tiers)
            below[way] = ratio(float(total), part.duration_s)
    return {
        "kv_hit": Figure(hit, "share", "requests"),
        "kv_moved_bytes_per_s": Figure(rate, "bytes/s", "transfers"),
        "kv_hit_below": Figure(below["hit"], "share", "tiers"),
        "kv_read_bytes_per_s": Figure(below["read"], "bytes/s", "tiers"),
        "kv_written_bytes_per_s": Figure(below["written"], "bytes/s", "tiers"),
        "kv_fetch_s": Figure(wait if part.whole else None, "s", "requests that fetched"),
        "kv_wait_s": Figure(mean, "s", "requests that moved"),
        "kv_wait_p99_s": Figure(p99, "s", "requests that moved"),
    }
