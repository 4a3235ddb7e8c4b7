"""Laws of fleets that change by rules and faults: the core between two looks is the plain one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from control import burst, by_state, drive, hard_cases, scaled
from fleets import assert_same, fleets, pool, serve, sharing
from flows import woven
from serving import PS, served, workload

from forerun.errors import PolicyError
from forerun.sim.core.rows_log import STATUS
from forerun.sim.log import COLD, UP, WANTED
from forerun.sim.tiers import Tier
from forerun.spec.control import Fault
from forerun.spec.requests import Requests

CASES = {name: (pools, faults) for name, pools, faults in hard_cases()}


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
