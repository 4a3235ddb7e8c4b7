"""What contradicts itself in scale rules, cold starts and faults, told before a run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from forerun.errors import Problem, nearest
from forerun.spec.control import METRICS, Autoscale, Fault
from forerun.spec.deployment import Pool

#: rules that need a target, and why
NEEDS_TARGET = {
    "target_tracking": "of the metric, a replica",
    "keep_alive": "requests that a replica has room for",
    "forecast": "requests a second that a replica answers",
}
EXAMPLE = {
    "waiting": "4", "running": "32", "outstanding": "32", "kv": "0.7", "busy": "0.8",
    "requests_per_s": "5", "ttft_s": "0.5",
}  # fmt: skip
Sentences = Iterator[tuple[str, str, str]]  # (where, what is wrong, what would mend it)


def check_control(pools: Sequence[Pool], faults: Sequence[Fault]) -> list[Problem]:
    """Everything that is wrong with how a fleet changes."""
    return [*check_rules(pools), *check_faults(faults, pools)]


def check_rules(pools: Sequence[Pool]) -> list[Problem]:
    """Problems of every pool's cold start and scale rule, where: a path in the deployment."""
    out = []
    for i, pool in enumerate(pools):
        here = f"deployment.pools.{i}"
        start = pool.cold_start
        if start.image_bytes > 0 and start.image_bytes_per_s is None:
            where, fix = f"{here}.cold_start.image_bytes_per_s", "image_bytes_per_s: 200 MB/s"
            out.append(Problem(where, "is missing beside image_bytes", fix))
        if pool.autoscale is not None:
            out += [
                Problem(f"{here}.autoscale.{where}", what, fix)
                for where, what, fix in check_scale(pool.autoscale, pool)
            ]
    return out


def check_scale(rule: Autoscale, pool: Pool) -> Sentences:
    """What is wrong with a pool's rule."""
    yield from check_bounds(rule, pool)
    name, metric = rule.policy.name, rule.metric
    if metric not in METRICS:
        yield "metric", f"there is no metric {metric!r} to scale by", nearest(metric, METRICS)
        return
    if name in NEEDS_TARGET and rule.target is None:
        example = {"keep_alive": "16", "forecast": "5"}.get(name, EXAMPLE[metric])
        yield "target", f"is missing ({NEEDS_TARGET[name]})", f"target: {example}"
    if name == "target_tracking" and rule.target is not None:
        yield from check_can_fire(rule, pool)
    if name == "scheduled":
        yield from check_schedule(rule)
    if name == "forecast" and rule.repeat_s is not None and rule.repeat_s < 4 * rule.period_s:
        what = f"a season of {rule.repeat_s:g} s has fewer than four looks of {rule.period_s:g} s"
        yield "repeat_s", what, "a longer season or a shorter period_s"


def check_bounds(rule: Autoscale, pool: Pool) -> Sentences:
    """The fewest, the first and the most, in this order, and room for them."""
    most = pool.replicas if rule.max_replicas is None else rule.max_replicas
    if most > pool.replicas:
        what = f"{most} is more than the {pool.replicas} replicas that the pool has room for"
        yield "max_replicas", what, f"replicas: {most}"
    if rule.min_replicas > most:
        what = f"{rule.min_replicas} is more than the most, {most}"
        yield "min_replicas", what, f"min_replicas: {most}"
    first = rule.initial_replicas
    if first is not None and not min(rule.min_replicas, most) <= first <= most:
        what = f"{first} is not between {rule.min_replicas} and {most}"
        yield (
            "initial_replicas",
            what,
            f"initial_replicas: {min(max(first, rule.min_replicas), most)}",
        )


def check_can_fire(rule: Autoscale, pool: Pool) -> Sentences:
    """A target that a replica's metric can never pass asks for no second one."""
    most = {
        "kv": (1.0, "of its KV blocks"),
        "busy": (1.0, "of the time"),
        "running": (float(pool.engine.max_num_seqs), "requests running (max_num_seqs)"),
    }.get(rule.metric)
    assert rule.target is not None
    if most is not None and rule.target >= most[0]:
        what = (
            f"{rule.target:g} can never be passed: a replica has at most {most[0]:g} {most[1]}, so "
            "the rule never fires"
        )
        yield "target", what, f"target: {EXAMPLE[rule.metric]}"
    if rule.metric == "ttft_s" and rule.min_replicas == 0:
        what = "no first token is seen while there is no replica, so ttft_s says nothing at zero"
        yield "metric", what, "metric: outstanding, or min_replicas: 1"


def check_schedule(rule: Autoscale) -> Sentences:
    """A schedule has rows, in its season, within the bounds."""
    if not rule.schedule:
        yield (
            "schedule",
            "is empty, so the rule never fires",
            "schedule: [{at_s: 8 h, replicas: 4}]",
        )
    for k, row in enumerate(rule.schedule):
        if rule.repeat_s is not None and row.at_s >= rule.repeat_s:
            what = f"{row.at_s:g} s lies beyond the {rule.repeat_s:g} s after which it repeats"
            yield f"schedule.{k}.at_s", what, "a time within repeat_s"
        low, high = rule.min_replicas, rule.max_replicas
        if row.replicas < low or (high is not None and row.replicas > high):
            what = (
                f"{row.replicas} is outside the bounds {low} to {'all' if high is None else high}"
            )
            yield f"schedule.{k}.replicas", what, "a number within them, or other bounds"


def check_faults(faults: Sequence[Fault], pools: Sequence[Pool]) -> list[Problem]:
    """Problems of every fault, where: a path in the case."""
    return [
        Problem(f"faults.{i}.{where}", what, fix)
        for i, fault in enumerate(faults)
        for where, what, fix in [*check_times(fault), *check_whom(fault, pools)]
    ] + check_link(faults, pools)


def check_link(faults: Sequence[Fault], pools: Sequence[Pool]) -> list[Problem]:
    """A link that nothing is sent over cannot be felt to be slow."""
    moves = any(pool.role != "both" for pool in pools) or any(f.on_notice == "move" for f in faults)
    what = "no KV moves between replicas of this deployment, so the fault never shows"
    return [
        Problem(f"faults.{i}.effect", what, "pools with role: prefill and role: decode")
        for i, fault in enumerate(faults)
        if fault.effect == "link" and not moves
    ]


def check_times(fault: Fault) -> Sentences:
    """When a fault begins and ends."""
    name = fault.process.name
    if fault.effect == "upgrade" and not fault.at_s:
        yield "at_s", "is missing: an upgrade begins at a time", "at_s: [1 h]"
    elif name == "listed" and not fault.at_s:
        yield "at_s", "is empty, so nothing ever happens", "at_s: [10 min]"
    elif name in ("exponential", "weibull", "fixed") and fault.mtbf_s is None:
        yield "mtbf_s", f"is missing ({name} times need their mean)", "mtbf_s: 100 h"
    if name != "weibull" and fault.shape != 1:
        yield "shape", f"has no meaning for {name} times", "process: weibull"
    if fault.mtbf_s is not None and fault.notice_s >= fault.mtbf_s:
        what = f"{fault.notice_s:g} s of notice is not shorter than a life of {fault.mtbf_s:g} s"
        yield "notice_s", what, "a shorter notice_s"
    if fault.notice_s and fault.effect not in ("loss", "upgrade"):
        yield "notice_s", f"a {fault.effect} comes without notice", "effect: loss"


def check_whom(fault: Fault, pools: Sequence[Pool]) -> Sentences:
    """Whom a fault strikes, and how."""
    names = [pool.name for pool in pools]
    mine = [pool for pool in pools if fault.pool in (None, pool.name)]
    regions = list(dict.fromkeys(pool.region for pool in mine if pool.region is not None))
    if fault.region is not None and fault.region not in regions:
        what = f"none of the pools that it strikes is in {fault.region!r}"
        yield "region", what, nearest(fault.region, regions) if regions else "leave region out"
        return
    if fault.per == "region" and not regions:
        yield "per", "no pool says which region it is in", "per: fleet, or region of each pool"
    if not mine:
        yield "pool", f"no pool is called {fault.pool!r}", nearest(str(fault.pool), names)
        return
    for n in fault.replicas:
        if not 0 <= n < min(pool.replicas for pool in mine):
            room = min(pool.replicas for pool in mine)
            yield "replicas", f"there is no replica {n}, the pool has {room}", f"0 to {room - 1}"
    if fault.effect in ("slow", "link") and fault.factor <= 1:
        what = f"{fault.factor:g} changes nothing, so the fault never shows"
        yield "factor", what, "factor: 1.5"
    if fault.effect not in ("slow", "link") and fault.factor != 1:
        yield "factor", f"has no meaning for a {fault.effect}", "effect: slow"
    if fault.per != "group" and fault.effect != "upgrade" and fault.group_replicas != 1:
        yield "group_replicas", f"has no meaning per {fault.per}", "per: group"
