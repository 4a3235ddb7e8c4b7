"""The terminal table: rich on a terminal, aligned plain text everywhere else."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from typing import TextIO

from forerun.metrics.answer import Metrics, model_band
from forerun.metrics.figure import Figure, text
from forerun.metrics.images import OF_ANSWERS, OF_TEXT
from forerun.metrics.rows import GROUPS, WORKFLOWS
from forerun.metrics.stats import Quantiles
from forerun.metrics.workflows import Workflows
from forerun.report import by_model, by_tenant
from forerun.report.result import Result

HEAD = ("figure", "value", "sampling 95 %", "model 80 %", "source")
LABELS = {
    "ttft_s": "time to first token",
    "tpot_s": "time per output token",
    "itl_s": "inter-token gap",
    "e2el_s": "end-to-end latency",
    "queue_s": "queueing",
    "requests_per_s": "requests finished",
    "output_tokens_per_s": "output tokens",
    "total_tokens_per_s": "all tokens",
    "output_tokens_per_s_per_device": "output tokens, per device",
    "attainment": "SLO attainment",
    "goodput_per_s": "goodput",
    "busy": "busy",
    "hfu": "flop done / peak (HFU)",
    "mfu": "model flop / peak (MFU)",
    "mbu": "memory traffic / peak (MBU)",
    "link_bytes_per_s": "link traffic",
    "kv_peak": "KV cache, peak",
    "kv_mean": "KV cache, mean",
    "batch_mean": "running requests",
    "kv_hit": "prompt tokens found in caches",
    "kv_moved_bytes_per_s": "KV moved between replicas",
    "kv_hit_below": "prompt tokens found in tiers",
    "kv_read_bytes_per_s": "KV read from tiers",
    "kv_written_bytes_per_s": "KV written to tiers",
    "kv_fetch_s": "wait for KV from tiers, mean",
    "kv_wait_s": "wait for room and KV, mean",
    "kv_wait_p99_s": "wait for room and KV, p99",
    "items_encoded": "images, frames or sounds encoded",
    "items_per_s": "images, frames or sounds",
    "encoding": "time in encoder steps",
    "embeddings_moved_bytes_per_s": "embeddings moved",
    "embedding_hit": "embeddings found, not computed",
    "encoder_saved_s": "time of encoders saved",
    "images_per_s": "images or videos made",
    "frames_per_s": "frames",
    "denoising_step_s": "time of a step",
    "showing": "latents to pixels",
    "controlnets": "ControlNets computed",
    "controlnets_added": "steps longer for them",
    "controlnet_hit": "ControlNets that were there",
    "controlnet_loads": "ControlNets loaded",
    "controlnet_wait_s": "wait for ControlNets, mean",
    "energy_j_per_image": "energy per image or video",
    "usd_per_image": "cost per image or video",
    "energy_j_per_frame": "energy per frame",
    "usd_per_frame": "cost per frame",
    "frame_p50_s": "a frame after its place, p50",
    "frame_p99_s": "a frame after its place, p99",
    "frames_in_time": "frames in time",
    "good_frames_per_s": "frames in time, a second",
    "uneven_p99_s": "unevenness of chunks, p99",
    "stream_fps": "frames of a stream, median",
    "response_hit": "answers given again",
    "response_wrong": "of them another question's",
    "response_missed": "right answers kept and not found",
    "response_explored": "computed to learn if an answer kept were right",
    "turns": "models taken up by replicas",
    "weights_loaded_bytes": "weights loaded",
    "loading": "loading weights",
    "draining": "draining for another model",
    "adapter_hit": "adapters that were there",
    "adapter_loads": "adapters loaded",
    "adapter_bytes": "adapters loaded, bytes",
    "adapter_wait_s": "wait for adapters, mean",
    "adapters_mean": "different adapters a step",
    "tuned_tokens": "tokens trained on",
    "tuned_tokens_per_s": "tokens trained on, a second",
    "tuning_alone": "steps of fine-tuning alone",
    "tuning_beside": "added to other steps",
    "prompts_busy": "prompts in a step",
    "answers_busy": "answers in a step",
    "lanes_overlap": "both at once",
    "prompts_slowdown": "prompts beside answers",
    "answers_slowdown": "answers beside prompts",
    "share_switches": "changes of the shares",
    "jain": "evenness of service (Jain)",
    "service_gap_tokens_per_s": "difference of service, most",
    "energy_j": "energy",
    "power_w": "power",
    "energy_j_per_output_token": "energy per output token",
    "row_mean_w": "power of the row, mean",
    "row_p99_w": "power of the row, p99",
    "row_peak_w": "power of the row, peak",
    "over_budget_s": "time above its budget",
    "over_budget_longest_s": "longest time above its budget",
    "over_budget_w": "most above its budget",
    "slowed_s": "steps longer than at full clock",
    "usd": "cost of the run",
    "usd_per_hour": "price",
    "usd_per_million_output_tokens": "per million output tokens",
    "usd_per_million_tokens": "per million tokens",
    "deadline_met": "deadline met",
    "path_queue_s": "critical path, waiting",
    "path_service_s": "critical path, computing",
    "path_delay_s": "critical path, thinking and tools",
    "path_requests": "critical path, requests",
    "gco2e": "carbon of the run",
    "gco2e_per_million_output_tokens": "carbon per million output tokens",
    "replicas_mean": "replicas rented, mean",
    "replicas_peak": "replicas rented, most",
    "device_hours": "device time rented",
    "cold_share": "of it, starting",
    "availability": "availability",
    "lost_s": "steps cut short",
}
#: a figure each for what a fleet may do or not
OPTIONAL = (
    "kv", "encoders", "images", "streams", "models", "responses", "adapters", "tuning", "lanes",
    "tenants", "power",
)  # fmt: skip
Line = tuple[str, str, str, str, str]


def groups(metrics: Metrics) -> Iterator[tuple[str, list[Line]]]:
    """(group, lines of HEAD) for a reader; a figure nobody asked for (no price) is left out."""
    lines: list[Line] = []
    hidden = OF_TEXT if metrics.images_per_s.value is not None else frozenset()
    hidden |= OF_ANSWERS if metrics.frame_p50_s.value is not None else frozenset()
    for name in ("ttft_s", "tpot_s", "itl_s", "e2el_s", "queue_s"):
        if name in hidden:
            continue
        found = getattr(metrics, name)
        if found is None or found.n == 0:
            why = "the log kept no steps" if found is None else "no request has one"
            lines.append((LABELS[name], "unknown", "", "", why))
            continue
        lines += [_point(metrics, name, found, point) for point in ("mean", "p50", "p90", "p99")]
    yield "latency", lines
    if metrics.workflows is not None:
        yield "workflows", list(_workflow_lines(metrics.workflows))
    for group, names in GROUPS.items():
        known = [name for name in names if getattr(metrics, name).value is not None]
        if group in OPTIONAL:
            names = tuple(known)
        names = tuple(name for name in names if name not in hidden)
        if not names and known:
            continue
        if known or group not in ("money", "carbon", "fleet", *OPTIONAL):
            yield group, [_figure(name, getattr(metrics, name)) for name in names]


def _workflow_lines(found: Workflows) -> Iterator[Line]:
    yield "finished", f"{found.finished:,} of {found.n:,}", "", "", "requests"
    for point in ("mean", "p50", "p90", "p99"):
        value, interval = getattr(found.e2el_s, point), found.e2el_s.intervals.get(point)
        name = f"first arrival to last answer, {point}"
        yield name, text(value, "s"), _range(interval, "s"), "", found.e2el_s.source
    for name in WORKFLOWS:
        figure = getattr(found, name)
        if figure.value is not None:
            yield _figure(name, figure)


def _point(metrics: Metrics, name: str, found: Quantiles, point: str) -> Line:
    value = getattr(found, point)
    band = model_band(metrics, value) if name != "queue_s" else None
    return (
        f"{LABELS[name]}, {point}",
        text(value, found.unit),
        _range(found.intervals.get(point), found.unit),
        _range(band, found.unit),
        found.source,
    )


def _figure(name: str, figure: Figure) -> Line:
    sampling = None
    if figure.low is not None and figure.high is not None:
        sampling = (figure.low, figure.high)
    return (
        LABELS[name],
        text(figure.value, figure.unit),
        _range(sampling, figure.unit),
        "",
        figure.source,
    )


def _range(bounds: tuple[float, float] | None, unit: str) -> str:
    return "" if bounds is None else f"{text(bounds[0], unit)} to {text(bounds[1], unit)}"


def cost_words(metrics: Metrics) -> str:
    """Where step costs are from, and how far they may be off."""
    return (
        f"step costs: {source_words(metrics.cost_sources)}; their 80 % band is "
        f"{metrics.model_low:.3g} to {metrics.model_high:.3g} times the modelled time; latencies "
        "follow to first order, queues near saturation faster"
    )


def source_words(sources: Mapping[str, float]) -> str:
    """Where step costs are from, by their share of a step's time."""
    shares = [f"{text(share, 'share')} {name}" for name, share in sources.items()]
    return ", ".join(shares) or "source unknown"


def counts_words(metrics: Metrics) -> str:
    """How the requests ended, in one line."""
    c = metrics.counts
    ends = [f"{c.finished:,} of {c.n:,} requests finished"]
    for name in ("rejected", "aborted", "cancelled", "failed", "unfinished"):
        if getattr(c, name):
            ends.append(f"{getattr(c, name):,} {name}")
    at_most = "" if metrics.replicas_mean.value is None else "up to "
    came = f"{c.input_tokens:,} tokens in, {c.output_tokens:,} out"
    if metrics.images_per_s.value is not None:
        came = f"{c.output_tokens:,} steps of denoising"
    return (
        f"{', '.join(ends)} in {text(metrics.duration_s, 's')} on {at_most}{metrics.n_devices} "
        f"devices; {came}"
    )


def verdict(result: Result) -> str:
    """The SLO in a sentence."""
    m, slo = result.metrics, result.slo
    bounds = ", ".join(
        f"{LABELS[term]} <= {text(getattr(slo, term), 's')}"
        for term in ("ttft_s", "tpot_s", "itl_s", "e2el_s")
        if getattr(slo, term) is not None
    )
    if slo.frame_s is not None and m.frames_in_time.value is not None:
        word = "met" if m.slo_met else "missed"
        return (
            f"SLO {word}: {text(m.frames_in_time.value, 'share')} of frames are in time, "
            f"{text(slo.attainment, 'share')} asked for (a frame <= {text(slo.frame_s, 's')} after "
            f"its place{', ' + bounds if bounds else ''})"
        )
    if not bounds and not slo.classes:
        return "no SLO was given"
    word = {True: "met", False: "missed", None: "not decided, no request arrived"}[m.slo_met]
    if slo.classes:
        shares = [
            f"{text(row.attainment, 'share')} of {row.name if row.slo_class else 'the others'} "
            f"({text(row.asked, 'share')} asked for)"
            for row in m.by_class
        ]
        return f"SLO {word}: good are {', '.join(shares)}"
    return (
        f"SLO {word}: {text(m.attainment.value, 'share')} of requests are good, "
        f"{text(slo.attainment, 'share')} asked for ({bounds})"
    )


def plain(result: Result) -> str:
    """Aligned text of the whole answer, no colour, no width limit."""
    found = list(groups(result.metrics))
    widths = [max(len(line[c]) for _, lines in found for line in (HEAD, *lines)) for c in range(5)]

    def row(line: Line) -> str:
        cells = [line[0].ljust(widths[0]), line[1].rjust(widths[1])]
        cells += [line[c].ljust(widths[c]) for c in (2, 3, 4)]
        return "  ".join(cells).rstrip()

    out = [result.title]
    out += [f"  {label}: {words}" for label, words in result.setup.items()]
    out += ["", counts_words(result.metrics), verdict(result), "", row(HEAD)]
    for group, lines in found:
        out += ["", group, *(row(line) for line in lines)]
    if own := by_model.lines(result.metrics):
        out += ["", "by model", *own]
    if own := by_tenant.tenants(result.metrics):
        out += ["", "by tenant", *own]
    if own := by_tenant.classes(result.metrics):
        out += ["", "by class", *own]
    out += ["", cost_words(result.metrics)]
    out += [f"note: {note}" for note in result.metrics.notes]
    out += ["", *result.reasons] if result.reasons else []
    return "\n".join(out) + "\n"


def show(result: Result, file: TextIO | None = None) -> None:
    """Print the answer: with rich on a terminal, plain otherwise (also under NO_COLOR=dumb)."""
    file = file or sys.stdout
    if not file.isatty() or os.environ.get("TERM") == "dumb":
        file.write(plain(result))
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.padding import Padding
    from rich.table import Table

    console = Console(file=file)  # reads NO_COLOR itself
    console.print(f"[bold]{escape(result.title)}[/]")
    for label, words in result.setup.items():
        console.print(f"  [dim]{escape(label)}:[/] {escape(words)}", highlight=False)
    console.print()
    console.print(counts_words(result.metrics), highlight=False)
    colour = {True: "green", False: "red", None: "default"}[result.metrics.slo_met]
    console.print(f"[{colour}]{escape(verdict(result))}[/]", highlight=False)
    wide = console.width >= 110
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in HEAD if wide else HEAD[:4]:
        table.add_column(name, justify="right" if name == "value" else "left", overflow="fold")
    for group, lines in groups(result.metrics):
        table.add_row(f"[bold]{group}[/]")
        for line in lines:
            table.add_row(*(line if wide else line[:4]))
    console.print(Padding(table, (1, 0)))
    m = result.metrics
    for words in (*by_model.lines(m), *by_tenant.tenants(m), *by_tenant.classes(m)):
        console.print(escape(words), highlight=False)
    console.print(cost_words(result.metrics), style="dim", highlight=False)
    for note in result.metrics.notes:
        console.print(f"note: {note}", style="dim", highlight=False)
    if result.reasons:
        console.print()
    for reason in result.reasons:
        console.print(escape(reason), highlight=False)
