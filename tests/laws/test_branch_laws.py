"""Laws of ControlNets: branches beside the denoiser that some requests use."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from control import drive
from denoising import BRANCHES, asked_for, denoiser, denoising_fleets, using, with_branches
from fleets import assert_laws, assert_same, serve, troubles
from serving import PS

from forerun.errors import SpecError
from forerun.sim.branches import Branching
from forerun.sim.core.branches import waits_ps
from forerun.spec.control import Fault
from forerun.spec.deployment import Policy

FLEETS = ("text and pixels", "text apart", "two speeds")


def of_fleets(seed, branch, **how):
    """Every fleet with ControlNets, with requests that it takes."""
    for name, pools in denoising_fleets().items():
        if name not in FLEETS:
            continue
        text = any(one.pool.role == "encode" or one.encoder >= 0 for one in pools)
        requests = asked_for(seed, 40, text=text, ties=seed % 2 == 0, **how)
        yield name, with_branches(pools, branch), using(requests, seed)


def assert_branched(leapt, stepped):
    a, b = leapt.log_so_far(), stepped.log_so_far()
    assert_same(a, b)
    np.testing.assert_array_equal(a.branched, b.branched)
    assert a.branched["n_steps"].sum() > 0
    assert (a.branched["busy_ps"] <= a.branched["n_steps"] * (1 << 40)).all()
    return a


@pytest.mark.parametrize("where", BRANCHES)
def test_a_leap_equals_stepping_while_requests_use_controlnets(where):
    for seed in range(2):
        for _, pools, requests in of_fleets(seed, BRANCHES[where]):
            leapt, stepped = (serve(requests, pools, seed=3, leap=leap) for leap in (True, False))
            log = assert_branched(leapt, stepped)
            assert_laws(leapt, requests)
            assert (log.requests["status"] == 0).all()
            assert len(log.leaps) < len(stepped.log_so_far().leaps)


def test_a_leap_equals_stepping_whatever_happens_to_a_fleet_with_controlnets():
    for seed, branch in enumerate(BRANCHES.values()):
        for _, pools, requests in of_fleets(seed, branch):
            commands = [c for c in troubles(seed, pools) if c[1] not in ("switch", "move")]
            leapt, stepped = (
                serve(requests, pools, commands=commands, leap=leap, seed=3)
                for leap in (True, False)
            )
            assert_branched(leapt, stepped)
            assert_laws(leapt, requests)


def test_stragglers_slow_branches_as_well():
    slow = Fault(
        effect="slow", process=Policy(name="listed"), at_s=(0.1,), mttr_s=0.6, factor=3,
        pool="d", replicas=(0,),
    )  # fmt: skip
    for where, branch in BRANCHES.items():
        if branch.shared is not None:  # the devices of others are not slow
            continue
        pools = with_branches(denoising_fleets()["text and pixels"], branch)
        requests = using(asked_for(1, 40), 1)
        plain = serve(requests, pools, seed=3).log_so_far()
        found = [
            drive(requests, pools, faults=(slow,), seed=3, leap=leap) for leap in (True, False)
        ]
        logs = [one.log() for one in found]
        assert_same(*logs)
        np.testing.assert_array_equal(logs[0].branched, logs[1].branched)
        rows = found[0].server.pools
        own = [one for one in rows if one.pool.name == "d x 3"]
        assert [rows[one.branch.row].pool.name for one in own] == ["controlnet x 3"], where
        assert logs[0].branched["busy_ps"].sum() > plain.branched["busy_ps"].sum(), where


@pytest.mark.parametrize("where", BRANCHES)
def test_nobody_uses_a_controlnet_and_the_log_is_that_of_the_denoiser_alone(where):
    for name, pools in denoising_fleets().items():
        text = any(one.pool.role == "encode" or one.encoder >= 0 for one in pools)
        requests = asked_for(4, 40, text=text)
        plain = serve(requests, pools, seed=3).log_so_far()
        none = replace(requests, controls=np.zeros(len(requests), dtype=np.int64))
        beside = serve(none, with_branches(pools, BRANCHES[where]), seed=3).log_so_far()
        assert plain.requests.tobytes() == beside.requests.tobytes(), name
        assert plain.leaps.tobytes() == beside.leaps.tobytes(), name
        assert not beside.branched["n_steps"].any()


def test_the_same_seed_gives_the_same_bytes():
    for branch in BRANCHES.values():
        for _, pools, requests in of_fleets(3, branch):
            a, b = (serve(requests, pools, seed=3).log_so_far() for _ in range(2))
            assert a.leaps.tobytes() == b.leaps.tobytes()
            assert a.branched.tobytes() == b.branched.tobytes()


def one_request(branch, controls):
    """A request of 60 tokens and 7 steps alone: its step without ControlNets, its branch, the log.
    In picoseconds."""
    pools = with_branches([denoiser()], branch)
    requests = replace(
        asked_for(1, 1, text=False), arrival_s=np.zeros(1), isl=np.array([60]),
        osl=np.array([7]), controls=np.array([controls]),
    )  # fmt: skip
    log = serve(requests, pools).log_so_far()
    trunk, net = (
        c.tokens[60] + c.prefill[60, 0] + c.seqs[1]
        for c in (one.table.time_s for one in pools)
    )  # fmt: skip
    host = pools[0].table.host_step_s + pools[0].table.host_seq_s
    return trunk * PS, net * PS, host * PS, log


def test_beside_the_denoiser_each_branch_adds_its_time_to_the_step():
    for controls, n in ((0, 0), (1, 1), (5, 2), (7, 3)):
        trunk, net, host, log = one_request(BRANCHES["beside"], controls)
        assert abs(log.end_ps - 7 * (trunk + host + n * net)) < 50
        if n:
            assert log.branched["n_steps"][0] == 7
            assert abs(int(log.branched["busy_ps"][0]) - 7 * n * net) < 50


def test_apart_the_denoiser_waits_only_for_what_has_not_come():
    at_once = Branching(3, devices=3, blocks=4, ahead=1.0, each=0.0)
    trunk, net, host, log = one_request(at_once, 1)
    assert net <= trunk
    assert abs(log.end_ps - 7 * (trunk + host)) < 50  # it is added at the end, and was there
    at_end = Branching(3, devices=3, blocks=4)  # all is due when the step begins
    trunk, net, host, log = one_request(at_end, 7)
    assert abs(log.end_ps - 7 * (trunk + host + net)) < 100
    one = Branching(3, devices=1, blocks=4)
    trunk, net, host, log = one_request(one, 7)
    assert abs(log.end_ps - 7 * (trunk + host + 3 * net)) < 100


def test_the_wait_is_the_most_over_all_blocks():
    class Engine:
        pass

    plain = getattr(waits_ps, "py_func", waits_ps)
    draw = np.random.default_rng(5)
    waited = 0
    for _ in range(400):
        engine = Engine()
        m = engine.branch_blocks = int(draw.integers(1, 20))
        engine.residual_ps, engine.latent_ps = (int(draw.integers(0, 200)) for _ in range(2))
        engine.branch_trip_ps = int(draw.integers(0, 100_000))
        engine.branch_ahead, engine.branch_each = draw.uniform(0, 1 / m, 2)
        trunk, block = int(draw.integers(1, 10**8)), int(draw.integers(1, 10**7))
        tokens, sent = int(draw.integers(1, 5000)), int(draw.integers(1, 10_000))
        begins = tokens * engine.latent_ps + engine.branch_trip_ps
        came = waits = 0
        for j in range(m):
            came = max(came, begins + (j + 1) * block) + sent * engine.residual_ps
            due = trunk * (engine.branch_ahead + j * engine.branch_each)
            waits = max(waits, came + engine.branch_trip_ps - due)
        assert abs(plain(engine, trunk, m * block, begins, sent) - waits) <= 2
        waited += waits > 0
    assert 50 < waited < 400


def test_a_slower_link_or_fewer_devices_never_make_a_step_shorter():
    ends = []
    for factor in (0.0, 1.0, 10.0, 100.0):
        base = BRANCHES["a slow link"]
        slow = replace(base, residual_s=base.residual_s * factor, trip_s=base.trip_s * factor)
        ends.append(one_request(slow, 7)[-1].end_ps)
    assert ends == sorted(ends)
    assert ends[0] < ends[-1]
    many = [one_request(replace(BRANCHES["apart"], devices=n), 7)[-1].end_ps for n in (1, 2, 3)]
    assert many[0] > many[1] >= many[2]


# -- devices that replicas share ------------------------------------------------------------------


def test_one_replica_shares_its_devices_with_nobody():
    for where in ("apart", "two devices", "a slow link"):
        own = BRANCHES[where]
        requests = using(asked_for(5, 40, text=False), 5)
        logs = [
            serve(requests, with_branches([denoiser()], branch), seed=3).log_so_far()
            for branch in (own, replace(own, shared="d"))
        ]
        assert logs[0].requests.tobytes() == logs[1].requests.tobytes()
        assert logs[0].replicas.tobytes() == logs[1].replicas.tobytes()
        assert logs[0].branched.tobytes() == logs[1].branched.tobytes()
        assert len(logs[0].leaps) < len(logs[1].leaps)


def many(n, branch, *, controls=1, osl=1, gap_s=0.0):
    """n replicas with a request each, gap_s apart; when each is done, and the log."""
    pools = with_branches([denoiser(replicas=n)], branch)
    requests = replace(
        asked_for(1, n, text=False), arrival_s=np.arange(n) * gap_s, isl=np.full(n, 60),
        osl=np.full(n, osl), controls=np.full(n, controls), priority=np.zeros(n, dtype=np.int64),
    )  # fmt: skip
    log = serve(requests, pools, route=Policy(name="round_robin")).log_so_far()
    return log.requests["done_ps"] / PS, log


def test_who_comes_later_to_a_shared_device_waits_for_those_before():
    # what is added is due as the step begins, so that each waits for all of its branch
    one = Branching(3, devices=1, shared="d", blocks=4)
    alone = many(1, one)[0][0]
    branch = many(1, one)[1].branched["busy_ps"][0] / PS
    assert np.allclose(many(3, one)[0], alone + np.arange(3) * branch, atol=1e-9)
    # those that begin a branch's time apart never meet
    assert np.allclose(
        many(3, one, gap_s=branch)[0], alone + np.arange(3) * branch, atol=1e-9
    )  # fmt: skip
    # each its own device: the k-th branch is on device k mod 3, and all use the first
    three = replace(one, devices=3)
    assert np.allclose(many(3, three)[0], many(3, one)[0])
    assert many(3, three, controls=7)[0][-1] < many(3, one, controls=7)[0][-1]


def test_a_shared_device_is_never_busy_for_longer_than_the_run_takes():
    for n in (1, 2, 4, 8):
        for devices in (1, 2):
            shared = replace(BRANCHES["shared"], devices=devices)
            pools = with_branches([denoiser(replicas=n)], shared)
            log = serve(using(asked_for(n, 60, text=False), n), pools, seed=3).log_so_far()
            assert log.branched["busy_ps"].sum() <= devices * log.end_ps


def test_more_replicas_on_one_device_wait_longer_and_more_devices_less():
    added = [
        many(n, BRANCHES["shared"], controls=7, osl=6)[1].branched["added_ps"].sum() / n
        for n in (1, 2, 4, 8)
    ]
    assert added == sorted(added)
    assert added[0] < added[-1]
    fewer = [
        many(6, replace(BRANCHES["shared"], devices=n), controls=7, osl=6)[1].end_ps
        for n in (1, 2, 3)
    ]
    assert fewer == sorted(fewer, reverse=True)


def test_who_uses_a_controlnet_that_no_pool_has_is_told():
    requests = replace(asked_for(1, 3, text=False), controls=np.array([0, 8, 1]))
    for pools in ([denoiser()], with_branches([denoiser()], BRANCHES["beside"])):
        with pytest.raises(SpecError, match="ControlNets up to number 3"):
            serve(requests, pools)
