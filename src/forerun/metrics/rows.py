"""Figures as rows, group by group: what tables and files of an answer are written from."""

from __future__ import annotations

from dataclasses import fields

from forerun.metrics.answer import Counts, Metrics
from forerun.metrics.workflows import Workflows

Row = tuple[str, str, float | int | None, float | None, float | None, str, str]
LATENCIES = ("ttft_s", "tpot_s", "itl_s", "e2el_s", "queue_s")
WORKFLOWS = ("deadline_met", "path_queue_s", "path_service_s", "path_delay_s", "path_requests")
GROUPS: dict[str, tuple[str, ...]] = {
    "throughput": (
        "requests_per_s", "output_tokens_per_s", "total_tokens_per_s",
        "output_tokens_per_s_per_device",
    ),
    "goodput": ("attainment", "goodput_per_s"),
    "utilisation": (
        "busy", "hfu", "mfu", "mbu", "link_bytes_per_s", "kv_peak", "kv_mean", "batch_mean",
    ),
    "kv": (
        "kv_hit", "kv_moved_bytes_per_s", "kv_wait_s", "kv_wait_p99_s", "kv_hit_below",
        "kv_read_bytes_per_s", "kv_written_bytes_per_s", "kv_fetch_s",
    ),
    "encoders": (
        "items_encoded", "items_per_s", "encoding", "embeddings_moved_bytes_per_s",
        "embedding_hit", "encoder_saved_s",
    ),
    "images": (
        "images_per_s", "frames_per_s", "denoising_step_s", "showing", "controlnets",
        "controlnets_added", "controlnet_hit", "controlnet_loads", "controlnet_wait_s",
        "energy_j_per_image", "usd_per_image", "energy_j_per_frame",
        "usd_per_frame",
    ),
    "streams": (
        "frame_p50_s", "frame_p99_s", "frames_in_time", "good_frames_per_s", "uneven_p99_s",
        "stream_fps",
    ),
    "responses": ("response_hit", "response_wrong", "response_missed", "response_explored"),
    "models": ("turns", "weights_loaded_bytes", "loading", "draining"),
    "adapters": (
        "adapter_hit", "adapter_loads", "adapter_bytes", "adapter_wait_s", "adapters_mean",
    ),
    "tuning": ("tuned_tokens", "tuned_tokens_per_s", "tuning_alone", "tuning_beside"),
    "lanes": (
        "prompts_busy", "answers_busy", "lanes_overlap", "prompts_slowdown", "answers_slowdown",
        "share_switches",
    ),
    "tenants": ("jain", "service_gap_tokens_per_s"),
    "energy": ("energy_j", "power_w", "energy_j_per_output_token"),
    "power": (
        "row_mean_w", "row_p99_w", "row_peak_w", "over_budget_s", "over_budget_longest_s",
        "over_budget_w", "slowed_s",
    ),
    "money": ("usd", "usd_per_hour", "usd_per_million_output_tokens", "usd_per_million_tokens"),
    "carbon": ("gco2e", "gco2e_per_million_output_tokens"),
    "fleet": (
        "replicas_mean", "replicas_peak", "device_hours", "cold_share", "availability", "lost_s",
    ),
}  # fmt: skip


def rows(metrics: Metrics) -> list[Row]:
    """(group, name, value, low, high, unit, source) for every figure; low, high are sampling."""
    out: list[Row] = []
    for item in fields(Counts):
        unit = "token" if item.name.endswith("tokens") else "count"
        value = getattr(metrics.counts, item.name)
        out.append(("counts", item.name, value, None, None, unit, "requests"))
    for name in LATENCIES:
        found = getattr(metrics, name)
        if found is None:
            out.append(("latency", name, None, None, None, "s", "unknown: no steps kept"))
            continue
        for point in ("mean", "min", "p50", "p90", "p95", "p99", "max"):
            low, high = found.intervals.get(point, (None, None))
            value = getattr(found, point)
            out.append(("latency", f"{name}.{point}", value, low, high, found.unit, found.source))
    for group, names in GROUPS.items():
        for name in names:
            f = getattr(metrics, name)
            out.append((group, name, f.value, f.low, f.high, f.unit, f.source))
    if metrics.workflows is not None:
        out += workflow_rows(metrics.workflows)
    table = "cost tables, 80 % band on step time"
    low, high = metrics.model_low, metrics.model_high
    out.append(("model", "step_time_factor", 1.0, low, high, "factor", table))
    return out


def workflow_rows(found: Workflows) -> list[Row]:
    """The same rows for whole workflows."""
    out: list[Row] = [
        ("workflows", name, getattr(found, name), None, None, "count", "requests")
        for name in ("n", "finished")
    ]
    for point in ("mean", "min", "p50", "p90", "p95", "p99", "max"):
        low, high = found.e2el_s.intervals.get(point, (None, None))
        value = getattr(found.e2el_s, point)
        out.append(("workflows", f"e2el_s.{point}", value, low, high, "s", found.e2el_s.source))
    for name in WORKFLOWS:
        f = getattr(found, name)
        out.append(("workflows", name, f.value, f.low, f.high, f.unit, f.source))
    return out
