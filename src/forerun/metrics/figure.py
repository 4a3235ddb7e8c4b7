"""`Figure`: one number of an answer, with its unit, its sampling interval and where it is from."""

from __future__ import annotations

from dataclasses import dataclass


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
