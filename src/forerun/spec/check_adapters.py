"""Adapters that requests name and replicas keep: whether the two sides of a case agree."""

from __future__ import annotations

from typing import TYPE_CHECKING

from forerun.errors import Problem, SpecError
from forerun.spec.case import Case
from forerun.spec.deployment import Deployment

if TYPE_CHECKING:
    from forerun.spec.requests import Requests

FIX = "deployment.adapters: {ranks: [16], max_loras: 8}"


def check_adapters(case: Case) -> list[Problem]:
    """Who names adapters has replicas that keep them, of one model."""
    problems = []
    named, kept = case.traffic.adapters, case.deployment and case.deployment.adapters
    if named is not None and case.deployment is not None and kept is None:
        what = "requests name adapters, and nothing says how replicas keep them"
        problems.append(Problem("traffic.adapters", what, FIX))
    if kept and named is None and case.traffic.trace is None:
        what = "no request names one"
        problems.append(Problem("deployment.adapters", what, "traffic.adapters: {n: 100}"))
    if kept and kept.early_steps and case.traffic.render is None:
        what = "only denoising begins with the model alone: an answer is of one adapter throughout"
        problems.append(Problem("deployment.adapters.early_steps", what, "drop it"))
    if (kept or named) and len(case.models) > 1:
        what = "adapters are of one model, and the case has several"
        problems.append(Problem("models", what, "a case for each model"))
    return problems


def check_named(deployment: Deployment, wanted: Requests) -> None:
    """Raises SpecError where requests name adapters that no replica keeps, or none names any."""
    n = n_named(wanted)
    if n and deployment.adapters is None:
        what = f"the requests name {n} adapters, and nothing says how replicas keep them"
        raise SpecError.one("deployment.adapters", what, FIX)
    if not n and deployment.adapters is not None:
        what = "no request names one"
        raise SpecError.one("deployment.adapters", what, "a trace with a column `adapter`")


def n_named(wanted: Requests) -> int:
    """How many adapters there are, by the requests that name them."""
    if wanted.adapter is None or not len(wanted):
        return 0
    return int(wanted.adapter.max()) + 1
