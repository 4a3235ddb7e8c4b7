"""What contradicts itself in a case's regions, told before a run."""

from __future__ import annotations

from forerun import units
from forerun.errors import Problem, nearest
from forerun.spec.case import Case
from forerun.spec.regions import one_way_s
from forerun.spec.workload import Traffic

LATENCY_POLICIES = ("nearest", "cheapest", "greenest")


def check_regions(case: Case) -> list[Problem]:
    """Pools are in regions that there are, clients live somewhere, distances are known."""
    out = []
    pools = case.deployment.pools if case.deployment is not None else ()
    names = list(case.regions)
    for i, pool in enumerate(pools):
        where = f"deployment.pools.{i}.region"
        if pool.region is not None and pool.region not in names:
            what = f"{pool.region!r} is not one of the case's regions"
            fix = nearest(pool.region, names) if names else f"regions: {{{pool.region}: {{}}}}"
            out.append(Problem(where, what, fix))
        elif pool.region is None and names:
            out.append(Problem(where, "is missing: the case has regions", f"region: {names[0]}"))
    if not names:
        return out + _unread(case)
    if not any(region.share for region in case.regions.values()):
        out.append(Problem("regions", "nobody lives in any of them", f"{names[0]}: {{share: 1}}"))
    for name, region in case.regions.items():
        for other in region.rtt_s:
            if other not in names:
                what = f"{other!r} is not one of the case's regions"
                out.append(Problem(f"regions.{name}.rtt_s", what, nearest(other, names)))
        if region.ahead_s and not any(one.arrivals == "diurnal" for one in _traffics(case)):
            what = f"is {units.show(region.ahead_s, 'time')}, and only diurnal arrivals have a day"
            out.append(Problem(f"regions.{name}.ahead_s", what, "arrivals: diurnal"))
    out += _distances(case, [pool.region for pool in pools if pool.region in names])
    if case.traffic.concurrency:
        what = "a closed loop's clients are in no region"
        out.append(Problem("traffic.concurrency", what, "rate_per_s, or no regions"))
    return out


def _traffics(case: Case) -> list[Traffic]:
    """The case's traffic, and what models and tenants have of their own."""
    own = [said.traffic for said in case.models.values()]
    own += [said.traffic for said in case.tenants.values()]
    return [case.traffic, *(one for one in own if one is not None)]


def _distances(case: Case, there: list) -> list[Problem]:
    lived = [name for name, region in case.regions.items() if region.share] + there
    missing = {
        tuple(sorted((a, b)))
        for a in lived for b in there
        if one_way_s(case.regions, a, b) is None
    }  # fmt: skip
    return [
        Problem(
            f"regions.{a}", f"how far it is to {b} is not said",
            f"rtt_s: {{{b}: 80 ms}}, or `at` (degrees north and east) of both",
        )
        for a, b in sorted(missing)
    ]  # fmt: skip


def _unread(case: Case) -> list[Problem]:
    """Routers that look at what only regions have."""
    if case.deployment is None:
        return []
    return [
        Problem(f"deployment.{kind}", f"{policy.name} compares regions, and the case has none",
                "regions: {...}, or another router")
        for kind, policy in (("route", case.deployment.route), ("place", case.deployment.place))
        if policy.name in LATENCY_POLICIES
    ]  # fmt: skip
