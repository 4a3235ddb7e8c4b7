"""What was asked and what was deployed, in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from forerun.api import _control_words as control_words
from forerun.spec.caches import Category, ResponseCache, Shelf
from forerun.spec.case import Case
from forerun.spec.check_adapters import n_named
from forerun.spec.deployment import Deployment, Pool

if TYPE_CHECKING:
    from forerun.spec.adapters import Adapters
    from forerun.spec.requests import Requests


def model_words(case: Case) -> str:
    """The case's model, or what is asked for how often."""
    if len(case.models) <= 1:
        return case.model
    return ", ".join(case.models)


def words(deployment: Deployment) -> str:
    """The deployment in a few words: "4 x h100-sxm, 2 replicas of tp 2"."""
    return "; ".join(_pool_words(pool) for pool in deployment.pools)


def _pool_words(pool: Pool) -> str:
    sizes = {key: getattr(pool, key) for key in ("tp", "pp", "dp", "ep", "cp")}
    layout = " ".join(f"{k} {v}" for k, v in sizes.items() if v > 1) or "tp 1"
    replicas = f"{pool.replicas} replica" + ("s" if pool.replicas > 1 else "")
    if pool.autoscale is not None:
        most = pool.autoscale.max_replicas or pool.replicas
        replicas = f"{pool.autoscale.min_replicas} to {most} replicas"
    if pool.role != "both":
        replicas = f"{pool.role} on {replicas}"
    if pool.sm_share is not None:
        how = pool.sm_share
        at = "" if how.policy.name == "fixed" else f" at first, {how.policy.name}"
        replicas += f" ({how.prefill:.0%} of the SMs for prompts, {how.decode:.0%} for answers{at})"
    if pool.models:
        replicas += f" for {', '.join(pool.models)}"
    return f"{pool.n_devices} x {pool.device}, {replicas} of {layout}"


def render_words(wanted: Requests) -> str:
    """What images or videos are asked for: sizes, frames, steps."""
    import numpy as np

    assert wanted.frames is not None
    assert wanted.item_width is not None
    assert wanted.item_height is not None
    sizes = np.stack([wanted.item_width, wanted.item_height, wanted.frames], axis=1)
    kinds, n = np.unique(sizes, axis=0, return_counts=True)
    told = [
        f"{many / len(wanted):.0%} {wide} x {high}" + (f" x {frames} frames" if frames > 1 else "")
        for (wide, high, frames), many in zip(kinds.tolist(), n.tolist(), strict=True)
    ]
    steps = f"{wanted.osl.mean():,.4g} steps" + (" on average" if np.ptp(wanted.osl) else "")
    twice = wanted.n_items is not None and bool(np.all(wanted.n_items == 2))
    guided = ", each with and without the prompt" if twice else ""
    control = ""
    if wanted.controls is not None:
        some = float((wanted.controls > 0).mean())
        control = f"; ControlNets with {some:.0%} of them"
    return f"{', '.join(told)}; {steps}{guided}{control}"


def _speculation_words(pool: Pool) -> str:
    """Who proposes tokens, how many, and how often they are right."""
    said = pool.engine.speculation
    assert said is not None
    if not said.most:
        return "none (k 0)"
    who = {"draft": f"draft {said.draft}", "heads": f"{said.layers} head layers"}
    row = f"a tree of {sum(said.levels[1:])} tokens" if said.tree else f"up to {said.most} tokens"
    right = said.acceptance.model_dump(exclude_none=True, exclude={"source"}, exclude_defaults=True)
    chances = ", ".join(f"{k} {v}" for k, v in right.items() if k != "requests")
    where = f" on {said.device}" if said.device else ""
    return (
        f"{who.get(said.kind, 'n-gram')}{where}, {row}, {pool.engine.speculate.name} policy, "
        f"acceptance {chances or 'of measured requests'}"
    )


def adapter_words(how: Adapters, wanted: Requests) -> str:
    """How many adapters there are, and how replicas keep them."""
    n, ranks = sum(n_named(wanted).values()), ", ".join(map(str, sorted(set(how.ranks))))
    room = f"{how.n_slots} slots a replica" if how.memory == "slots" else "in the KV cache's blocks"
    told = f"{n:,} of rank {ranks}; {room}, {how.max_loras} in a batch"
    if how.max_cpu_loras:
        told += f", {how.max_cpu_loras} on its host"
    return f"{told}; loaded {how.load.replace('_', ' ')}"


def _cache_words(cache: ResponseCache) -> str:
    """From which similarity on an answer is given again, how many are kept, how long."""
    from forerun import units

    def words(said: Shelf | Category) -> str:
        if said.skip:
            return "past the cache"
        if said.max_error is not None:
            parts = [f"who is like enough is learnt, at most {100 * said.max_error:g} % wrong"]
        else:
            parts = [] if said.threshold is None else [f"cosine {said.threshold:g}"]
        parts += [] if said.ttl_s is None else [f"for {units.show(said.ttl_s, 'time')}"]
        parts += [] if said.quota is None else [f"{said.quota:,} answers"]
        parts += [] if said.quota_bytes is None else [units.show(said.quota_bytes, "bytes")]
        return ", ".join(parts)

    own = [f"{name}: {words(said)}" for name, said in cache.categories.items()]
    return "; ".join([words(cache), f"lookup {units.show(cache.lookup_s, 'time')}", *own])


def what_is_shown(wanted: Requests) -> str:
    """What the items of these requests are."""
    sound = wanted.item_s is not None and bool(wanted.item_s.any())
    return "windows of sound" if sound else "images or groups of frames"


def setup_words(case: Case, deployment: Deployment, wanted: Requests) -> dict[str, str]:
    """What was asked and what was deployed, label by label, for a report."""
    from forerun import units

    traffic = case.traffic
    span = units.show(wanted.duration_s, "time")
    how = traffic.trace or f"{traffic.arrivals or 'poisson'} arrivals"
    if traffic.concurrency:
        how = f"closed loop of {traffic.concurrency}" + (f", {how}" if traffic.trace else "")
        span = "as they finish"
    what = f"{len(wanted):,} requests"
    if traffic.workflow is not None:
        assert wanted.workflow is not None
        what += f" in {int(wanted.workflow.max()) + 1:,} workflows"
    skipped = sum((wanted.meta.get("skipped") or {}).values())
    out = {
        "model": model_words(case),
        "deployment": words(deployment),
        "traffic": f"{what} over {span} ({how})",
        "router": deployment.route.name,
    }
    if wanted.frames is not None:
        out["asked for"] = render_words(wanted)
    elif wanted.n_items is not None and wanted.item_tokens is not None:
        n, shown = wanted.n_items, int(wanted.n_items.sum())
        tokens = int((n * wanted.item_tokens).sum())
        out["shown"] = (
            f"{shown:,} {what_is_shown(wanted)} in {int((n > 0).sum()):,} prompts, "
            f"{tokens / max(shown, 1):,.0f} tokens each on average"
        )
    if any(pool.role == "prefill" for pool in deployment.pools):
        out["router of answers"] = deployment.place.name
    if deployment.kv_tiers:
        below = ", ".join(
            f"{one.tier} {units.show(one.capacity_bytes, 'bytes')} a {one.shared_by}"
            for one in deployment.kv_tiers
        )
        out["KV below"] = f"{below}; fetch: {deployment.fetch.name}"
    if deployment.adapters is not None:
        out["adapters"] = adapter_words(deployment.adapters, wanted)
    if deployment.response_cache is not None:
        out["response cache"] = _cache_words(deployment.response_cache)
    if (cache := deployment.embedding_cache) is not None:
        room = units.show(cache.capacity_bytes, "bytes")
        whose = "the fleet" if cache.memory == "fleet" else f"each replica ({cache.memory})"
        out["embeddings"] = f"{room} kept for {whose}"
    if deployment.techniques:
        out["techniques"] = ", ".join(use.name for use in deployment.techniques)
    if skipped:
        out["left out"] = f"{skipped:,} bad rows of {traffic.trace}"
    out |= control_words.setup(case, deployment)
    for pool in deployment.pools:
        label = "engine" if len(deployment.pools) == 1 else f"engine of {pool.name}"
        e = pool.engine
        batches = e.batch.name if wanted.frames is None else "denoise"
        out[label] = (
            f"{batches} batches, {e.order.name}, max_num_seqs {e.max_num_seqs}, "
            f"max_num_batched_tokens {e.max_num_batched_tokens}, "
            f"gpu_memory_utilization {e.gpu_memory_utilization:g}"
        )
        for word, most in (("kept", e.kept_tokens), ("attended", e.attended_tokens)):
            if most is not None:
                out[label] += f", at most {most:,} tokens {word}"
        if e.tuning is not None:
            out[label.replace("engine", "fine-tuning")] = (
                f"{e.tuning.tokens:,} tokens a replica, {e.tune.name} policy, "
                f"backward {e.tuning.backward:g} times forward"
            )
        for word in ("kept", "attended"):
            if getattr(traffic, f"{word}_tokens") is not None:
                out[label] += f", of a request at most its own {word}_tokens"
        if e.speculation is not None:
            out[label.replace("engine", "speculation")] = _speculation_words(pool)
    return out
