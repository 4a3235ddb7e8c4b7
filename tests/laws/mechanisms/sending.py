"""Who is let in, who goes where, who comes first."""

from __future__ import annotations

import dataclasses

import numpy as np

from forerun.spec.requests import Requests
from mechanisms import Mechanism, engines, part
from mechanisms.fleet import unequal


def sessions(requests: Requests) -> Requests:
    draw = np.random.default_rng(6)
    return dataclasses.replace(requests, session=draw.integers(-1, 4, len(requests)))


def classes(requests: Requests) -> Requests:
    draw = np.random.default_rng(7)
    n = len(requests)
    return dataclasses.replace(
        requests, priority=draw.integers(0, 3, n), tenant=draw.integers(0, 2, n)
    )


def deadlines(requests: Requests) -> Requests:
    draw = np.random.default_rng(8)
    return dataclasses.replace(requests, deadline_s=draw.uniform(0.2, 3.0, len(requests)))


def policy(name, **params):
    return {"name": name, "params": params}


def route(name, **params):
    return part("deployment", route=policy(name, **params))


def gate(name, **params):
    return part("deployment", gate=policy(name, **params))


def fair(case):
    case["tenants"] = {"a": {"weight": 2, "share": 2}, "b": {}}
    engines(order="vtc")(case)


def fair_to_one(case):
    case["tenants"] = {"a": {}}
    engines(order="vtc")(case)


def by_speed(case):
    unequal(case)
    route("fastest_free")(case)


MECHANISMS = [
    Mechanism("round robin", route("round_robin"), route("least_outstanding"), slot="route"),
    Mechanism("two choices", route("power_of_two"), route("least_outstanding"), slot="route"),
    Mechanism("prefix routing", route("prefix_aware"), slot="route"),
    Mechanism("sticky sessions", route("session_sticky"), column=sessions, slot="route"),
    Mechanism("routing by speed", by_speed, slot="route", first=True),
    Mechanism("token buckets", gate("token_bucket", per_s=4000, burst=2000),
              gate("token_bucket", per_s=1e9, burst=1e9), column=classes, slot="gate"),
    Mechanism("short queues only", gate("short_queue", waiting=1), gate("short_queue", waiting=1e9),
              slot="gate"),
    Mechanism("feasible deadlines", gate("feasible", tokens_per_s=2000), gate("everyone"),
              column=deadlines, slot="gate"),
    Mechanism("priorities", engines(order="priority", preempt="lowest_priority", n_blocks=80),
              column=classes, slot="order"),
    Mechanism("deadlines first", engines(order="earliest_deadline"), column=deadlines,
              slot="order"),
    Mechanism("fair queueing", fair, fair_to_one, slot="order"),
]  # fmt: skip
