"""What a plan lacks, and what of a case it cannot look at yet: said before it starts, all at once.

A plan compares pools of one device type whose requests come by themselves; its bounds prune without
simulating, and would be wrong, or silently left something out, for what stands here.
"""

from __future__ import annotations

from forerun.errors import Problem, SpecError
from forerun.metrics.goodput import bounds
from forerun.spec.case import Case
from forerun.spec.deployment import Deployment

FIX = "plan without it, then ask `forerun simulate` what it adds to the best deployment"

CAPS = "bounds of plans count that every cached token is kept and read"


def check_plannable(case: Case, objective: str, source: Deployment | None) -> None:
    """Raises SpecError with everything a plan lacks, or would leave out, of the case."""
    problems = []
    if not bounds(case.slo):
        what = "bounds nothing: every deployment would do"
        problems.append(Problem("slo", what, "ttft_s: 500 ms"))
    if objective == "carbon" and all(g.region is None for g in case.fleet.devices.values()):
        fix = f"--set fleet.{next(iter(case.fleet.devices))}.region=de"
        problems.append(Problem("fleet", "no device has a region, so carbon is not known", fix))
    if len(case.models) > 1:
        what = "a plan is for one model, the case has several"
        problems.append(Problem("models", what, "a case for each model"))
    if case.traffic.adapters is not None:
        what = "bounds of plans know no adapters, which take memory and time"
        problems.append(Problem("traffic.adapters", what, FIX))
    if case.tenants:
        what = "bounds of plans take all requests alike, and hold them to one SLO"
        fix = "forerun simulate tells what a given deployment does with tenants"
        problems.append(Problem("tenants", what, fix))
    for name in ("workflow", "client"):
        if getattr(case.traffic, name) is not None:
            what = (
                "bounds of plans count requests that come by themselves, and wait for their answer"
            )
            fix = "forerun simulate tells what a given deployment does with it"
            problems.append(Problem(f"traffic.{name}", what, fix))
    if case.traffic.turns != "recorded":
        what = "bounds of plans count requests that come by themselves, not after an answer"
        problems.append(Problem("traffic.turns", what, "turns: recorded"))
    if case.regions:
        what = "a plan's pools are all in one place"
        problems.append(Problem("regions", what, FIX))
    if case.traffic.render is not None:
        what = "bounds of plans are of text: prompts, tokens and KV"
        problems.append(Problem("traffic.render", what, FIX))
    if case.traffic.media is not None:
        what = "bounds of plans do not price image encoders"
        problems.append(Problem("traffic.media", what, FIX))
    for name in ("kept_tokens", "attended_tokens"):
        if getattr(case.traffic, name) is not None:
            problems.append(Problem(f"traffic.{name}", CAPS, FIX))
    if case.faults:
        problems.append(Problem("faults", "a plan does not simulate failures", FIX))
    if source is not None:
        problems += _of_deployment(source)
    if problems:
        raise SpecError(*problems)


def _of_deployment(source: Deployment) -> list[Problem]:
    left_out = {
        "techniques": bool(source.techniques),
        "kv_tiers": bool(source.kv_tiers),
        "adapters": source.adapters is not None,
        "response_cache": source.response_cache is not None,
        "embedding_cache": source.embedding_cache is not None,
        "gate": source.gate.name != "everyone",
        "power": source.power is not None,
        "rebalance": source.rebalance is not None,
    }
    out = [
        Problem(f"deployment.{name}", "a plan would leave it out silently", FIX)
        for name, given in left_out.items()
        if given
    ]
    for pool in source.pools:
        where = f"deployment.pools.{pool.name}"
        if pool.role != "both":
            what = "a plan's pools compute prompts and answers on the same replicas"
            out.append(Problem(f"{where}.role", what, FIX))
        if pool.power is not None:
            what = "a plan takes devices at full clock, and would leave it out silently"
            out.append(Problem(f"{where}.power", what, FIX))
        if pool.engine.tuning is not None:
            what = "bounds of plans know no fine-tuning, which takes memory and time"
            out.append(Problem(f"{where}.engine.tuning", what, FIX))
        if pool.sm_share is not None:
            what = "a plan's replicas compute prompts and answers in the same steps"
            out.append(Problem(f"{where}.sm_share", what, FIX))
        for name in ("kept_tokens", "attended_tokens"):
            if getattr(pool.engine, name) is not None:
                out.append(Problem(f"{where}.engine.{name}", CAPS, FIX))
        if pool.autoscale is not None:
            out.append(Problem(f"{where}.autoscale", "a plan's fleets do not change", FIX))
        if pool.moe is not None and (pool.moe.routing.drift > 0 or pool.moe.rebalance_s):
            what = "a plan prices one load of the experts, and this one changes in the run"
            out.append(Problem(f"{where}.moe", what, "drift: 0 and no rebalance_s, or simulate"))
    return out
