"""Dollars: a deployment is paid by the hour, whatever it does in it."""

from __future__ import annotations

from forerun.metrics.figure import ratio


def cost_usd(price_usd_per_hour: float | None, duration_s: float) -> float | None:
    """Price of the whole deployment for the run's length."""
    return None if price_usd_per_hour is None else price_usd_per_hour * duration_s / 3600


def usd_per_million(
    price_usd_per_hour: float | None, n: float | None, duration_s: float
) -> float | None:
    """Dollars for a million of what the deployment made n of (tokens); None when it made none."""
    return ratio(cost_usd(price_usd_per_hour, duration_s), n, 1e6)
