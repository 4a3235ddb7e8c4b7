"""What replicas that denoise cannot do yet, alone and with the rest of a fleet."""

from __future__ import annotations

from collections.abc import Sequence

from forerun.errors import Problem, SpecError
from forerun.sim.setup import Served
from forerun.spec.case import Case
from forerun.spec.deployment import Deployment


def check_moves(case: Case, deployment: Deployment) -> None:
    """Raises SpecError where requests for images would have to move while they are denoised."""
    if case.traffic.render is None:
        return
    problems = []
    if deployment.rebalance is not None:
        what = "latents do not move between replicas"
        problems.append(Problem("deployment.rebalance", what, "drop it"))
    row = deployment.power
    if row is not None and row.policy.name != "watch" and case.traffic.render.controls is not None:
        for pool in deployment.pools:
            if pool.control_devices and (not row.pools or pool.name in row.pools):
                what = "the clocks of devices for ControlNets are not yet set with the denoiser's"
                where = f"deployment.pools.{pool.name}.controlnets.where"
                problems.append(Problem(where, what, "where: beside, or policy: watch"))
    for pool in deployment.pools:
        if pool.shares_controls and pool.autoscale is not None:
            what = "devices for the ControlNets of all replicas do not come and go with these"
            where = f"deployment.pools.{pool.name}.controlnets.where"
            problems.append(Problem(where, what, "where: apart or beside, or no autoscale"))
    for i, fault in enumerate(case.faults):
        if fault.effect == "loss" and fault.on_notice == "move":
            what = "latents do not move between replicas"
            problems.append(Problem(f"faults.{i}.on_notice", what, "on_notice: drain"))
    if problems:
        raise SpecError(*problems)


def check_denoisers(
    pools: Sequence[Served], again: Sequence[bool], *, n_tiers: int, cached: bool
) -> None:
    """Raises SpecError with everything that does not go together with images that are made.

    again : whose order policy is asked again, by pool; cached : whether answers are given again.
    """
    making = [p for p, one in enumerate(pools) if one.denoises]
    drop = "drop it"
    problems = [
        Problem(
            f"deployment.pools.{one.pool.name}.engine.max_step_s",
            "only steps of denoising are formed by the time they take",
            "max_num_batched_tokens bounds a step of prompts and answers",
        )
        for one in pools
        if one.pool.engine.max_step_s is not None and one.pool.replicas and not one.denoises
    ]
    if not making and not problems:
        return
    if n_tiers:
        what = "tiers keep KV of text, and a request for an image has none"
        problems.append(Problem("deployment.kv_tiers", what, drop))
    if cached:
        what = "answers that are given again are text, and images are made"
        problems.append(Problem("deployment.response_cache", what, drop))
    for p in making:
        one, where = pools[p], f"deployment.pools.{pools[p].pool.name}"
        engine, said = one.pool.engine, "is not combined with a model that denoises"
        clashes = {
            "role": (one.pool.role not in ("both", "encode"), "prompts and answers are of text"),
            "models": (one.group is not None, f"models that take turns: {said}"),
            "moe": (one.pool.moe is not None, "a diffusion model here has no experts"),
            "sm_share": (one.pool.sm_share is not None, "prompts and answers are of text"),
            "engine.speculation": (engine.speculation is not None, "steps propose no tokens"),
            "engine.tuning": (engine.tuning is not None, f"fine-tuning {said}"),
            "engine.kept_tokens": (bool(engine.kept_tokens), "nothing is kept of a step"),
            "engine.attended_tokens": (bool(engine.attended_tokens), "nothing is kept of a step"),
            "engine.kv_precision": (engine.kv_precision is not None, "there is no KV"),
            "engine.order": (again[p], "steps are counted for no tenant yet"),
        }
        problems += [
            Problem(f"{where}.{name}", what, drop)
            for name, (clash, what) in clashes.items()
            if clash
        ]
    if problems:
        raise SpecError(*problems)
