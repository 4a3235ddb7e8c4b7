"""What the charts of a report show: each as a Vega-Lite description and as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from forerun.metrics import latency
from forerun.metrics.figure import text
from forerun.metrics.goodput import bounds
from forerun.metrics.utilisation import Timeline, timeline
from forerun.metrics.window import View, view
from forerun.report.result import Result

POINTS = 200  # of a curve
BINS = 120  # of a timeline
SMALL = 0.01  # operators below this share are added up as "other"
WIDTH, HEIGHT = 420, 240
#: stand-ins that `html` replaces by CSS variables, so that one picture serves light and dark
INK, FAINT, GRID, WARN = "#010101", "#020202", "#030303", "#040404"
SERIES = ("#050505", "#060606")
VARIABLES = {
    INK: "ink", FAINT: "faint", GRID: "line", WARN: "warn",
    SERIES[0]: "series-1", SERIES[1]: "series-2",
}  # fmt: skip


@dataclass(frozen=True)
class Chart:
    """A picture and what it says, for those who cannot see it or cannot draw it."""

    title: str
    note: str
    spec: Mapping[str, Any]
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def charts(result: Result) -> list[Chart]:
    """All charts that the result's log can give; none without a log."""
    if result.log is None:
        return []
    m, log = result.metrics, result.log
    whole = m.start_s == log.start_ps * latency.PS and m.end_s == log.end_ps * latency.PS
    part = view(log, None if whole else (m.start_s, m.end_s))
    out = [*_distributions(part, result)]
    if part.duration_s > 0:
        out += _timelines(timeline(part, BINS))
    return [*out, *_utilisation(result), *_operators(result)]


def _distributions(part: View, result: Result) -> list[Chart]:
    done = part.arrived[latency.finished(part.arrived)]
    limits = bounds(result.slo)
    out = []
    for name, label in (
        ("ttft_s", "Time to first token"),
        ("tpot_s", "Time per output token"),
        ("e2el_s", "End-to-end latency"),
    ):
        values = getattr(latency, name)(done)
        values = np.sort(values[~np.isnan(values)])
        if not len(values):
            continue
        limit = limits.get(name)
        out.append(_distribution(label, values, limit))
    return out


def _distribution(label: str, values: np.ndarray, limit: float | None) -> Chart:
    share = np.unique(np.concatenate([np.linspace(0, 0.98, POINTS // 2),
                                      np.linspace(0.98, 1, POINTS // 2)]))  # fmt: skip
    points = np.quantile(values, share)
    scale, unit = (1e3, "ms") if max(points[-1], limit or 0) < 1 else (1.0, "s")
    spread = points[-1] > 30 * max(np.quantile(values, 0.5), 1e-9) and values[0] > 0
    x = {
        "field": "x", "type": "quantitative", "title": f"{label.lower()} ({unit})",
        "scale": {"type": "log" if spread else "linear", "zero": not spread, "nice": False},
        "axis": {"tickCount": 5, "labelOverlap": True},
    }  # fmt: skip
    curve = {
        "data": {"values": _records(x=points * scale, y=share)},
        "mark": {"type": "line", "strokeWidth": 2, "color": SERIES[0]},
        "encoding": {
            "x": x,
            "y": {"field": "y", "type": "quantitative", "title": "share of requests",
                  "axis": {"format": "%"}, "scale": {"domain": [0, 1]}},
        },
    }  # fmt: skip
    layers: list[dict[str, Any]] = [curve]
    note = f"median {text(float(np.quantile(values, 0.5)), 's')}"
    note += f", p99 {text(float(np.quantile(values, 0.99)), 's')}"
    if limit is not None:
        inside = float(np.mean(values <= limit))
        note += f"; {text(inside, 'share')} within the SLO of {text(limit, 's')} (dashed)"
        layers.append(
            {
                "data": {"values": [{"x": limit * scale}]},
                "mark": {"type": "rule", "color": WARN, "strokeDash": [5, 3], "strokeWidth": 1.5},
                "encoding": {"x": {"field": "x", "type": "quantitative"}},
            }
        )
    at = (0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 1.0)
    rows = [(f"p{100 * q:g}" if q < 1 else "max", text(float(np.quantile(values, q)), "s"))
            for q in at]  # fmt: skip
    return Chart(label, note, {"layer": layers}, ("percentile", label.lower()), tuple(rows))


def _timelines(line: Timeline) -> list[Chart]:
    out = [
        _timeline(
            "Requests over time", "requests", line,
            {"running": line.running, "waiting": line.waiting},
            "running: scheduled and not done; waiting: arrived and not yet scheduled",
        ),
        _timeline(
            "Load over time", "requests per second", line,
            {"arriving": line.arrived_per_s, "finishing": line.finished_per_s},
            "where arriving stays above finishing, the queue grows",
        ),
    ]  # fmt: skip
    if line.output_tokens_per_s is not None:
        series = {"output tokens": line.output_tokens_per_s}
        note = "mean of each interval, all replicas"
        out.append(_timeline("Throughput over time", "tokens per second", line, series, note))
    if line.kv is not None and line.busy is not None:
        series = {"KV cache in use": line.kv, "replicas busy": line.busy}
        note = "share of all KV blocks, and of all replicas' time"
        out.append(_timeline("KV cache and busy time", "share", line, series, note, percent=True))
    return out


def _timeline(
    title: str,
    unit: str,
    line: Timeline,
    series: Mapping[str, np.ndarray],
    note: str,
    *,
    percent: bool = False,
) -> Chart:
    middle = (line.t_s[1:] + line.t_s[:-1]) / 2
    scale, name = next(
        (s, n) for s, n, most in ((1, "s", 300), (60, "min", 18_000), (3600, "h", float("inf")))
        if line.t_s[-1] - line.t_s[0] <= most
    )  # fmt: skip
    values = [
        record
        for label, y in series.items()
        for record in _records(x=middle / scale, y=y, series=[label] * len(y))
    ]
    labels = list(series)
    colour: dict[str, Any] = {
        "field": "series", "type": "nominal", "title": None,
        "scale": {"domain": labels, "range": list(SERIES[: len(labels)])},
        "legend": None if len(labels) == 1 else {"orient": "top", "offset": 2},
    }  # fmt: skip
    y_axis = {"format": "%", "tickCount": 5} if percent else {"format": ",~r", "tickCount": 5}
    spec = {
        "data": {"values": values},
        "mark": {"type": "line", "strokeWidth": 1.8, "interpolate": "monotone"},
        "encoding": {
            "x": {"field": "x", "type": "quantitative", "title": f"time ({name})",
                  "scale": {"nice": False, "zero": False}, "axis": {"tickCount": 6}},
            "y": {"field": "y", "type": "quantitative", "title": unit,
                  "scale": {"zero": True}, "axis": y_axis},
            "color": colour,
        },
    }  # fmt: skip
    step = max(1, len(middle) // 12)
    # bins come from differences of sums, whose last digits are noise
    show = (lambda v: text(round(float(v), 6), "share")) if percent else _count
    rows = tuple(
        (text(float(middle[i]), "s"), *(show(y[i]) for y in series.values()))
        for i in range(0, len(middle), step)
    )
    return Chart(title, note, spec, ("time", *(f"{k} ({unit})" for k in labels)), rows)


def _count(value: float) -> str:
    return text(round(float(value), 6), "factor")


def _utilisation(result: Result) -> list[Chart]:
    m = result.metrics
    found = {
        "busy": m.busy, "compute (HFU)": m.hfu, "memory (MBU)": m.mbu,
        "KV cache, mean": m.kv_mean, "KV cache, peak": m.kv_peak,
    }  # fmt: skip
    known = {k: f.value for k, f in found.items() if f.value is not None}
    if not known:
        return []
    note = "of elapsed time, mean over replicas; the KV peak is of the fullest one"
    return [_bars("Utilisation", "share of what is there", known, note, 1.0)]


def _operators(result: Result) -> list[Chart]:
    """Shares of a typical step's time, each replica weighing as long as it was busy."""
    assert result.log is not None
    log = result.log
    busy = log.replicas["busy_ps"].astype(float)
    if busy.sum() <= 0:
        return []
    shares: dict[str, float] = {}
    for pool, weight in zip(log.pool_of_replica, busy / busy.sum(), strict=True):
        for name, share in log.tables[pool].by_operator.items():
            shares[name] = shares.get(name, 0.0) + float(weight) * share
    if not shares:
        return []
    ordered = {k: v for k, v in sorted(shares.items(), key=lambda item: -item[1]) if v >= SMALL}
    other = sum(shares.values()) - sum(ordered.values())
    if other > 1e-9:
        ordered["other"] = other
    note = "shares of a typical step's time, from the cost table"
    return [_bars("Step time by operator", "share of step time", ordered, note)]


def _bars(
    title: str, axis: str, shares: Mapping[str, float], note: str, top: float | None = None
) -> Chart:
    labels = [{"name": k, "x": v, "label": text(v, "share")} for k, v in shares.items()]
    most = max(*shares.values(), top or 0.0, 1e-9)
    names = list(shares)
    y = {"field": "name", "type": "nominal", "title": None, "sort": names,
         "axis": {"labelLimit": 130, "ticks": False, "domain": False}}  # fmt: skip
    x = {"field": "x", "type": "quantitative", "title": axis,
         "axis": {"format": "%", "tickCount": 5},
         "scale": {"domain": [0, most * 1.18]}}  # fmt: skip
    spec = {
        "data": {"values": labels},
        "layer": [
            {"mark": {"type": "bar", "color": SERIES[0], "height": {"band": 0.65}},
             "encoding": {"y": y, "x": x}},
            {"mark": {"type": "text", "align": "left", "dx": 4, "color": INK, "fontSize": 13},
             "encoding": {"y": y, "x": x, "text": {"field": "label"}}},
        ],
    }  # fmt: skip
    rows = tuple((k, text(v, "share")) for k, v in shares.items())
    return Chart(title, note, spec, ("", axis), rows)


def _records(**columns: Sequence[Any] | np.ndarray) -> list[dict[str, Any]]:
    """Rows of plain values with six digits, all that a pixel can show."""
    plain = [
        [float(f"{v:.6g}") for v in c.tolist()] if isinstance(c, np.ndarray) else c
        for c in columns.values()
    ]
    return [dict(zip(columns, row, strict=True)) for row in zip(*plain, strict=True)]
