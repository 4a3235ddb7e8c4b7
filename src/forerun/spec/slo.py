"""`Slo` and `Budget`: what counts as good, and what may be spent."""

from __future__ import annotations

from pydantic import Field

from forerun.spec.base import Spec


class Slo(Spec):
    """Bounds on one request's latencies; a request that meets all of them is good.

    The service meets the SLO when at least `attainment` of all requests are good.
    A request with one output token has no tpot and meets any bound on it.
    """

    ttft_s: float | None = Field(default=None, gt=0)
    tpot_s: float | None = Field(default=None, gt=0)
    itl_s: float | None = Field(default=None, gt=0)  # the longest gap of a request
    e2el_s: float | None = Field(default=None, gt=0)
    attainment: float = Field(default=0.99, gt=0, le=1)


class Budget(Spec):
    """What may be spent."""

    usd_per_hour: float | None = Field(default=None, gt=0)
    power_w: float | None = Field(default=None, gt=0)
    gco2e_per_hour: float | None = Field(default=None, gt=0)
