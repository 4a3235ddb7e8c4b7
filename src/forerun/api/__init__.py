"""The Python API: `load`, `fit`, `predict`, `simulate`, `plan`; the command line is a layer on it.

Each is a chain of the rooms below: descriptions from files and the catalog, costs, the simulator,
metrics.  What a case leaves open is chosen by rules that each answer names.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from forerun import catalog
from forerun.api._cases import (
    default_deployment,
    load,
    policies,
    policy_kinds,
    price_usd_per_hour,
    read,
    resolve,
    techniques,
    workload,
)
from forerun.api._predict import MAY_LACK, Prediction, predict
from forerun.api._simulate import Result, requests, simulate
from forerun.api._words import words
from forerun.spec.deployment import Pool
from forerun.spec.device import Device
from forerun.spec.model import Model

if TYPE_CHECKING:
    from forerun.cost.fit import Fit
    from forerun.plan.result import Plan
    from forerun.spec.case import Case

__all__ = [
    "MAY_LACK", "Prediction", "Result", "default_deployment", "fit", "load", "plan", "policies",
    "policy_kinds", "predict", "price_usd_per_hour", "read", "requests", "resolve", "simulate",
    "techniques", "words", "workload",
]  # fmt: skip


def fit(model: str | Model, device: str | Device, *, pool: Pool | None = None) -> Fit:
    """Whether a model fits on a device, how long a context and how many requests at once.

    A layout that does not fit is an answer with its problems and repairs, not an error.
    """
    from forerun.cost.fit import fit as fit_pool

    model = catalog.model(model) if isinstance(model, str) else model
    device = catalog.device(device) if isinstance(device, str) else device
    return fit_pool(model, device, pool=pool)


def plan(case: Case, **settings: Any) -> Plan:
    """The cheapest, fastest or greenest deployments of the case that meet its SLO, with evidence.

    settings : those of `forerun.plan.search.plan` (objective, dtypes, top, workers, ...).
    Raises Infeasible when nothing meets the SLO, with what binds and what would help.
    """
    from forerun.plan.search import plan as search

    return search(case, **settings)
