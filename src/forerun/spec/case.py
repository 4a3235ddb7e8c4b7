"""`Fleet` and `Case`: the hardware at hand, and the whole question."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

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


class Asked(Spec):
    """One of several models of a case: what it is, how much traffic asks for it, what it shares.

    Models without traffic of their own divide the case's traffic by their shares, at random.
    """

    model: str  # a catalog name or the path of a config.json
    share: float = Field(default=1.0, gt=0)  # of the case's traffic, relative to the others'
    traffic: Traffic | None = None  # its own, beside the case's
    base: str | None = None  # models that name one base have most of their weights in common
    own_share: float = Field(default=1.0, gt=0, le=1)  # of its weights that others of its base lack
    #: or several parts of its weights, by name: models that name one have it in common (BlockLLM)
    blocks: dict[str, Annotated[float, Field(gt=0, le=1)]] = {}


class Sender(Spec):
    """A tenant: how much of the traffic it sends, its weight where tenants share, its SLO class.

    Tenants without traffic of their own divide the case's by their shares, at random; where its
    trace says who sends what, they are named as there.
    """

    share: float = Field(default=1.0, gt=0)  # of the case's traffic, relative to the others'
    traffic: Traffic | None = None  # its own, beside the case's
    weight: float = Field(default=1.0, ge=0.001, le=1000)  # of what it is to be served, to others'
    slo: str | None = None  # a class of the case's slo; the case's own bounds when absent


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
    #: by the name that pools and requests use; when several are asked for, `model` is the first
    models: dict[str, Asked] = {}
    tenants: dict[str, Sender] = {}  # who sends the requests; one when empty

    @model_serializer(mode="wrap")
    def _without_tenants(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """What has no tenants reads (and hashes) as it always did."""
        data: dict[str, Any] = plain(self)
        if not self.tenants:
            data.pop("tenants", None)
        return data

    @model_validator(mode="before")
    @classmethod
    def _short_tenants(cls, data):
        """Also takes `tenants: {name: share}`."""
        if not isinstance(data, dict) or not isinstance(data.get("tenants"), dict):
            return data
        tenants = {
            name: {"share": said} if isinstance(said, (int, float)) else said
            for name, said in data["tenants"].items()
        }
        return {**data, "tenants": tenants}

    @model_validator(mode="before")
    @classmethod
    def _short_models(cls, data):
        """Also takes `models: {name: share}`, and names that are the catalog's own."""
        if not isinstance(data, dict) or not isinstance(data.get("models"), dict):
            return data
        models = {
            name: {"model": name, **(asked if isinstance(asked, dict) else {"share": asked})}
            if isinstance(asked, (dict, int, float))
            else asked
            for name, asked in data["models"].items()
        }
        data = {**data, "models": models}
        first = next(iter(models.values()), None)
        if "model" not in data and isinstance(first, dict):
            data["model"] = first["model"]
        return data
