"""What a deployment spends, against what may be spent."""

from __future__ import annotations

from dataclasses import dataclass

from forerun import catalog
from forerun.metrics.figure import text
from forerun.plan.evaluate import Point
from forerun.plan.provenance import price_of
from forerun.plan.space import Candidate
from forerun.spec.case import Case


@dataclass(frozen=True)
class Excess:
    """One limit of the budget that a deployment is over."""

    key: str  # of the budget
    unit: str
    value: float
    limit: float

    @property
    def words(self) -> str:
        return f"{self.shown(self.value)} (budget {self.shown(self.limit)})"

    def shown(self, value: float) -> str:
        """The value with its unit."""
        return text(value, self.unit) + ("/h" if self.unit == "gCO2e" else "")


def excesses(case: Case, candidate: Candidate, point: Point) -> list[Excess]:
    """Every limit that the deployment is over; what is not known is not over."""
    limits, usd = case.budget, price_of(case, candidate.device)
    each = (
        ("usd_per_hour", "USD/h", usd and usd * candidate.n_devices(point.replicas)),
        ("power_w", "W", point.power_w),
        ("gco2e_per_hour", "gCO2e", gco2e_per_hour(case, candidate.device, point)),
    )
    found = ((key, unit, value, getattr(limits, key)) for key, unit, value in each)
    return [
        Excess(key, unit, value, limit)
        for key, unit, value, limit in found
        if value is not None and limit is not None and value > limit
    ]


def gco2e_per_hour(case: Case, device: str, point: Point) -> float | None:
    """Mean power times the grid's intensity; None without a region."""
    region = case.fleet.devices[device].region
    if region is None or point.power_w is None:
        return None
    return point.power_w / 1000 * catalog.grid(region).gco2e_per_kwh
