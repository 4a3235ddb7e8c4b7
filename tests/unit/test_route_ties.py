"""Routers that weigh replicas: of equal ones the least outstanding, then the first."""

from __future__ import annotations

import numpy as np
import pytest

from forerun.sim.core import signatures as fields
from forerun.sim.core.rows_request import LIVE
from forerun.sim.core.state import rows
from forerun.sim.policy import find
from forerun.spec.deployment import Policy

REQUEST = rows(1, LIVE)
REQUEST.adapter = -1


def chosen(name, params, **columns):
    """The column that a router picks of a load with these rows, the others all alike."""
    n = len(next(iter(columns.values())))
    load = np.zeros((fields.LOAD_FIELDS, n), dtype=np.int64)
    load[fields.SPEED] = 1000
    load[fields.KV_CAPACITY] = 100
    load[fields.REPLICA] = np.arange(n)
    for row, values in columns.items():
        load[getattr(fields, row)] = values
    found = find("route", Policy(name=name, params=params))
    memory = np.zeros(fields.MEMORY + n, dtype=np.int64)
    rng = np.zeros(1, dtype=np.uint64)
    return int(found.compiled()(REQUEST[0], load, found.params, memory, rng))


TIES = [
    # as much to do where the weights are as where they would be loaded first
    (
        "prefers_loaded",
        {"load_requests": 3},
        {"OUTSTANDING": [5, 4, 2, 2], "TO_LOAD": [0, 1, 1, 1]},
    ),
    ("near_adapter", {"load_requests": 3}, {"OUTSTANDING": [5, 4, 2, 2], "TO_LOAD": [0, 1, 1, 1]}),
    # only the prefix counts, and nobody has it
    ("prefix_aware", {"load_tokens": 0}, {"OUTSTANDING": [3, 5, 2, 2]}),
    ("fastest_free", {}, {"OUTSTANDING": [3, 3, 1, 1], "SPEED": [1000, 1000, 500, 500]}),
    # all are full
    ("freest", {}, {"OUTSTANDING": [3, 5, 2, 2], "KV_BLOCKS": [100] * 4}),
    ("least_outstanding", {}, {"OUTSTANDING": [3, 5, 2, 2]}),
    ("nearest", {}, {"OUTSTANDING": [3, 5, 2, 2]}),
    ("cheapest", {}, {"OUTSTANDING": [3, 5, 2, 2]}),
    ("greenest", {}, {"OUTSTANDING": [3, 5, 2, 2]}),
]


@pytest.mark.parametrize(("name", "params", "columns"), TIES, ids=[one[0] for one in TIES])
def test_of_equal_replicas_the_least_outstanding_is_chosen_then_the_first(name, params, columns):
    assert chosen(name, params, **columns) == 2
    idle = {row: [0] * 4 if row == "OUTSTANDING" else [values[0]] * 4
            for row, values in columns.items()}  # fmt: skip
    assert chosen(name, params, **idle) == 0
