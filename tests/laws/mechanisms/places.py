"""Where clients and replicas are."""

from __future__ import annotations

import copy

from mechanisms import Case, Mechanism


def regions(case: Case) -> None:
    """The first replicas of each pool in one region, one more of each in another."""
    if "regions" in case:
        return
    case["regions"] = {"near": {"share": 2}, "far": {"share": 1, "rtt_s": {"near": "60 ms"}}}
    pools = []
    for pool in case["deployment"]["pools"]:
        pools.append(pool | {"region": "near"})
        other = {"name": f"{pool['name']}-far", "replicas": 1, "region": "far"}
        pools.append(copy.deepcopy(pool) | other)
    case["deployment"]["pools"] = pools


def nearest(case: Case) -> None:
    regions(case)
    case["deployment"]["route"] = {"name": "nearest", "params": {"spill": 6}}


MECHANISMS = [
    Mechanism("regions", regions, first=True),
    Mechanism("the nearest region", nearest, slot="route", first=True),
]
