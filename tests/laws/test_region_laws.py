"""Laws of fleets in several regions: the way there, the way back, who is chosen, who steps in."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from fleets import assert_laws, assert_same, both_ways, fleets, serve, sharing, troubles
from flows import woven
from serving import PS, workload

from forerun.errors import SpecError
from forerun.sim.serve import Server
from forerun.spec.deployment import Policy
from forerun.spec.regions import Region, great_circle_m, one_way_s
from forerun.spec.requests import Requests
from forerun.spec.traces.regional import summed, with_regions
from forerun.spec.workload import Client, Traffic

WAYS = ((0.0, 0.04, 0.11), (0.04, 0.0, 0.07), (0.11, 0.07, 0.0))
ROUTES = ("least_outstanding", "nearest", "cheapest", "greenest", "prefix_aware", "random")


def abroad(kind="one"):
    """The fleets of the other laws, replica for replica spread over three regions."""
    out = []
    for k, one in enumerate(fleets()[kind]):
        for n in range(one.pool.replicas):
            pool = one.pool.model_copy(update={"replicas": 1, "name": f"{one.pool.name}{n}"})
            g = (k + n) % 3
            out.append(
                replace(
                    one, pool=pool, region=g, usd_per_hour=3.0 - g, gco2e_per_kwh=(100, 20, 300)[g]
                )
            )
    return out


def here(pools):
    """The same replicas in one place."""
    return [replace(one, region=0) for one in pools]


def from_everywhere(requests, seed=0):
    draw = np.random.default_rng(seed + 3)
    return replace(requests, region=draw.integers(0, 3, len(requests)))


def ways(log, requests, pools):
    """One way of each request, picoseconds."""
    at = np.array([pools[p].region for p in log.pool_of_replica])
    return np.rint(np.array(WAYS)[requests.region, at[log.requests["replica"]]] * PS)


@pytest.mark.parametrize("route", ROUTES)
def test_a_leap_equals_stepping_and_nothing_is_lost_on_the_way(route):
    for seed in range(4):
        requests = from_everywhere(sharing(seed, 60, isl=60, ties=seed % 2 == 0), seed)
        for kind in fleets():
            pools = abroad(kind)
            commands = [c for c in troubles(seed, pools) if c[1] != "switch"] if seed else []
            leapt = both_ways(
                serve, requests, pools, commands=commands, seed=3, way_s=WAYS,
                route=Policy(name=route),
            )  # fmt: skip
            log = assert_laws(leapt, requests)
            assert log.end_ps >= log.requests["done_ps"].max()


def test_a_leap_equals_stepping_with_clients_that_hedge_and_workflows_across_regions():
    client = Client(hedge_s=0.15, give_up_s=1.5, retries=2, retry_on=("timeout", "failure"))
    for seed in range(4):
        requests = from_everywhere(sharing(seed, 60, isl=60, rate=60), seed)
        if seed % 2:
            requests = woven(requests, seed)
        for kind in ("one", "split"):
            commands = [c for c in troubles(seed, abroad(kind)) if c[1] != "switch"]
            leapt = both_ways(
                serve, requests, abroad(kind), commands=commands, way_s=WAYS, client=client
            )
            rows = leapt.log_so_far().requests
            assert len(np.unique(rows["request"])) == len(rows)


def test_regions_next_door_write_the_log_of_one_place():
    requests = from_everywhere(sharing(1, 60, isl=60))
    for kind in fleets():
        near = serve(requests, abroad(kind), way_s=np.zeros((3, 3))).log_so_far()
        assert_same(near, serve(requests, here(abroad(kind))).log_so_far())


def test_nobody_has_a_token_before_the_way_there_and_back():
    requests = from_everywhere(workload(2, 80))
    log = serve(requests, abroad(), way_s=WAYS).log_so_far()
    rows, way = log.requests, ways(log, requests, abroad())
    assert (rows["scheduled_ps"] >= rows["arrival_ps"] + way).all()
    assert (rows["first_token_ps"] > rows["scheduled_ps"] + way).all()
    assert (way > 0).any()


def test_an_idle_fleet_answers_one_round_trip_later_than_next_door():
    one = Requests(np.array([0.0]), np.array([32]), np.array([5]), region=np.array([2]))
    pools = abroad()[:1]
    far = serve(one, pools, way_s=WAYS).log_so_far().requests[0]
    near = serve(one, here(pools)).log_so_far().requests[0]
    for name, trips in (("scheduled_ps", 1), ("first_token_ps", 2), ("done_ps", 2)):
        assert far[name] - near[name] == trips * round(0.11 * PS)


def test_the_nearest_is_chosen_until_it_is_full_and_the_next_one_when_it_fails():
    n = 30
    at_once = Requests(np.zeros(n), np.full(n, 32), np.full(n, 20), region=np.zeros(n, dtype=int))
    nearest = Policy(name="nearest")
    log = serve(at_once, abroad(), way_s=WAYS, route=nearest).log_so_far()
    assert set(log.requests["replica"]) == {0}
    spill = Policy(name="nearest", params={"spill": 10})
    log = serve(at_once, abroad(), way_s=WAYS, route=spill).log_so_far()
    assert np.bincount(log.requests["replica"]).tolist() == [10, 10, 10]
    down = [(0.05, "fail", 0, 0)]
    log = serve(at_once, abroad(), way_s=WAYS, route=nearest, commands=down).log_so_far()
    assert set(log.requests["replica"][log.requests["n_retries"] > 0]) == {1}
    assert (log.requests["status"] == 0).all()


def test_a_request_that_finds_its_replica_gone_goes_on_to_another_one():
    one = Requests(np.array([0.0]), np.array([32]), np.array([5]), region=np.array([1]))
    gone = [(0.02, "close", 0, 0)]
    cheap = Policy(name="cheapest")  # replica 2 costs least and is 0.07 away
    log = serve(one, abroad(), way_s=WAYS, route=cheap, commands=[(0.02, "close", 2, 0)])
    row = log.log_so_far().requests[0]
    assert row["replica"] == 1
    assert row["scheduled_ps"] == round(0.07 * PS)  # it comes back to where its client is
    log = serve(one, abroad(), way_s=WAYS, route=cheap, commands=gone).log_so_far()
    assert log.requests["replica"][0] == 2


def test_the_cheapest_and_the_greenest_are_chosen_within_reach():
    one = Requests(np.array([0.0]), np.array([32]), np.array([5]), region=np.array([0]))
    for name, within_s, chosen in (
        ("cheapest", 1, 2), ("cheapest", 0.05, 1), ("greenest", 1, 1), ("greenest", 0.01, 0),
    ):  # fmt: skip
        route = Policy(name=name, params={"within_s": within_s})
        log = serve(one, abroad(), way_s=WAYS, route=route).log_so_far()
        assert log.requests["replica"][0] == chosen


def test_kv_that_crosses_regions_takes_the_way_between_them_longer():
    one = Requests(np.array([0.0]), np.array([32]), np.array([5]), region=np.array([0]))
    split = [p for p in abroad("split") if p.pool.name in ("p0", "d0")]  # regions 0 and 1
    far = serve(one, split, way_s=WAYS).log_so_far().requests[0]
    near = serve(one, here(split)).log_so_far().requests[0]
    assert far["away_ps"] - near["away_ps"] == round(0.04 * PS)


def test_many_more_requests_on_their_way_than_there_were_slots_at_first():
    n = 5000
    rush = Requests(np.linspace(0, 0.1, n), np.full(n, 4), np.full(n, 2), region=np.full(n, 2))
    server = Server(abroad()[:1], way_s=WAYS)
    server.inject(rush)
    server.advance()
    assert (server.log_so_far().requests["status"] == 0).all()


def test_regions_that_no_way_leads_to_are_refused_before_the_run():
    with pytest.raises(SpecError, match="is in region 1, ways lead to 1"):
        serve(workload(1, 3), abroad())
    with pytest.raises(SpecError, match="square of times"):
        serve(workload(1, 3), abroad(), way_s=((0.0, -1.0), (0.0, 0.0)))
    stray = replace(workload(1, 3), region=np.array([0, 7, 1]))
    with pytest.raises(SpecError, match="come from regions 0 to 7"):
        serve(stray, abroad(), way_s=WAYS)


def test_great_circles_are_those_of_the_earth():
    # a quarter of the equator, and pole to pole
    assert great_circle_m((0, 0), (0, 90)) == pytest.approx(np.pi / 2 * 6_371_000)
    assert great_circle_m((90, 0), (-90, 0)) == pytest.approx(np.pi * 6_371_000)


def test_a_measured_round_trip_goes_before_the_map_whoever_names_it():
    regions = {
        "a": Region(at=(0, 0), rtt_s={"b": 0.08}), "b": Region(at=(0, 90)), "c": Region(at=(0, 0)),
    }  # fmt: skip
    assert one_way_s(regions, "a", "b") == one_way_s(regions, "b", "a") == 0.04
    assert one_way_s(regions, "b", "c") == pytest.approx(1.4 * np.pi / 2 * 6_371_000 / 2e8)
    assert one_way_s(regions, "a", "a") == 0
    assert one_way_s({"a": Region(), "b": Region()}, "a", "b") is None


def test_each_region_has_its_own_day_and_all_together_the_sum():
    regions = {"east": Region(share=2), "west": Region(share=1, ahead_s=6 * 3600)}
    traffic = Traffic(arrivals="diurnal", rate_per_s=1, swing=0.8, n_requests=300_000, isl=8, osl=8)
    from forerun.spec.traces.draw import requests_of

    all_of_it = summed(traffic, regions)
    # 2/3 + i/3 of a wave: its length is sqrt(5)/3, a quarter of a day ahead in part
    assert all_of_it.swing == pytest.approx(0.8 * np.sqrt(5) / 3)
    requests = with_regions(requests_of(all_of_it, seed=1), traffic, regions, seed=1)
    day_s = requests.arrival_s % 86_400
    turn = np.exp(2j * np.pi * day_s / 86_400)
    for g, (share, ahead_h) in enumerate(((2 / 3, 0), (1 / 3, 6))):
        mine = requests.region == g
        whole = requests.arrival_s < 3 * 86_400  # whole days
        assert mine.mean() == pytest.approx(share, abs=0.02)
        # the mean of exp(i phase) over arrivals of rate 1 + s sin(phase + a) is (i s / 2) exp(-i a)
        found = turn[mine & whole].mean() / (0.5j * 0.8)
        assert np.angle(found) == pytest.approx(-2 * np.pi * ahead_h / 24, abs=0.05)
        assert abs(found) == pytest.approx(1, abs=0.05)
