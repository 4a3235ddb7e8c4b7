"""`Figure`: one number of an answer, with its unit, its sampling interval and where it is from."""

from __future__ import annotations

import math
from dataclasses import dataclass

from forerun import units


@dataclass(frozen=True)
class Figure:
    """A value; None where the log does not know it (never NaN, never a guess).

    `low` and `high` are the 95 % interval of *sampling*: how far the figure would move in another
    run with traffic of the same kind.  How far the *cost model* may be off is a different question
    with its own band (`Metrics.model_low`, `Metrics.model_high`); the two are never mixed.
    """

    value: float | None
    unit: str
    source: str
    low: float | None = None
    high: float | None = None


def ratio(a: float | None, b: float | None, scale: float = 1.0) -> float | None:
    """scale * a / b, or None when either is unknown or b is zero."""
    if a is None or b is None or b == 0:
        return None
    return scale * a / b


#: unit of a figure -> dimension that `units.show` knows
_DIMENSION = {
    "s": "time", "J": "energy", "W": "power", "USD": "usd", "gCO2e": "carbon",
    "bytes": "bytes", "bytes/s": "bytes_per_s", "USD/h": "usd_per_hour",
}  # fmt: skip


def text(value: float | None, unit: str) -> str:
    """A value for a human, always with its unit: "23.4 ms", "93.2 %", "1,240 token/s"."""
    if value is None:
        return "unknown"
    if unit == "share":
        if 0.99995 <= value < 1:
            return "> 99.99 %"  # not all, and must not read as if
        return f"{100 * value:.4g} %" if value > 0.99 else f"{100 * value:.3g} %"
    if unit == "J/token":
        return f"{units.show(value, 'energy')}/token"
    if unit in _DIMENSION:
        return units.show(value, _DIMENSION[unit])
    number = f"{value:,}" if isinstance(value, int) else _short(value)
    return number if unit in ("count", "factor") else f"{number} {unit}"


def _short(x: float) -> str:
    """Three significant digits, or all before the point."""
    if x == 0 or not math.isfinite(x):
        return f"{x:g}"
    digits = max(0, 2 - math.floor(math.log10(abs(x))))
    number = f"{x:,.{min(digits, 12)}f}"
    return number.rstrip("0").rstrip(".") if "." in number else number


def plural(n: int, noun: str) -> str:
    """ "1 request", "1,200 requests"."""
    return f"{n:,} {noun}" + ("" if n == 1 else "s")
