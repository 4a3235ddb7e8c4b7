"""`Fleet` and `Case`: the hardware at hand, and the whole question."""

from __future__ import annotations

from pydantic import Field, model_validator

from forerun.spec.base import Spec
from forerun.spec.control import Fault
from forerun.spec.deployment import Deployment
from forerun.spec.slo import Budget, Slo
from forerun.spec.workload import Traffic


class Group(Spec):
    """Devices of one type."""

    count: int = Field(ge=1)
    price_usd_per_hour: float | None = Field(
        default=None, ge=0
    )  # of one device; catalog when absent
    region: str | None = None  # of the grid that feeds it, a name in catalog/grids.yaml


class Fleet(Spec):
    """All hardware that may be used: `{h100-sxm: 4, l4: {count: 8, region: se}}`."""

    devices: dict[str, Group]

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, data):
        """Also takes `{name: count}` and SkyPilot's "H100:8, L4:4"."""
        if isinstance(data, str):
            parts = [part.strip().partition(":") for part in data.split(",") if part.strip()]
            data = {name.strip(): int(count or 1) for name, _, count in parts}
        if isinstance(data, dict) and "devices" not in data:
            data = {"devices": data}
        if isinstance(data, dict) and isinstance(data.get("devices"), dict):
            groups = {
                k: {"count": v} if isinstance(v, int) else v for k, v in data["devices"].items()
            }
            data = {**data, "devices": groups}
        return data


class Case(Spec):
    """A question: model, fleet, workload, goals, budget; a deployment to be examined, if any."""

    name: str = "case"
    model: str  # a catalog name or the path of a config.json
    fleet: Fleet
    traffic: Traffic
    slo: Slo = Slo()
    budget: Budget = Budget()
    deployment: Deployment | None = None
    faults: tuple[Fault, ...] = ()  # of what the deployment runs on
    seed: int = Field(default=0, ge=0)
