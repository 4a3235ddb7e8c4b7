"""A line a tenant, and a line an SLO class, where a case names them."""

from __future__ import annotations

from forerun.metrics.answer import Metrics
from forerun.metrics.figure import text
from forerun.metrics.tenants import OfTenant
from forerun.report.by_model import aligned

MET = ("TTFT p50", "TTFT p99", "TPOT p99", "latency p99")
SERVED = ("input tokens", "output tokens", "good", "goodput")


def tenants(metrics: Metrics) -> list[str]:
    """Aligned text, its head first; nothing where the case names no tenants."""
    if not metrics.by_tenant:
        return []
    classes = any(row.slo_class for row in metrics.by_tenant)
    head = ("tenant", *(("class",) if classes else ()), "weight", "requests", *MET, *SERVED)
    rows = [
        (
            row.name,
            *((row.slo_class or "-",) if classes else ()),
            f"{row.weight:g}",
            *_figures(row),
            text(row.goodput_per_s, "req/s"),
        )
        for row in metrics.by_tenant
    ]
    return aligned([head, *rows])


def classes(metrics: Metrics) -> list[str]:
    """The same by class, with the share of good requests that each asks for."""
    if not metrics.by_class:
        return []
    head = ("class", "requests", *MET, *SERVED[:3], "asked for", "goodput")
    rows = [
        (
            row.name,
            *_figures(row),
            text(row.asked, "share"),
            text(row.goodput_per_s, "req/s"),
        )
        for row in metrics.by_class
    ]
    return aligned([head, *rows])


def _figures(row: OfTenant) -> tuple[str, ...]:
    seconds = (row.ttft_p50_s, row.ttft_p99_s, row.tpot_p99_s, row.e2el_p99_s)
    return (
        f"{row.n:,}",
        *(text(value, "s") for value in seconds),
        text(row.input_tokens_per_s, "token/s"),
        text(row.output_tokens_per_s, "token/s"),
        text(row.attainment, "share"),
    )
