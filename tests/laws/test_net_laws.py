"""Laws of ControlNets that come and go: slots of a replica, its host, and the way to it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from control import drive
from denoising import (
    BRANCHES,
    asked_for,
    denoiser,
    denoising_fleets,
    of_six,
    using,
    with_branches,
)
from denoising import WAYS_OF_NETS as WAYS
from fleets import assert_fields_same, assert_laws, assert_same, serve, troubles
from serving import PS

from forerun.errors import SpecError
from forerun.sim.adapters import Fitting
from forerun.sim.branches import Branching
from forerun.spec.control import Fault
from forerun.spec.deployment import Policy
from forerun.spec.workload import Client

FLEETS = ("text and pixels", "text apart")


def of_fleets(seed, branch, **how):
    for name, pools in denoising_fleets().items():
        if name in FLEETS:
            text = any(one.pool.role == "encode" or one.encoder >= 0 for one in pools)
            requests = asked_for(seed, 40, text=text, ties=seed % 2 == 0, **how)
            yield name, with_branches(pools, branch), of_six(requests, seed)


def assert_netted(a, b):
    """Both tell the same of ControlNets; what was loaded is held, or made room."""
    assert_same(a, b)
    assert a.end_ps == b.end_ps
    np.testing.assert_array_equal(a.branched, b.branched)
    np.testing.assert_array_equal(a.netted, b.netted)
    assert a.netted["n_loads"].sum() > 0


def assert_kept(server, branch):
    """Nobody uses one when all is over; no more are held than there are slots."""
    now = server._state
    slots, netted = now.slots[:, int(now.clock[0].first_net) :], now.netted
    assert not slots["n_using"].any()
    assert not slots["n_waiting"].any()
    np.testing.assert_array_equal((slots["held"] == 1).sum(axis=1), netted["n_held"])
    assert (netted["most_held"] <= branch.slots).all()
    if branch.host_slots:
        assert ((slots["host"] > 0).sum(axis=1) <= branch.host_slots).all()


@pytest.mark.parametrize("way", WAYS)
def test_a_leap_equals_stepping_while_controlnets_come_and_go(way):
    for seed in range(2):
        for _, pools, requests in of_fleets(seed, WAYS[way]):
            leapt, stepped = (serve(requests, pools, seed=3, leap=leap) for leap in (True, False))
            assert_netted(leapt.log_so_far(), stepped.log_so_far())
            assert_laws(leapt, requests)
            assert_kept(leapt, WAYS[way])
            log = leapt.log_so_far()
            assert (log.requests["status"] == 0).all()
            netted = log.netted
            assert (netted["n_loads"] - netted["n_evicted"] == netted["n_held"]).all()
            assert len(log.leaps) < len(stepped.log_so_far().leaps)


@pytest.mark.parametrize("way", WAYS)
def test_a_leap_equals_stepping_whatever_happens_to_a_fleet_whose_controlnets_come(way):
    for seed in range(1, 3):
        for _, pools, requests in of_fleets(seed, WAYS[way]):
            commands = [c for c in troubles(seed, pools) if c[1] not in ("switch", "move")]
            leapt, stepped = (
                serve(requests, pools, commands=commands, leap=leap, seed=3)
                for leap in (True, False)
            )
            assert_netted(leapt.log_so_far(), stepped.log_so_far())
            assert_laws(leapt, requests)
            assert_kept(leapt, WAYS[way])


def test_impatient_clients_leave_no_controlnet_in_use():
    client = Client(first_token_s=0.15, give_up_s=0.4, retries=2, retry_on=("timeout", "failure"),
                    backoff_s=0.02, hedge_s=0.1)  # fmt: skip
    for way, branch in WAYS.items():
        for _, pools, requests in list(of_fleets(5, branch))[:1]:
            leapt, stepped = (
                serve(requests, pools, seed=3, leap=leap, client=client) for leap in (True, False)
            )
            assert_netted(leapt.log_so_far(), stepped.log_so_far())
            assert_kept(leapt, branch)
            assert (leapt.log_so_far().requests["status"] != 0).any(), way


def test_controlnets_and_adapters_come_over_one_link():
    """Both kinds compose; together nothing comes sooner than alone."""
    own = Fitting(
        ranks=np.full(4, 8), load_bytes=np.full(4, 1e5), near_s=np.full(4, 0.03),
        far_s=np.zeros(4), max_adapters=2, n_slots=2,
    )  # fmt: skip
    for way, branch in WAYS.items():
        for seed in range(2):
            base = of_six(asked_for(seed, 40, text=False), seed)
            draw = np.random.default_rng(seed)
            requests = replace(base, adapter=draw.integers(-1, 4, len(base)))
            pools = [
                replace(one, adapters=own) for one in with_branches([denoiser(replicas=2)], branch)
            ]
            leapt, stepped = (serve(requests, pools, seed=3, leap=leap) for leap in (True, False))
            a, b = leapt.log_so_far(), stepped.log_so_far()
            assert_netted(a, b)
            assert_fields_same(a.fitted, b.fitted, but={"rounds"})
            assert_laws(leapt, requests)
            assert_kept(leapt, branch)
            assert (a.fitted["n_loads"] > 0).any(), way
            assert not leapt._state.slots["n_using"].any()


def test_slots_for_all_that_take_no_time_to_fill_give_the_log_of_resident_ones():
    at_once = Branching(6, slots=6)
    for seed in range(2):
        for (_, pools, requests), (_, resident, _) in zip(
            of_fleets(seed, at_once), of_fleets(seed, Branching(6)), strict=True
        ):
            logs = [serve(requests, one, seed=3).log_so_far() for one in (pools, resident)]
            assert logs[0].requests.tobytes() == logs[1].requests.tobytes()
            assert logs[0].leaps.tobytes() == logs[1].leaps.tobytes()
            assert logs[1].netted is None


def test_the_same_seed_gives_the_same_bytes():
    for branch in WAYS.values():
        for _, pools, requests in list(of_fleets(3, branch))[:1]:
            a, b = (serve(requests, pools, seed=3).log_so_far() for _ in range(2))
            assert a.leaps.tobytes() == b.leaps.tobytes()
            assert a.netted.tobytes() == b.netted.tobytes()


def one_after_another(branch, controls, at=None):
    """Requests of 60 tokens and 7 steps on one replica, a second apart; when each ends, in s after
    it was sent, and the log."""
    n = len(controls)
    pools = with_branches([denoiser()], branch)
    requests = replace(
        asked_for(1, n, text=False), arrival_s=np.arange(n) * 1.0 if at is None else at,
        isl=np.full(n, 60), osl=np.full(n, 7), controls=np.array(controls),
        priority=np.zeros(n, dtype=np.int64),
    )  # fmt: skip
    log = serve(requests, pools).log_so_far()
    return (log.requests["done_ps"] - log.requests["arrival_ps"]) / PS, log


def test_a_load_is_waited_for_once_and_the_one_used_longest_ago_makes_room():
    resident, _ = one_after_another(Branching(6), [1, 1])
    took = resident[0]
    for in_step in (False, True):
        two = Branching(6, slots=2, near_s=0.2, in_step=in_step)
        # 0 comes, is there; 1 comes; 0 again; 2 comes for 1; 1 comes again for 0; 2 is there
        spans, log = one_after_another(two, [1, 1, 2, 1, 4, 2, 4])
        assert np.allclose(spans - took, [0.2, 0, 0.2, 0, 0.2, 0.2, 0], atol=1e-9)
        assert log.netted["n_loads"][0] == 4
        assert log.netted["n_evicted"][0] == 2


def test_two_at_once_come_one_after_another_and_from_beyond_the_host_first():
    took = one_after_another(Branching(6), [1])[0][0]
    three = one_after_another(Branching(6), [3])[0][0]
    far = Branching(6, slots=2, host_slots=3, near_s=0.1, far_s=0.25)
    spans, log = one_after_another(far, [3, 4, 1, 8, 2])
    # 0 and 1 from afar; 2 from afar (for 0); 0 from the host (for 1); 3 from afar, so that 1, which
    # the host used longest ago, is there no more: from afar again
    assert np.allclose(spans, [three + 0.7, took + 0.35, took + 0.1, took + 0.35, took + 0.35])
    assert log.netted["n_far"][0] == 5


def test_others_go_on_while_a_request_waits_for_its_controlnets():
    beside = Branching(6, slots=2, near_s=0.5)
    at = np.array([0.0, 0.001])
    spans, _ = one_after_another(beside, [1, 0], at)
    alone = one_after_another(beside, [0])[0][0]
    assert spans[0] > 0.5
    assert spans[1] < alone + 0.05
    spans, _ = one_after_another(replace(beside, in_step=True), [1, 0], at)
    assert spans[1] > 0.5 - 0.001  # it joins a step that waits


def test_who_waits_in_the_queue_has_its_controlnets_fetched_ahead():
    """Three requests of 110 tokens do not share a step of 200: the second waits for the first."""

    def ends(branch):
        n = 2
        requests = replace(
            asked_for(1, n, text=False), arrival_s=np.zeros(n), isl=np.full(n, 110),
            osl=np.full(n, 12), controls=np.array([0, 1]), priority=np.zeros(n, dtype=np.int64),
        )  # fmt: skip
        return serve(requests, with_branches([denoiser()], branch)).log_so_far().end_ps / PS

    first = Branching(6, slots=1)
    took = ends(first)
    hidden = ends(replace(first, near_s=0.02))
    assert abs(hidden - took) < 1e-9
    assert abs(ends(replace(first, near_s=0.02, in_step=True)) - took - 0.02) < 1e-9


def test_slower_loads_or_fewer_slots_never_make_fewer_bytes_come_to_one_replica_by_lru():
    """LRU has the inclusion property where requests come one by one: more slots, fewer loads."""
    draw = np.random.default_rng(4)
    controls = [1 << int(k) for k in draw.integers(0, 6, 60)]
    loads = [
        int(one_after_another(Branching(6, slots=n, near_s=0.01), controls)[1].netted["n_loads"][0])
        for n in (1, 2, 3, 4, 6)
    ]
    assert loads == sorted(loads, reverse=True)
    assert loads[-1] == 6


def test_stragglers_and_upgrades_go_with_controlnets_that_come():
    slow = Fault(
        effect="slow", process=Policy(name="listed"), at_s=(0.1,), mttr_s=0.6, factor=3,
        pool="d", replicas=(0,),
    )  # fmt: skip
    for branch in WAYS.values():
        pools = with_branches(denoising_fleets()["text and pixels"], branch)
        requests = of_six(asked_for(1, 40), 1)
        found = [
            drive(requests, pools, faults=(slow,), seed=3, leap=leap) for leap in (True, False)
        ]
        assert_netted(*(one.log() for one in found))


def test_a_router_that_looks_sends_requests_where_their_controlnets_are():
    def loads(route):
        pools = with_branches([denoiser(replicas=3)], Branching(6, slots=2, near_s=0.2))
        requests = of_six(asked_for(2, 120, text=False, rate=12.0), 2, most=1)
        log = serve(requests, pools, route=Policy(name=route)).log_so_far()
        return int(log.netted["n_loads"].sum())

    assert loads("near_adapter") < 0.7 * loads("round_robin")


def test_more_controlnets_of_a_request_than_slots_are_told():
    requests = replace(asked_for(1, 2, text=False), controls=np.array([7, 1]))
    with pytest.raises(SpecError, match="3 ControlNets at once, and replicas have slots for 2"):
        serve(requests, with_branches([denoiser()], Branching(6, slots=2)))


def test_resident_ones_on_devices_of_their_own_have_no_slots():
    requests = using(asked_for(1, 20, text=False), 1)
    log = serve(requests, with_branches([denoiser()], BRANCHES["apart"])).log_so_far()
    assert log.netted is None
