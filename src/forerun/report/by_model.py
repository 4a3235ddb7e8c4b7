"""A line a model, where a case has several."""

from __future__ import annotations

from collections.abc import Sequence

from forerun.metrics.answer import Metrics
from forerun.metrics.figure import text

HEAD = (
    *("model", "requests", "TTFT p50", "TTFT p99", "TPOT p50", "TPOT p99"),
    *("output tokens", "good", "goodput"),
)


def lines(metrics: Metrics) -> list[str]:
    """Aligned text, its head first; nothing where there is one model."""
    if not metrics.by_model:
        return []
    table: list[tuple[str, ...]] = [HEAD]
    for row in metrics.by_model:
        seconds = (row.ttft_p50_s, row.ttft_p99_s, row.tpot_p50_s, row.tpot_p99_s)
        table.append(
            (
                row.model,
                f"{row.n:,}",
                *(text(value, "s") for value in seconds),
                text(row.output_tokens_per_s, "token/s"),
                text(row.attainment, "share"),
                text(row.goodput_per_s, "req/s"),
            )
        )
    return aligned(table)


def aligned(table: Sequence[tuple[str, ...]]) -> list[str]:
    """Rows as lines of text, the first column to the left."""
    widths = [max(len(row[c]) for row in table) for c in range(len(table[0]))]
    return [
        "  ".join(
            cell.ljust(width) if c == 0 else cell.rjust(width)
            for c, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in table
    ]
