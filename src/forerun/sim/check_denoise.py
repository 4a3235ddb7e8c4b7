"""What replicas that denoise cannot do yet, alone and with the rest of a fleet: said before a run."""

from __future__ import annotations

from collections.abc import Sequence

from forerun.errors import Problem, SpecError
from forerun.sim.setup import Served


def check_denoisers(
    pools: Sequence[Served], again: Sequence[bool], *, n_tiers: int, cached: bool
) -> None:
    """Raises SpecError with everything that does not go together with images that are made.

    again : whose order policy is asked again, by pool; cached : whether answers are given again.
    """
    making = [p for p, one in enumerate(pools) if one.denoises]
    if not making:
        return
    problems, drop = [], "drop it"
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
            "sm_share": (one.block is not None, "prompts and answers are of text"),
            "engine.speculation": (engine.speculation is not None, "steps propose no tokens"),
            "engine.tuning": (engine.tuning is not None, f"fine-tuning {said}"),
            "engine.kept_tokens": (bool(engine.kept_tokens), "nothing is kept of a step"),
            "engine.attended_tokens": (bool(engine.attended_tokens), "nothing is kept of a step"),
            "engine.kv_precision": (engine.kv_precision is not None, "there is no KV"),
            "engine.order": (again[p], "steps are counted for no tenant yet"),
        }
        problems += [
            Problem(f"{where}.{name}", what, drop) for name, (clash, what) in clashes.items() if clash
        ]
    if problems:
        raise SpecError(*problems)
