"""Laws of devices with two lanes that open, close and fail, and whose requests move."""

from __future__ import annotations

import numpy as np
import pytest
from fleets import assert_steps_like_leaps, pool, serve, sharing, troubles
from flows import woven
from serving import PS
from sharing_devices import LINK, devices, lanes

from forerun.errors import SpecError
from forerun.sim.check import check_roles
from forerun.sim.serve import Server
from forerun.spec.requests import Requests
from forerun.spec.workload import Client

VERBS = ("open", "close", "fail", "move", "link")


def struck(seed, pools):
    """Random commands to any lane."""
    verbs = (*VERBS, "open", "open", "move", "move", "move")
    values = {"move": 3, "link": 300_000}
    return troubles(seed, pools, n=30, until_s=1.0, verbs=verbs, values=values)


def asked(seed, n=60):
    """Requests that share prefixes; some of them wait for others."""
    requests = sharing(seed, n, isl=60, ties=seed % 2 == 0, rate=80)
    return woven(requests, seed) if seed % 3 == 2 else requests


@pytest.mark.parametrize("name", devices())
def test_a_leap_equals_stepping_whatever_happens_to_devices_with_two_lanes(name):
    pools = devices()[name]
    failed = moved = 0
    for seed in range(6):
        commands = struck(seed, pools)
        log = assert_steps_like_leaps(asked(seed), pools, commands=commands)
        assert log.n_unfinished == 0
        failed += log.replicas["n_failed"].sum()
        moved += log.replicas["n_moved"].sum()
    assert failed > 6
    assert moved > 8


@pytest.mark.parametrize(
    "client",
    [
        Client(first_token_s=0.06, retries=2, retry_on=("timeout", "failure"), backoff_s=0.02),
        Client(give_up_s=0.4, hedge_s=0.02),
    ],
)
def test_a_leap_equals_stepping_when_devices_fail_and_clients_go_away(client):
    for seed in range(4):
        for name in ("two", "beside prompts"):
            pools = devices()[name]
            commands = struck(seed, pools)
            assert_steps_like_leaps(asked(seed), pools, commands=commands, client=client)


def test_either_lane_takes_the_other_one_with_it():
    again = 0
    for seed in range(4):
        pools = lanes(replicas=2, bytes_per_s=LINK)
        ends = [(2.0, "open", i, 0) for i in range(4)]
        logs = [
            serve(asked(seed), pools, commands=[(0.3, "fail", i, 0), *ends]).log_so_far()
            for i in (1, 3)  # partners
        ]
        again += logs[0].requests["n_retries"].sum()
        for rows in ("requests", "leaps", "gaps", "replicas"):
            assert getattr(logs[0], rows).tobytes() == getattr(logs[1], rows).tobytes()
        assert logs[0].replicas["n_failed"].tolist() == [0, 0, 0, 1]
    assert again > 3


def test_nothing_is_left_on_a_device_that_failed_and_steps_that_ended_count():
    """At 0.03 s an answer of 40 tokens is under way, and a prompt of 60, in its first step."""
    pair = Requests(np.array([0.0, 0.0295]), np.array([8, 60]), np.array([40, 5]))
    server = Server(lanes(n_blocks=60), n_requests=2)
    server.inject(pair)
    server.command(0.03, "fail", 0)
    server.advance(0.03)
    state = server._state
    for name in ("n_blocks", "n_running", "n_steps", "accepts"):
        assert not state.replicas[name].any(), name
    ended = server.log_so_far().leaps
    plain = serve(pair, lanes(n_blocks=60), leap=False).log_so_far().leaps
    n_ended = (plain["start_ps"] + plain["first_ps"] <= 3 * PS // 100).sum()
    assert ended["n_steps"].sum() == n_ended > 3
    for i in (0, 1):
        server.command(0.1, "open", i)
    server.advance()
    rows = server.log_so_far().requests
    assert rows["n_retries"].tolist() == [1, 1]
    assert rows["recomputed"].tolist() == [8 + n_ended - 1, 0]


def test_a_lane_keeps_to_its_pool():
    server = Server([*lanes(), pool(name="other")])
    with pytest.raises(SpecError, match="stay together"):
        server.command(0.0, "switch", 0, 4)
    with pytest.raises(SpecError, match="stay together"):
        server.command(0.0, "switch", 0, 2)


def test_lanes_that_take_kv_from_elsewhere_need_a_link():
    with pytest.raises(SpecError, match="no network link") as told:
        check_roles([*lanes(), pool("prefill", "p")])
    assert [p.where for p in told.value.problems] == ["deployment.pools.g.link"]
    check_roles([*lanes(bytes_per_s=LINK), pool("prefill", "p")])
