"""Laws of fleets that change by rules and faults: the core between two looks is the plain one."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from control import drive, hard_cases, scaled
from fleets import assert_same, fleets, pool, serve, sharing
from flows import woven
from serving import PS, served, workload

from forerun.errors import PolicyError
from forerun.sim.control.faults import times
from forerun.sim.control.find import find
from forerun.sim.core.rows_log import STATUS
from forerun.sim.log import COLD, DOWN, UP, WANTED
from forerun.sim.tiers import Tier
from forerun.spec.control import Fault
from forerun.spec.policy import Policy
from forerun.spec.requests import Requests

CASES = {name: (pools, faults) for name, pools, faults in hard_cases()}


def by_state(log, *states):
    """Seconds that all replicas spent in these states."""
    spans = log.spans[np.isin(log.spans["state"], states)]
    return (spans["to_ps"] - spans["from_ps"]).sum() / PS


@pytest.mark.parametrize("name", CASES)
def test_a_leap_equals_stepping_whatever_controllers_do(name):
    pools, faults = CASES[name]
    for seed in range(2):
        requests = sharing(seed, 50, isl=60, ties=seed % 2 == 0)
        leapt, stepped = (
            drive(requests, pools, faults=faults, cold_s=0.06 * seed, leap=leap, seed=seed).log()
            for leap in (True, False)
        )
        assert_same(leapt, stepped)
        assert leapt.spans.tobytes() == stepped.spans.tobytes()
        assert leapt.meta == stepped.meta


@pytest.mark.parametrize("name", CASES)
def test_every_request_ends_exactly_once_and_all_work_is_accounted_for(name):
    pools, faults = CASES[name]
    for seed in range(2):
        requests = sharing(seed, 50, isl=60)
        control = drive(requests, pools, faults=faults, cold_s=0.03, seed=seed)
        log, state = control.log(), control.server._state
        rows = log.requests
        assert rows["request"].tolist() == list(range(len(requests)))
        finished, failed = (rows["status"] == STATUS[end] for end in ("finished", "failed"))
        assert (finished | failed).all()
        assert log.n_unfinished == 0
        if not any(fault.requests == "fail" for fault in faults):
            assert finished.all()
        np.testing.assert_array_equal(rows["n_out"][finished], rows["osl"][finished])
        assert (rows["n_out"][failed] < rows["osl"][failed]).all()
        done, lost = rows[finished], rows[failed]
        useful = (done["isl"] + done["osl"] - 1 - done["cached"] + done["recomputed"]).sum()
        assert (
            log.replicas["n_tokens"].sum() == useful + (lost["recomputed"] - lost["cached"]).sum()
        )
        assert not state.replicas.n_blocks.any()
        assert not state.replicas.n_away.any()
        assert not state.load[:4].any()


@pytest.mark.parametrize("name", CASES)
def test_the_same_seed_gives_the_same_bytes(name):
    pools, faults = CASES[name]
    requests = sharing(1, 50, isl=60)
    a, b = (drive(requests, pools, faults=faults, cold_s=0.05, seed=4).log() for _ in range(2))
    for one, other in ((a.requests, b.requests), (a.leaps, b.leaps), (a.spans, b.spans)):
        assert one.tobytes() == other.tobytes()


def test_nothing_computes_on_a_replica_that_is_not_up():
    for pools, faults in CASES.values():
        log = drive(sharing(2, 60, isl=60), pools, faults=faults, cold_s=0.05, seed=2).log()
        start = log.leaps["start_ps"]
        last = log.leaps["first_ps"] + (log.leaps["n_steps"] - 1) * log.leaps["slope_ps"]
        total = log.leaps["n_steps"] * (log.leaps["first_ps"] + last) // 2
        for i in range(len(log.pool_of_replica)):
            mine = log.leaps["replica"] == i
            spans = log.spans[(log.spans["replica"] == i) & np.isin(log.spans["state"], (2, 3))]
            where = np.searchsorted(spans["from_ps"], start[mine], side="right") - 1
            assert (where >= 0).all()
            # a step may end when its replica is let go, and one that drains follows one that was up
            joined = np.maximum.accumulate(spans["to_ps"])[-1:] if len(spans) else np.zeros(0)
            assert (start[mine] + total[mine] <= joined.max(initial=0)).all()


@pytest.mark.parametrize("kind", ["one spot", "one scaled 0, faults", "mixed lost", "split crash"])
def test_a_leap_equals_stepping_with_tiers_below_replicas_that_come_and_go(kind):
    pools, faults = CASES[kind]
    pools = [
        replace(one, pool=one.pool.model_copy(
            update={"engine": one.pool.engine.model_copy(update={"preemption": "swap"})}
        ))
        for one in pools
    ]  # fmt: skip
    tiers = (
        Tier("dram", 160e3, 4e6, 1e-4),
        Tier("pool", 400e3, 1e6, 1e-3, shared_by="fleet", total_bytes_per_s=2e6),
    )
    for seed in range(2):
        requests = sharing(seed, 50, isl=60, rate=80)
        leapt, stepped = (
            drive(requests, pools, faults=faults, cold_s=0.05, tiers=tiers, leap=leap).log()
            for leap in (True, False)
        )
        assert_same(leapt, stepped)
        assert leapt.spans.tobytes() == stepped.spans.tobytes()
        assert leapt.n_unfinished == 0


def test_a_leap_equals_stepping_with_pipeline_stages_and_in_a_closed_loop():
    crash = Fault(mtbf_s=0.5, mttr_s=0.1)
    staged = served(replicas=3, pp=2, n_blocks=80)
    loop = {"concurrency": 9, "think_s": 0.02}
    for pools, settings in (([staged], {}), ([staged], loop), (fleets()["mixed"], loop)):
        for rule in ({"min_replicas": 0}, {"policy": "keep_alive", "keep_alive_s": 0.1}):
            changing = scaled(pools, len(pools) - 1, **rule)
            leapt, stepped = (
                drive(
                    workload(3, 80), changing, faults=(crash,), cold_s=0.04, leap=leap, **settings
                ).log()
                for leap in (True, False)
            )
            assert_same(leapt, stepped)
            assert leapt.spans.tobytes() == stepped.spans.tobytes()
            assert (leapt.requests["status"] == 0).all()
            assert leapt.meta["control"]["n_crash"] > 0


@pytest.mark.parametrize("kind", ["one lost", "mixed scaled 1, faults"])
def test_a_leap_equals_stepping_with_workflows_on_a_fleet_that_changes(kind):
    pools, faults = CASES[kind]
    ends = np.zeros(len(STATUS), dtype=int)
    for seed, loop in ((0, {}), (1, {"concurrency": 5})):
        requests = woven(sharing(seed, 50, isl=60), seed)
        leapt, stepped = (
            drive(requests, pools, faults=faults, cold_s=0.05, leap=leap, seed=seed, **loop).log()
            for leap in (True, False)
        )
        assert_same(leapt, stepped)
        assert leapt.spans.tobytes() == stepped.spans.tobytes()
        assert leapt.n_unfinished == 0
        assert leapt.requests["request"].tolist() == list(range(50))
        ends += np.bincount(leapt.requests["status"], minlength=len(STATUS))
    # whoever waits for a request that failed is never sent
    assert (ends[STATUS["cancelled"]] > 0) == (ends[STATUS["failed"]] > 0) == (kind == "one lost")


def test_what_never_comes_back_leaves_requests_unfinished_and_the_run_ends():
    gone = Fault(at_s=(0.1,), mttr_s=1e9)
    log = drive(burst(0.0, 0.2, n=3), [pool()], faults=(gone,)).log()
    assert log.n_unfinished == 3
    assert log.end_ps == PS // 5


# -- neutral settings ------------------------------------------------------------------------------


@pytest.mark.parametrize("fleet", ["one", "split", "mixed", "unequal"])
def test_a_rule_whose_least_is_its_most_is_the_fleet_as_it_stands(fleet):
    for seed in range(4):
        requests, pools = sharing(seed, 60, isl=60), fleets()[fleet]
        plain = serve(requests, pools, seed=seed).log_so_far()
        n = pools[0].pool.replicas
        control = drive(requests, scaled(pools, min_replicas=n), seed=seed)
        log = control.log()
        assert_same(log, plain)
        assert log.leaps.tobytes() == plain.leaps.tobytes()
        assert (log.start_ps, log.end_ps) == (plain.start_ps, plain.end_ps)
        # rented all the time, by every replica
        everybody = len(log.pool_of_replica) * log.end_ps / PS
        assert by_state(log, UP) == pytest.approx(everybody)
        assert by_state(log, WANTED) == pytest.approx(everybody)


def test_faults_that_come_after_the_run_change_nothing():
    requests, pools = sharing(3, 60, isl=60), fleets()["one"]
    plain = serve(requests, pools, seed=1).log_so_far()
    late = Fault(at_s=(1e5,), mttr_s=10.0)
    assert_same(drive(requests, pools, faults=(late,), seed=1).log(), plain)


def test_a_fixed_smaller_fleet_is_a_larger_one_held_to_its_size():
    requests = workload(5, 80)
    small = serve(requests, [pool(replicas=2)]).log_so_far()
    held = scaled([pool(replicas=5)], min_replicas=2, max_replicas=2)
    log = drive(requests, held).log()
    np.testing.assert_array_equal(log.requests, small.requests)
    assert not log.replicas["n_tokens"][2:].any()
    assert by_state(log, UP) == pytest.approx(2 * log.end_ps / PS)


# -- scaling ---------------------------------------------------------------------------------------


def burst(*at, n=12):
    """n requests at each of these times."""
    when = np.repeat(np.array(at, dtype=float), n)
    return Requests(when, np.full(len(when), 20), np.full(len(when), 12))


def test_a_pool_scaled_to_zero_and_back_serves_all():
    rule = {"min_replicas": 0, "policy": "keep_alive", "target": 4, "keep_alive_s": 0.3}
    rule |= {"period_s": 5.0}
    log = drive(burst(1.013, 20_000.0071), scaled([pool(replicas=3)], **rule), cold_s=0.5).log()
    assert (log.requests["status"] == 0).all()
    # the first of each burst waits for one cold start, no more and no less
    first = log.requests["scheduled_ps"].reshape(2, 12).min(axis=1)
    np.testing.assert_allclose(first / PS, [1.513, 20_000.5071], atol=1e-9)
    assert not ((log.spans["from_ps"] < 9 * PS) & (log.spans["to_ps"] > 9 * PS)).any()  # none there


def test_rented_time_is_the_integral_of_the_replicas_there():
    """By hand: one replica up from 0, a second one wanted at the look at 0.05 s, which starts for
    0.2 s and is there to the end."""
    requests = Requests(np.zeros(6), np.full(6, 20), np.full(6, 150))
    log = drive(requests, scaled([pool(replicas=2, n_blocks=400)]), cold_s=0.2).log()
    second = log.spans[(log.spans["replica"] == 1) & (log.spans["state"] != WANTED)]
    cold, up = second[second["state"] == COLD], second[second["state"] == UP]
    assert (cold["from_ps"][0], cold["to_ps"][0]) == (PS // 20, PS // 4)
    assert up["from_ps"][0] == PS // 4
    grid = np.linspace(0, log.end_ps, 20_001)[:-1]
    there = sum(
        ((grid >= row["from_ps"]) & (grid < row["to_ps"])).astype(float)
        for row in log.spans[log.spans["state"] != WANTED]
    )
    assert there.mean() * log.end_ps / PS == pytest.approx(by_state(log, 1, 2, 3, 4), rel=1e-3)


def test_a_replica_is_given_back_only_when_its_last_request_has_ended():
    pools = scaled([pool(replicas=3)], initial_replicas=3, scale_in_delay_s=0.0, target=6)
    requests = Requests(np.zeros(3), np.full(3, 20), np.array([180, 120, 90]))
    log = drive(requests, pools).log()
    assert (log.requests["status"] == 0).all()
    assert log.requests["n_retries"].sum() == 0  # nobody was sent away
    for i in (1, 2):  # told to go at the first look
        spans = log.spans[(log.spans["replica"] == i) & np.isin(log.spans["state"], (2, 3))]
        assert spans["to_ps"].max() == log.requests["done_ps"][log.requests["replica"] == i].max()


def test_a_smaller_fleet_must_be_wanted_for_a_while_before_it_comes():
    quiet = Requests(np.array([0.0, 3.0]), np.array([8, 8]), np.array([2, 2]))
    pools = scaled([pool(replicas=4)], initial_replicas=4, scale_in_delay_s=1.0)
    log = drive(quiet, pools).log()
    up = log.spans[(log.spans["replica"] == 3) & (log.spans["state"] == UP)]
    assert up["to_ps"].tolist() == [round(1.05 * PS)]  # the first look at which 1 s has passed


@pytest.mark.parametrize(
    "rule",
    [
        {"metric": "kv", "target": 0.5},
        {"metric": "busy", "target": 0.7},
        {"metric": "running", "target": 4},
        {"metric": "waiting", "target": 2},
        {"metric": "requests_per_s", "target": 15},
        {"metric": "ttft_s", "target": 0.05},
        {"policy": "forecast", "target": 15, "repeat_s": 2.0, "ahead_s": 0.1},
        {"policy": "scheduled", "schedule": [{"at_s": 0.2, "replicas": 4}]},
    ],
    ids=lambda rule: rule.get("policy", rule.get("metric")),
)
def test_any_metric_and_rule_grows_a_fleet_under_load_and_leaps_equal_steps(rule):
    requests = workload(7, 150, rate=80.0)
    pools = scaled([pool(replicas=4, n_blocks=40)], **rule)
    leapt, stepped = (
        drive(requests, pools, cold_s=0.05, leap=leap).log() for leap in (True, False)
    )
    assert_same(leapt, stepped)
    assert leapt.spans.tobytes() == stepped.spans.tobytes()
    assert (leapt.requests["status"] == 0).all()
    assert leapt.meta["control"]["n_starts"] >= 2
    assert by_state(leapt, UP) < 4 * leapt.end_ps / PS


def test_a_forecast_has_replicas_there_before_a_season_repeats():
    wave = np.concatenate([burst(*np.linspace(t, t + 0.6, 12), n=8).arrival_s for t in (2, 6, 10)])
    requests = Requests(wave, np.full(len(wave), 30), np.full(len(wave), 30))
    waits = {}
    for name in ("target_tracking", "forecast"):
        rule = {"policy": name, "metric": "requests_per_s", "target": 40, "period_s": 0.1}
        rule |= {"repeat_s": 4.0} if name == "forecast" else {}
        log = drive(
            requests, scaled([pool(replicas=4)], **rule, scale_in_delay_s=0.3), cold_s=0.4
        ).log()
        last = log.requests[wave >= 10]
        waits[name] = ((last["first_token_ps"] - last["arrival_ps"]) / PS).mean()
    assert waits["forecast"] < 0.5 * waits["target_tracking"]


def test_a_rule_that_wants_no_number_is_named_with_the_time(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("def mine(pool, rule, memory):\n    return float('nan')\n")
    with pytest.raises(PolicyError, match=r"mine.py:mine: wants nan replicas of pool 0 at 0.05"):
        drive(burst(0.0), scaled([pool(replicas=2)], policy=f"{file}:mine"))


# -- faults ----------------------------------------------------------------------------------------


def long_quiet(until_s, n=40):
    """A few small requests over a long time."""
    at = np.linspace(0, until_s, n)
    return Requests(at, np.full(n, 4), np.full(n, 2))


def test_availability_under_memoryless_failures_is_mtbf_over_mtbf_and_mttr():
    """The share of time up of an alternating renewal process with exponential times has variance
    2 a (1 - a) tau / T over a time T, tau = 1 / (1/mtbf + 1/mttr)."""
    mtbf, mttr, n, span_s = 20.0, 5.0, 8, 8_000.0
    log = drive(
        long_quiet(span_s), [pool(replicas=n)], faults=(Fault(mtbf_s=mtbf, mttr_s=mttr),), seed=3
    ).log()
    a = mtbf / (mtbf + mttr)
    measured = by_state(log, UP) / by_state(log, WANTED)
    tau = 1 / (1 / mtbf + 1 / mttr)
    deviation = np.sqrt(2 * a * (1 - a) * tau / (n * span_s))
    assert abs(measured - a) < 3 * deviation
    assert deviation < 0.005  # the bound says something
    assert by_state(log, UP) + by_state(log, DOWN) == pytest.approx(n * log.end_ps / PS)


def test_a_cold_start_after_a_repair_is_time_not_available():
    mtbf, mttr, cold_s = 20.0, 3.0, 2.0
    fixed = Fault(process="fixed", mtbf_s=mtbf, mttr_s=mttr)
    log = drive(long_quiet(2_300.0), [pool()], faults=(fixed,), cold_s=cold_s).log()
    # the next failure is mtbf after the repair, the cold start lies within it
    assert by_state(log, UP) / by_state(log, WANTED) == pytest.approx(18 / 23, abs=0.01)
    assert by_state(log, COLD) / by_state(log, WANTED) == pytest.approx(2 / 23, abs=0.01)


@pytest.mark.parametrize(("shape", "cv"), [(0.7, 1.462), (1.0, 1.0), (2.0, 0.5227)])
def test_weibull_times_have_their_mean_and_spread(shape, cv):
    fault = Fault(process="weibull", mtbf_s=50.0, mttr_s=1.0, shape=shape)
    drawn = find("fault", fault.process)(np.random.default_rng(1), fault)
    up = np.array([next(drawn)[0] for _ in range(40_000)])
    assert up.mean() == pytest.approx(50.0, rel=0.03)
    assert up.std() / up.mean() == pytest.approx(cv, rel=0.04)


def test_a_replica_of_many_devices_fails_as_often_as_the_first_of_them():
    from forerun.sim.control.faults import Domain

    fault = Fault(mtbf_s=80.0, mttr_s=1e-9, per="device")
    found = times(find("fault", fault.process), fault, Domain((0,), n_parts=8), 0, "0/0")
    begins = np.array([next(found)[0] for _ in range(8_000)])
    assert np.diff(begins).mean() == pytest.approx(10.0, rel=0.04)


def test_a_common_cause_strikes_all_of_a_group_at_the_same_moment():
    rack = Fault(mtbf_s=3.0, mttr_s=0.5, per="group", group_replicas=2)
    log = drive(long_quiet(30.0), [pool(replicas=6)], faults=(rack,), seed=1).log()
    down = log.spans[log.spans["state"] == DOWN]
    begins = {i: set(down["from_ps"][down["replica"] == i].tolist()) for i in range(6)}
    for pair in ((0, 1), (2, 3), (4, 5)):
        assert begins[pair[0]] == begins[pair[1]]
        assert begins[pair[0]]
    assert not begins[0] & begins[2]


def test_two_policies_face_the_same_failures():
    faults = (Fault(mtbf_s=1.0, mttr_s=0.1), Fault(effect="slow", mtbf_s=1.0, mttr_s=1, factor=2))
    logs = [
        drive(workload(1, 60), [pool(replicas=3)], faults=chosen, route=Policy(name=route), seed=9)
        for route, chosen in (("round_robin", faults), ("least_outstanding", faults[:1]))
    ]
    down = []
    for control in logs:
        log = control.log()
        rows = log.spans[(log.spans["state"] == DOWN) & (log.spans["from_ps"] < PS)]
        down.append(rows[["replica", "from_ps"]].tolist())
    assert down[0] == down[1]
    assert down[0]


def test_requests_on_a_failed_replica_end_there_when_they_are_not_sent_again():
    at = Fault(at_s=(0.03,), requests="fail", mttr_s=0.1)
    log = drive(burst(0.0, n=4), [pool()], faults=(at,)).log()
    rows = log.requests
    assert (rows["status"] == STATUS["failed"]).all()
    assert (rows["done_ps"] == 3 * PS // 100).all()
    assert (rows["n_retries"] == 0).all()
    assert log.replicas["n_tokens"].sum() == rows["recomputed"].sum() > 0


def test_notice_lets_what_runs_end_or_go_on_elsewhere_with_its_kv():
    requests = Requests(np.zeros(2), np.full(2, 32), np.full(2, 100))
    spot = {"effect": "loss", "at_s": (0.15,), "process": "listed", "mttr_s": 5.0, "replicas": (0,)}
    plain, noticed = (
        drive(requests, [pool(replicas=2)], faults=(Fault(**spot, **notice),)).log()
        for notice in ({}, {"notice_s": 0.1, "on_notice": "move"})
    )
    assert plain.requests["n_retries"].sum() == 1
    assert plain.requests["recomputed"].sum() > 32
    assert noticed.requests["n_retries"].sum() == 0
    assert noticed.requests["recomputed"].sum() == 0
    assert noticed.replicas["n_moved"][0] == 1


def test_a_rolling_upgrade_takes_one_group_after_the_other_and_loses_nothing():
    upgrade = Fault(effect="upgrade", at_s=(1.0,), mttr_s=0.5, notice_s=2.0, group_replicas=2)
    log = drive(long_quiet(30.0, 200), [pool(replicas=4)], faults=(upgrade,), cold_s=0.5).log()
    assert log.meta["control"]["n_upgrade"] == 4
    assert log.requests["n_retries"].sum() == 0
    up = log.spans[log.spans["state"] == UP]
    for t in np.linspace(0, log.end_ps - 1, 2_000):
        assert ((up["from_ps"] <= t) & (up["to_ps"] > t)).sum() >= 2


def test_a_straggler_takes_its_factor_times_as_long_a_step_and_host_time_stays():
    slow = Fault(effect="slow", at_s=(0.0,), mttr_s=100.0, factor=3, replicas=(0,))
    one = Requests(np.array([0.5]), np.array([20]), np.array([2]))
    log = drive(one, [pool()], faults=(slow,)).log()
    plain = serve(one, [pool()]).log_so_far()
    host = round((1e-4 + 1e-6) * PS)  # per step and per sequence
    np.testing.assert_allclose(
        log.leaps["first_ps"] - host, 3 * (plain.leaps["first_ps"] - host), atol=3
    )


def test_a_degraded_link_moves_kv_its_factor_times_as_slowly():
    split = [pool("prefill", "p"), pool("decode", "d")]
    link = Fault(effect="link", at_s=(0.0,), mttr_s=100.0, factor=4)
    one = Requests(np.array([0.5]), np.array([32]), np.array([3]))
    log = drive(one, split, faults=(link,)).log()
    begins = log.leaps[log.leaps["replica"] == 1]["start_ps"][0]
    # 32 kB at 2 MB/s is 16 ms, a quarter of that rate 64 ms, and 1 ms latency
    assert begins - log.requests["first_token_ps"][0] == 65 * PS // 1000


def test_controllers_work_the_same_without_the_compiler():
    script = Path(__file__).with_name("plain_control.py")
    out = []
    for jit in ("0", "1"):
        env = os.environ | {"FORERUN_JIT": jit}
        done = subprocess.run(
            [sys.executable, str(script)], capture_output=True, text=True, check=True, env=env
        )
        out.append(done.stdout)
    assert out[0] == out[1]
    assert len(out[0].splitlines()) > 10
