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
    """Who names adapters has replicas that keep them."""
    problems = []
    asked = [one.traffic for one in case.models.values()]
    asked += [one.traffic for one in case.tenants.values()]
    traffics = [case.traffic, *(one for one in asked if one is not None)]
    kept = case.deployment and case.deployment.adapters
    named = next((one.adapters for one in traffics if one.adapters is not None), None)
    if named is not None and case.deployment is not None and kept is None:
        what = "requests name adapters, and nothing says how replicas keep them"
        problems.append(Problem("traffic.adapters", what, FIX))
    if kept and named is None and all(one.trace is None for one in traffics):
        what = "no request names one"
        problems.append(Problem("deployment.adapters", what, "traffic.adapters: {n: 100}"))
    if kept and kept.early_steps and case.traffic.render is None:
        what = "only denoising begins with the model alone: an answer is of one adapter throughout"
        problems.append(Problem("deployment.adapters.early_steps", what, "drop it"))
    if kept and kept.memory == "paged" and case.traffic.render is not None:
        what = "paged adapters take blocks of the KV cache, and images that are made have none"
        problems.append(Problem("deployment.adapters.memory", what, "memory: slots"))
    return problems


def check_named(deployment: Deployment, wanted: Requests) -> None:
    """Raises SpecError where requests name adapters that no replica keeps, or none names any."""
    n = sum(n_named(wanted).values())
    if n and deployment.adapters is None:
        what = f"the requests name {n} adapters, and nothing says how replicas keep them"
        raise SpecError.one("deployment.adapters", what, FIX)
    if not n and deployment.adapters is not None:
        what = "no request names one"
        raise SpecError.one("deployment.adapters", what, "a trace with a column `adapter`")


def n_named(wanted: Requests) -> dict[int, int]:
    """How many adapters each model has, by the requests that name them; each counts its own."""
    if wanted.adapter is None or not len(wanted):
        return {}
    if wanted.model is None:
        return {0: int(wanted.adapter.max()) + 1}
    asked = sorted(set(wanted.model.tolist()))
    return {m: int(wanted.adapter[wanted.model == m].max()) + 1 for m in asked}
