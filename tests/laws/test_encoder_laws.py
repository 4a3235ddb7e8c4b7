"""Laws of requests with images: encoders in front of the model, and on pools of their own."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from fleets import assert_laws, assert_same, fleets, pool, serve, sharing, troubles
from seeing import encoder, in_front, looking, seeing_fleets
from serving import PS, table, workload

from forerun.errors import SpecError
from forerun.spec.deployment import Policy
from forerun.spec.requests import Requests


def disturbed(seed, pools):
    """Random commands; replicas that encode switch to nothing."""
    roles = [one.pool.role for one in pools for _ in range(one.pool.replicas)]
    out = []
    for time_s, verb, i, value in troubles(seed, pools):
        if verb == "switch":
            if roles[i] == "encode":
                continue
            alike = [p for p, one in enumerate(pools) if one.pool.role != "encode"]
            value = alike[value % len(alike)]
        out.append((time_s, verb, i, value))
    return out


@pytest.mark.parametrize("route", ["least_outstanding", "round_robin", "prefix_aware"])
def test_a_leap_equals_stepping_with_images(route):
    for seed in range(4):
        requests = looking(seed, 60, isl=60, ties=seed % 2 == 0)
        for pools in seeing_fleets().values():
            leapt, stepped = (
                serve(requests, pools, leap=leap, seed=3, route=Policy(name=route))
                for leap in (True, False)
            )
            log = assert_laws(leapt, requests)
            assert_same(log, stepped.log_so_far())
            assert (log.requests["status"] == 0).all()


def test_a_leap_equals_stepping_with_images_whatever_happens_to_the_fleet():
    retried = 0
    for seed in range(6):
        requests = looking(seed, 60, isl=60, ties=seed % 2 == 0)
        for pools in seeing_fleets().values():
            commands = disturbed(seed, pools)
            leapt, stepped = (
                serve(requests, pools, commands=commands, leap=leap, seed=3)
                for leap in (True, False)
            )
            log = assert_laws(leapt, requests)
            assert_same(log, stepped.log_so_far())
            retried += log.requests["n_retries"].sum()
    assert retried > 30
