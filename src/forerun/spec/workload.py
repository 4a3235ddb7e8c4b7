"""`Traffic`: requests as they come: a trace, or arrivals and lengths drawn from a description."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from forerun.spec.base import Spec


class Lengths(Spec):
    """A distribution of token counts."""

    kind: Literal["fixed", "uniform", "lognormal", "geometric"] = "fixed"
    mean: float = Field(ge=1)
    cv: float = Field(default=0.0, ge=0)  # coefficient of variation, lognormal only
    low: int = Field(default=1, ge=1)
    high: int = Field(default=1_048_576, ge=1)


class Traffic(Spec):
    """Who asks for what, when.

    `trace` is the name of a bundled workload or the path of a trace file; without it lengths come
    from `isl` and `osl`.  Open loop: arrivals follow `arrivals` at `rate_per_s`.  Closed loop:
    `concurrency` requests are always in flight, each client thinks for `think_s` between them.
    """

    trace: str | None = None
    format: str | None = None  # of the trace file; detected when absent
    skip_bad: bool = False  # count malformed rows instead of refusing the file
    arrivals: (
        Literal["trace", "poisson", "gamma", "on_off", "diurnal", "uniform", "at_once"] | None
    ) = None
    rate_per_s: float | None = Field(default=None, gt=0)
    cv: float = Field(default=1.0, gt=0)  # of inter-arrival times, gamma only
    on_s: float = Field(default=10.0, gt=0)  # mean length of a burst, on_off only
    off_s: float = Field(default=30.0, gt=0)
    period_s: float = Field(default=86_400.0, gt=0)  # diurnal only
    swing: float = Field(default=0.5, ge=0, le=1)  # diurnal: rate varies by +-swing around its mean
    concurrency: int | None = Field(default=None, ge=1)
    think_s: float = Field(default=0.0, ge=0)
    n_requests: int | None = Field(default=None, ge=1)
    duration_s: float | None = Field(default=None, gt=0)
    isl: Lengths | None = None
    osl: Lengths | None = None

    @model_validator(mode="before")
    @classmethod
    def _plain_lengths(cls, data):
        if isinstance(data, dict):
            for key in ("isl", "osl"):
                if isinstance(data.get(key), (int, float)):
                    data = {**data, key: {"kind": "fixed", "mean": data[key]}}
        return data
