"""`Result`: what every report is made from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from forerun.metrics.answer import Metrics
from forerun.sim.log import Log
from forerun.spec.slo import Slo


@dataclass(frozen=True, eq=False)
class Result:
    """One answered case.

    setup      : what was asked and deployed, label -> words ("model": "llama-3.1-8b").
    reasons    : sentences of `metrics.reason.explain`.
    provenance : version, spec_hash, policies, seed, host, price_date, calibration_ids, ...
    log        : None when only the metrics were kept; reports then leave out charts and rows.
    """

    title: str
    metrics: Metrics
    slo: Slo = field(default_factory=Slo)
    log: Log | None = None
    setup: Mapping[str, str] = field(default_factory=dict)
    reasons: tuple[str, ...] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)
