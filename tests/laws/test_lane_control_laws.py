"""Laws of devices with two lanes that start, stop and are struck: both lanes as one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from control import burst, by_state, drive, scaled
from fleets import assert_laws, assert_tells_the_same, both_ways, pool, serve, sharing
from serving import PS, workload
from sharing_devices import LINK, devices, lanes
from test_lane_fleet_laws import asked
from test_share_control_laws import LEVELS, shared

from forerun.sim.control.dials import SHARES, keys
from forerun.sim.control.drive import Control, with_rows
from forerun.sim.control.experts import with_levels
from forerun.sim.control.fleet import look
from forerun.sim.control.slow import stretched
from forerun.sim.log import COLD, UP
from forerun.sim.moe.course import Window
from forerun.sim.moe.layout import Spread
from forerun.sim.moe.rows import Course
from forerun.sim.serve import Server
from forerun.spec.control import Fault, Rebalance
from forerun.spec.deployment import Policy
from forerun.spec.requests import Requests

CRASH = Fault(mtbf_s=0.4, mttr_s=0.15)
LOST = Fault(mtbf_s=0.6, mttr_s=0.1, requests="fail")
RACK = Fault(process="weibull", shape=0.7, mtbf_s=1.0, mttr_s=0.2, per="group", group_replicas=2)
SPOT = Fault(effect="loss", mtbf_s=0.5, mttr_s=0.2, notice_s=0.1, on_notice="move")
SLOW = Fault(effect="slow", mtbf_s=0.3, mttr_s=0.3, factor=2.5)
WORSE = Fault(effect="link", mtbf_s=0.2, mttr_s=0.2, factor=8)
UPGRADE = Fault(effect="upgrade", at_s=(0.5,), mttr_s=0.05, notice_s=0.3, on_notice="move")
FAULTS = {
    "crash": (CRASH,), "lost": (LOST, RACK), "spot": (SPOT, SLOW), "upgrade": (UPGRADE, WORSE),
    "all": (CRASH, RACK, SPOT, SLOW, WORSE),
}  # fmt: skip
RULES = {
    "to one": {"min_replicas": 1},
    "to zero": {"min_replicas": 0, "policy": "keep_alive", "keep_alive_s": 0.1},
    "moving": {"min_replicas": 1, "scale_in": "move", "metric": "kv", "target": 0.3},
}
EVEN = Rebalance(policy=Policy(name="even_kv", params={"gap": 0.1}), period_s=0.013)


def driven(requests, pools, **settings):
    """The control after a run by leaps; that step by step tells the same."""
    leapt, stepped = (drive(requests, pools, leap=leap, **settings) for leap in (True, False))
    assert_laws(leapt.server, requests, all_sent=False)
    assert_tells_the_same(leapt, stepped)
    assert leapt.log().n_unfinished == 0
    assert_one_device(leapt)
    return leapt


def assert_one_device(control):
    """Both lanes of a device are in the same state at every moment."""
    spans = control.log().spans
    if spans is None:
        return
    for i, j in enumerate(control.server._state.replicas["partner"]):
        both = [spans[spans["replica"] == k][["state", "from_ps", "to_ps"]] for k in (i, j)]
        assert j < 0 or both[0].tolist() == both[1].tolist()


@pytest.mark.parametrize("name", FAULTS)
def test_a_leap_equals_stepping_whatever_strikes_devices_with_two_lanes(name):
    n = 0
    fleets = (devices()["two"], shared(2, bytes_per_s=LINK), devices()["beside all"])
    for seed, pools in enumerate(fleets):
        settings = {"faults": FAULTS[name], "cold_s": 0.04 * seed, "seed": seed}
        control = driven(asked(seed), pools, **settings)
        n += sum(control.hardware.counts.values())
    assert n > 3


@pytest.mark.parametrize("name", RULES)
def test_a_leap_equals_stepping_when_devices_with_two_lanes_come_and_go(name):
    n = 0
    for seed, faults in enumerate(((), (CRASH, SLOW))):
        for rows in (lanes(replicas=3, bytes_per_s=LINK), shared(3, bytes_per_s=LINK)):
            pools = scaled(rows, **RULES[name])
            control = driven(asked(seed), pools, faults=faults, cold_s=0.05, seed=seed)
            n += control.hardware.n_starts
    assert n > 6


def test_a_leap_equals_stepping_when_devices_with_two_lanes_give_requests_away():
    moved = 0
    for seed in range(2):
        for pools in (devices()["tight"], devices()["beside answers"], shared(2, bytes_per_s=LINK)):
            faults = (CRASH,) if seed == 1 else ()
            settings = {"rebalance": EVEN, "place": Policy(name="freest"), "faults": faults}
            control = driven(asked(seed), pools, **settings)
            moved += control.rebalancers[0].n_ordered
    assert moved > 20


def test_faults_that_never_strike_write_the_log_without_them():
    never = tuple(f.model_copy(update={"process": Policy(name="listed"), "at_s": (1e6,)})
                  for f in (CRASH, SLOW))  # fmt: skip
    for pools in (lanes(replicas=2), shared(2)):
        requests = sharing(1, 60, isl=60, rate=60)
        plain, other = drive(requests, pools), drive(requests, pools, faults=never)
        assert plain.log().requests.tobytes() == other.log().requests.tobytes()
        assert plain.log().leaps.tobytes() == other.log().leaps.tobytes()


def test_a_look_counts_a_device_once():
    pools = [*lanes(replicas=2, n_blocks=30), pool(replicas=2, n_blocks=26, name="other")]
    server = Server(pools, n_requests=24, hash_tokens=0, route=Policy(name="round_robin"))
    control = Control(server)
    server.inject(burst(0.0, n=24))
    server.advance(0.03)
    assert [unit.lanes for unit in control.hardware.units] == [(2, 0), (3, 1), (4,), (5,)]
    now = look(server, control.hardware.units, control.hardware.state)
    assert now.kv_capacity.tolist() == [30, 30, 26, 26]
    assert (now.kv_blocks <= now.kv_capacity).all()
    assert now.outstanding.tolist() == [6, 6, 6, 6]
    assert (now.waiting + now.running <= now.outstanding).all()


def test_what_is_paid_for_is_devices_not_lanes():
    pools = scaled(lanes(replicas=4), min_replicas=1, max_replicas=3)
    control = drive(burst(0.0, 0.6, n=20), pools, cold_s=0.05)
    assert max(n for _, n in control.scalers[0].decisions) == 3
    spans = control.log().spans
    at = np.unique(spans["from_ps"])
    paid = spans[np.isin(spans["state"], (COLD, UP))]
    n = [((paid["from_ps"] <= t) & (paid["to_ps"] > t)).sum() for t in at]
    assert max(n) == 2 * 3
    assert list(control.told()["cold_starts"]) == ["g prefill 0"]


def test_a_straggler_slows_both_lanes_alone_and_beside_each_other_and_stands_still_for_nothing():
    fault = Fault(effect="slow", at_s=(0.0,), mttr_s=100.0, factor=3, replicas=(0,))
    rows = with_rows(lanes(levels=LEVELS, switch_s=0.5), (fault,))
    engines = Server(rows)._state.engines
    for p, (home, shown) in enumerate(keys(rows)):
        beside = int(engines.beside[p])
        assert rows[beside].lane == rows[p].lane | 1
        assert dict(keys(rows)[beside][1]) == dict(shown)
        assert rows[home].lane < 4
        assert dict(shown).get(SHARES, 0) == rows[p].lane // 4
    requests = workload(1, 40, isl=60)
    slow = drive(requests, lanes(n_blocks=60, switch_s=0.5), faults=(fault,)).log()
    whole = lanes(n_blocks=60, levels=((6.0, 4.5),))
    same = serve(requests, whole).log_so_far()
    np.testing.assert_allclose(slow.requests["done_ps"], same.requests["done_ps"], atol=1e4)


def test_notice_moves_answers_and_what_is_computed_goes_with_them():
    requests = Requests(np.zeros(2), np.full(2, 32), np.full(2, 100))
    spot = Fault(
        effect="loss", at_s=(0.3,), process="listed", mttr_s=5.0, replicas=(0,), notice_s=0.1,
        on_notice="move",
    )  # fmt: skip
    log = drive(requests, lanes(replicas=2, n_blocks=80, bytes_per_s=LINK), faults=(spot,)).log()
    assert not log.requests["n_retries"].any()
    assert not log.requests["recomputed"].any()
    assert log.replicas["n_moved"].tolist() == [0, 0, 1, 0]
    assert log.requests["replica"].tolist() == [3, 3]


def test_a_device_that_was_repaired_starts_cold_with_both_lanes():
    at = Fault(at_s=(0.03,), mttr_s=0.1)
    log = drive(burst(0.0, n=4), lanes(n_blocks=60), faults=(at,), cold_s=0.2).log()
    assert by_state(log, COLD) == pytest.approx(2 * 0.2)
    assert (log.requests["n_retries"] == 1).all()
    first = log.leaps["start_ps"][log.leaps["start_ps"] > 0.03 * PS].min()
    assert first == pytest.approx(0.33 * PS)


# -- experts whose load changes --------------------------------------------------------------------


def drifting_devices(window_s, order):
    """Lanes whose shares a policy chooses, with experts at three levels of load."""
    rows = shared(2, bytes_per_s=LINK)
    at = [Spread(load, 1.0) for load in (1.0, 1.3, 1.7)]
    windows = [Window(at[k], False, 0.0) for k in order]
    rest = (Window(at[k % 3], False, 0.0) for k in range(10**9))
    rows = [replace(one, course=Course(windows, tuple(at), window_s, rest)) for one in rows]
    more = [
        replace(
            one,
            pool=one.pool.model_copy(update={"replicas": 0}),
            table=stretched(one.table, at[k].load / at[order[0]].load),
        )
        for k in range(3)
        if k != order[0]
        for one in rows
    ]
    return with_levels(rows[:1], [(0, [*rows[1:], *more])])


def test_a_leap_equals_stepping_when_experts_of_lanes_drift_and_devices_are_struck():
    for seed, faults in enumerate(((), (SLOW,), (CRASH, SPOT))):
        pools = drifting_devices(0.07, [0, 2, 1, 2, 0])
        leapt = both_ways(drive, asked(seed), pools, faults=faults, cold_s=0.03, seed=seed)
        assert_laws(leapt.server, asked(seed), all_sent=False)
        home = keys(leapt.server.pools)
        used = np.unique(leapt.log().leaps["pool"]).tolist()
        assert len({dict(home[p][1]).get("experts") for p in used}) == 3


def test_every_lane_has_a_row_at_every_load_whose_company_is_loaded_alike():
    pools = with_rows(drifting_devices(0.07, [1, 2, 0]), (SLOW,))
    home = keys(pools)
    assert len(set(home)) == len(pools) == 12 * 3 * 2
    engines = Server(pools)._state.engines
    for p, one in enumerate(pools):
        other = int(engines.beside[p])
        assert pools[other].lane == one.lane | 1
        assert home[other][1] == home[p][1]
        load = {0: 1.0, 2: 1.7, None: 1.3}[dict(home[p][1]).get("experts")]
        slow = dict(home[p][1]).get("slow", 1.0)
        base = pools[next(q for q in range(len(pools)) if pools[q].lane == one.lane)]
        time = base.table.time_s.tokens * (load / 1.3 * slow)
        np.testing.assert_allclose(one.table.time_s.tokens, time)
    assert [p for p, one in enumerate(pools) if one.levels] == [0, 2]
