"""Checks of a case that cross its parts; each returns problems whose `where` is a dotted path."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from forerun.errors import Problem, SpecError, nearest
from forerun.spec.case import Case, Group
from forerun.spec.check_control import check_control
from forerun.spec.deployment import Pool


def check_case(case: Case) -> list[Problem]:
    """Everything in the case that contradicts something else in it."""
    changes = []
    if case.deployment is not None:
        changes = check_control(case.deployment.pools, case.faults)
    return [*check_traffic(case), *check_fleet(case), *check_pools(case), *changes]


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
            per = pool.devices_per_replica
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
