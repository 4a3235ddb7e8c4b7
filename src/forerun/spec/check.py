"""Checks of a case that cross its parts; each returns problems whose `where` is a dotted path."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from forerun.errors import Problem, SpecError, nearest
from forerun.spec.case import Case, Group
from forerun.spec.check_adapters import check_adapters
from forerun.spec.check_control import check_control
from forerun.spec.check_power import check_power
from forerun.spec.check_regions import check_regions
from forerun.spec.deployment import Pool
from forerun.spec.sm_share import SmShare


def check_case(case: Case) -> list[Problem]:
    """Everything in the case that contradicts something else in it."""
    changes = [*check_models(case), *check_adapters(case), *check_tenants(case)]
    if case.deployment is not None:
        changes += check_control(case.deployment.pools, case.faults)
        changes += check_power(case.deployment)
    changes += check_shares(case)
    changes += check_regions(case)
    changes += check_frames(case)
    return [*check_traffic(case), *check_fleet(case), *check_pools(case), *changes]


def check_frames(case: Case) -> list[Problem]:
    """Only streams have frames that can be late."""
    render = case.traffic.render
    if case.slo.frame_s is None or (render is not None and render.stream is not None):
        return []
    what = "only video streams have frames with places in time"
    return [Problem("slo.frame_s", what, "render: {stream: {fps: 16}}, or e2el_s")]


def check_traffic(case: Case) -> list[Problem]:
    """What the traffic lacks, and where it contradicts itself."""
    from forerun.spec.traces import _checks  # imports numpy, which a case without mistakes needs

    try:
        _checks.check_traffic(case.traffic)
    except SpecError as error:
        return list(error.problems)
    return []


def check_fleet(case: Case) -> list[Problem]:
    """A fleet holds at least one device, and the deployment no more than the fleet."""
    problems = []
    groups = case.fleet.devices
    if not groups:
        problems.append(Problem("fleet", "holds no device", "fleet: {h100-sxm: 4}"))
    if case.deployment is None:
        return problems
    used: Counter[str] = Counter()
    for i, pool in enumerate(case.deployment.pools):
        if pool.device not in groups:
            what = f"{pool.device} is not in the fleet"
            fix = nearest(pool.device, groups) if groups else ""
            problems.append(Problem(f"deployment.pools.{i}.device", what, fix))
            continue
        problems += _check_draft(i, pool, groups)
        used[pool.device] += pool.n_devices
        if pool.drafts_on is not None:
            used[pool.drafts_on[0]] += pool.drafts_on[1]
        have = groups[pool.device].count
        if used[pool.device] > have:
            per = pool.devices_per_replica + pool.control_devices
            what = (
                f"{used[pool.device]} x {pool.device} are used "
                f"({pool.replicas} replicas of {per}), the fleet has {have}"
            )
            most = (have - used[pool.device] + pool.n_devices) // per
            fix = f"replicas: {most}" if most else f"a layout of at most {have} devices"
            problems.append(Problem(f"deployment.pools.{i}.replicas", what, fix))
    return problems


def _check_draft(i: int, pool: Pool, groups: Mapping[str, Group]) -> list[Problem]:
    """A draft's own devices are in the fleet, and there are enough for every replica."""
    if pool.drafts_on is None or pool.drafts_on[0] == pool.device:
        return []
    name, n = pool.drafts_on
    where = f"deployment.pools.{i}.engine.speculation.device"
    if name not in groups:
        return [Problem(where, f"{name} is not in the fleet", f"fleet: {{{name}: {n}}}")]
    if groups[name].count < n:
        what = f"{n} x {name} draft for the replicas, the fleet has {groups[name].count}"
        return [Problem(where, what, f"fleet: {{{name}: {n}}}, or fewer replicas")]
    return []


def check_pools(case: Case) -> list[Problem]:
    """There is a pool, and pools have names of their own; layouts are checked with the model."""
    problems: list[Problem] = []
    if case.deployment is None:
        return problems
    if not case.deployment.pools:
        return [Problem("deployment.pools", "is empty", "deployment: {device: h100-sxm}")]
    names = [pool.name for pool in case.deployment.pools]
    for i, pool in enumerate(case.deployment.pools):
        if names.index(pool.name) != i:
            what = f"{pool.name!r} is the name of an earlier pool"
            problems.append(Problem(f"deployment.pools.{i}.name", what, f"{pool.name}-{i}"))
    return problems


def check_shares(case: Case) -> list[Problem]:
    """What pools with `sm_share` cannot be combined with, and what their policies lack."""
    if case.deployment is None:
        return []
    return [
        problem
        for i, pool in enumerate(case.deployment.pools)
        if pool.sm_share is not None
        for problem in _check_shares(f"deployment.pools.{i}", pool, case)
    ]


def _check_shares(where: str, pool: Pool, case: Case) -> list[Problem]:
    """What prompts and answers on shares of the same SMs cannot be combined with."""
    assert case.deployment is not None
    assert pool.sm_share is not None
    drop = "drop sm_share, or this"
    engine = pool.engine
    clashes = {
        f"{where}.role": (pool.role != "both", f"a pool for {pool.role} has nobody to share with"),
        f"{where}.pp": (pool.pp > 1, "lanes of pipeline stages and of phases are not combined"),
        f"{where}.moe": (
            pool.moe is not None and pool.moe.offload is not None,
            "both lanes would fetch experts over one link to the host, which is not priced",
        ),
        f"{where}.models": (
            len(pool.models) > 1, "models that take turns and sm_share both change what runs"
        ),
        f"{where}.engine.speculation": (
            engine.speculation is not None, "proposed tokens are not yet priced on a share of SMs"
        ),
        f"{where}.engine.kept_tokens": (
            engine.kept_tokens is not None, "a prompt has all its blocks at once on a share of SMs"
        ),
        f"{where}.engine.attended_tokens": (
            engine.attended_tokens is not None, "picking tokens is priced for the whole device only"
        ),
        f"{where}.engine.preemption": (
            engine.preemption == "swap", "what a lane preempts is computed again by the other"
        ),
        f"{where}.engine.reuse": (
            engine.reuse == "anywhere", "blocks reused anywhere come from tiers"
        ),
        f"{where}.power": (
            pool.power is not None, "a clock or cap is priced for the whole device only"
        ),
        f"{where}.engine.tuning": (
            engine.tuning is not None, "fine-tuning is not yet priced on a share of SMs"
        ),
        "deployment.adapters": (
            case.deployment.adapters is not None, "adapters are not yet priced on a share of SMs"
        ),
        "deployment.power": (
            case.deployment.power is not None
            and case.deployment.power.policy.name != "watch",
            "a row's budget and sm_share both choose what a step costs",
        ),
        "deployment.kv_tiers": (bool(case.deployment.kv_tiers), "lanes cannot yet fetch KV"),
        "deployment.techniques": (
            bool(case.deployment.techniques), "techniques are priced for the whole device only"
        ),
    }  # fmt: skip
    problems = [Problem(at, what, drop) for at, (clash, what) in clashes.items() if clash]
    return problems + _check_share_rule(f"{where}.sm_share", pool.sm_share, case)


def _check_share_rule(where: str, rule: SmShare | None, case: Case) -> list[Problem]:
    """A rule that chooses has something to choose from and something to aim at."""
    assert rule is not None
    name = rule.policy.name
    if rule.levels and name == "fixed":
        what = "fixed never takes another level"
        return [Problem(f"{where}.levels", what, "policy: slo_driven, or no levels")]
    if name != "fixed" and len(rule.shares) < 2:
        what = "there is one level, the shares at the start"
        return [Problem(f"{where}.levels", what, "levels: [0.3, 0.5, 0.7]")]
    needs = {"slo_driven": ("ttft_s", "tpot_s"), "least_for_tpot": ("tpot_s",)}.get(name, ())
    return [
        Problem(f"{where}.{bound}", f"{name} aims at it", f"{bound} here, or a bound in slo")
        for bound in needs
        if getattr(rule, bound) is None and getattr(case.slo, bound) is None
    ]


def check_models(case: Case) -> list[Problem]:
    """Models have traffic, pools serve models of the case, and every model is served."""
    names = list(case.models) or [case.model]
    problems = _check_asked(case)
    if case.deployment is None:
        return problems
    served = set()
    for i, pool in enumerate(case.deployment.pools):
        where = f"deployment.pools.{i}"
        if not pool.models and len(names) > 1:
            what = f"the case has {len(names)} models: which of them does it serve?"
            problems.append(Problem(f"{where}.models", what, f"models: [{', '.join(names)}]"))
        for name in dict.fromkeys(pool.models):
            if name not in names:
                what = f"{name!r} is not one of the case's models"
                problems.append(Problem(f"{where}.models", what, nearest(name, names)))
        if len(set(pool.models)) < len(pool.models):
            problems.append(Problem(f"{where}.models", "names a model twice", "name it once"))
        if pool.resident > max(len(pool.models), 1):
            what = f"{pool.resident} models are to be kept, the pool serves {len(pool.models) or 1}"
            problems.append(Problem(f"{where}.resident", what, f"{max(len(pool.models), 1)}"))
        if len(pool.models) > 1 and pool.pp > 1:
            what = "the stages of a replica cannot take turns with models yet"
            problems.append(Problem(f"{where}.pp", what, "pp: 1, or a pool for each model"))
        served |= set(pool.models or names)
    unserved = [name for name in names if name not in served]
    if unserved and not problems:
        what = f"no pool serves {', '.join(unserved)}"
        problems.append(Problem("deployment.pools", what, f"a pool with model: {unserved[0]}"))
    return problems


def _check_asked(case: Case) -> list[Problem]:
    problems: list[Problem] = []
    own = [name for name, asked in case.models.items() if asked.traffic is not None]
    for name, asked in case.models.items():
        where = f"models.{name}"
        if asked.own_share < 1 and asked.base is None:
            what = "is a share of what is not in its base, and no base is named"
            problems.append(Problem(f"{where}.own_share", what, "base: NAME"))
        if asked.blocks and asked.base is not None:
            what = "a base is a block that two models share: name it in blocks as well"
            problems.append(Problem(f"{where}.base", what, "blocks alone"))
        if sum(asked.blocks.values()) > 1 + 1e-9:
            what = f"its blocks are {sum(asked.blocks.values()):.0%} of its weights"
            problems.append(Problem(f"{where}.blocks", what, "shares that add up to at most 1"))
        if asked.traffic is not None:
            closed = asked.traffic.concurrency or case.traffic.concurrency
            if closed:
                what = "a closed loop is of one traffic, and there are several"
                problems.append(Problem(f"{where}.traffic", what, "share: a part of the case's"))
            part = case.model_copy(update={"traffic": asked.traffic})
            problems += [Problem(f"{where}.{p.where}", p.what, p.fix) for p in check_traffic(part)]
    if own and len(own) == len(case.models):
        what = "each model has traffic of its own, so nobody asks with the case's"
        problems.append(Problem("traffic", what, f"leave out models.{own[0]}.traffic"))
    return problems


def check_tenants(case: Case) -> list[Problem]:
    """Tenants have traffic and a class that there is, with a goal; classes have tenants."""
    problems: list[Problem] = []
    classes = case.slo.classes
    for name, said in case.tenants.items():
        where = f"tenants.{name}"
        if said.slo is not None and said.slo not in classes:
            what = f"{said.slo!r} is not one of the classes of slo"
            fix = nearest(said.slo, classes) if classes else f"slo.classes.{said.slo}.ttft_s: 1 s"
            problems.append(Problem(f"{where}.slo", what, fix))
        if said.traffic is None:
            continue
        if said.traffic.concurrency or case.traffic.concurrency:
            what = "a closed loop is of one traffic, and there are several"
            problems.append(Problem(f"{where}.traffic", what, "share: a part of the case's"))
        if len(case.models) > 1:
            what = "several models are asked for by the case's traffic, not by a tenant's own"
            problems.append(Problem(f"{where}.traffic", what, "share: a part of the case's"))
        part = case.model_copy(update={"traffic": said.traffic})
        problems += [Problem(f"{where}.{p.where}", p.what, p.fix) for p in check_traffic(part)]
    if case.tenants and all(said.traffic is not None for said in case.tenants.values()):
        what = "each tenant has traffic of its own, so nobody sends the case's"
        fix = f"leave out tenants.{next(iter(case.tenants))}.traffic"
        problems.append(Problem("traffic", what, fix))
    for name, goals in classes.items():
        where = f"slo.classes.{name}"
        if all(getattr(goals, term) is None for term in ("ttft_s", "tpot_s", "itl_s", "e2el_s")):
            problems.append(Problem(where, "is a class without a goal", "ttft_s: 500 ms"))
        if all(said.slo != name for said in case.tenants.values()):
            what = "no tenant is of this class"
            problems.append(Problem(where, what, f"tenants: {{NAME: {{slo: {name}}}}}"))
    return problems
