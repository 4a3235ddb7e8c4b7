"""Which pools there are, and what they serve."""

from __future__ import annotations

import copy

from mechanisms import Case, Mechanism, every_pool


def roles(case: Case, **settings) -> None:
    pools = case["deployment"]["pools"]
    case["deployment"]["pools"] = [
        {**copy.deepcopy(pool), "name": f"{pool['name']}-{role}", "role": role, **settings}
        for pool in pools
        for role in ("prefill", "decode")
    ]


def unequal(case: Case) -> None:
    """One more replica, of another device; a pool that does prompts and answers."""
    pools = case["deployment"]["pools"]
    if all(pool["name"] != "other" for pool in pools):
        other = copy.deepcopy(pools[0]) | {"name": "other", "device": "h200-sxm", "replicas": 1}
        pools.append({k: v for k, v in other.items() if k not in ("role", "stream_kv")})


SHARES = {"a": 0.6, "b": 0.4}


def two_models(case: Case) -> Case:
    return {name: {"model": case["model"], "share": share} for name, share in SHARES.items()}


def models_apart(case: Case) -> None:
    case["models"] = two_models(case)
    pools = case["deployment"]["pools"]
    case["deployment"]["pools"] = [
        {**copy.deepcopy(pool), "name": f"{pool['name']}-{name}", "models": [name]}
        for pool in pools
        for name in SHARES
    ]


def models_in_turn(case: Case) -> None:
    case["models"] = two_models(case)
    for pool in case["deployment"]["pools"]:
        pool |= {"models": list(SHARES), "weights_link": "nvlink4"}


MECHANISMS = [
    Mechanism("roles", roles, slot="roles", first=True),
    Mechanism("streamed KV", lambda case: roles(case, stream_kv=True), slot="roles", first=True),
    Mechanism("unequal pools", unequal, first=True),
    Mechanism("models apart", models_apart, slot="models", first=True),
    Mechanism("models in turn", models_in_turn, slot="models", first=True),
    Mechanism("pipeline stages", every_pool(pp=2), every_pool(pp=1)),
]
