"""`Slo` and `Budget`: what counts as good, and what may be spent."""

from __future__ import annotations

from typing import Any

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from forerun.spec.base import Spec


class SloClass(Spec):
    """What the tenants of a class are promised, instead of the case's own bounds.

    Requests of a smaller `priority` are more important, for policies that look at it.  Answers are
    due `e2el_s` after sending and first tokens `ttft_s`, for orders that look at that.
    """

    ttft_s: float | None = Field(default=None, gt=0)
    tpot_s: float | None = Field(default=None, gt=0)
    itl_s: float | None = Field(default=None, gt=0)
    e2el_s: float | None = Field(default=None, gt=0)
    attainment: float | None = Field(default=None, gt=0, le=1)  # the case's when absent
    priority: int | None = Field(default=None, ge=-1000, le=1000)


class Slo(Spec):
    """Bounds on one request's latencies; a request that meets all of them is good.

    The service meets the SLO when at least `attainment` of all requests are good.
    A request with one output token has no tpot and meets any bound on it.  Of video streams, at
    least `attainment` of the frames are to be made `frame_s` after their place at most.
    """

    ttft_s: float | None = Field(default=None, gt=0)
    tpot_s: float | None = Field(default=None, gt=0)
    itl_s: float | None = Field(default=None, gt=0)  # the longest gap of a request
    e2el_s: float | None = Field(default=None, gt=0)
    frame_s: float | None = Field(default=None, gt=0)  # each frame of a stream, from its place
    attainment: float = Field(default=0.99, gt=0, le=1)
    classes: dict[str, SloClass] = {}  # of tenants that are promised something else

    @model_serializer(mode="wrap")
    def _without_classes(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """What has no classes reads (and hashes) as it always did."""
        data: dict[str, Any] = plain(self)
        if not self.classes:
            data.pop("classes", None)
        if self.frame_s is None:
            data.pop("frame_s", None)
        return data


class Budget(Spec):
    """What may be spent."""

    usd_per_hour: float | None = Field(default=None, gt=0)
    power_w: float | None = Field(default=None, gt=0)
    gco2e_per_hour: float | None = Field(default=None, gt=0)
