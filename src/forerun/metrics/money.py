"""Dollars: a replica is paid by the second from its allocation to its release, whatever it does."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from forerun.metrics import rental, work
from forerun.metrics.figure import ratio
from forerun.metrics.window import View

#: of the whole deployment, or of each pool (all its replicas), when everything is rented
Price = float | Sequence[float] | None


def whole_usd_per_hour(price: Price) -> float | None:
    """The price of everything deployed."""
    return price if price is None or isinstance(price, (int, float)) else float(sum(price))


def usd_per_hour(part: View, price: Price) -> float | None:
    """What was paid, an hour, on average: the price of each replica times its share of the time.

    Failed replicas are paid for, those that were taken away are not.
    """
    whole = whole_usd_per_hour(price)
    if whole is None or part.log.spans is None:
        return whole
    return float((of_replica(part, price) * rental.share(part, rental.PAID)).sum())


def of_replica(part: View, price: Price) -> np.ndarray:
    """Dollars an hour of each replica: float64 [replicas].  One price is shared out by devices."""
    pools, devices = part.log.pool_of_replica, work.of_replica(part.log, "n_devices")
    if price is None or isinstance(price, (int, float)):
        return (price or 0.0) * devices / max(devices.sum(), 1e-9)
    each = np.asarray(price, dtype=float)
    return each[pools] / np.bincount(pools)[pools]


def cost_usd(price_usd_per_hour: float | None, duration_s: float) -> float | None:
    """What the run cost at so much an hour."""
    return None if price_usd_per_hour is None else price_usd_per_hour * duration_s / 3600


def usd_per_million(
    price_usd_per_hour: float | None, n: float | None, duration_s: float
) -> float | None:
    """Dollars for a million of what the deployment made n of (tokens); None when it made none."""
    return ratio(cost_usd(price_usd_per_hour, duration_s), n, 1e6)
