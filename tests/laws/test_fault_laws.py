"""Laws of faults: how often they strike, what is lost, what is sent again."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from control import burst, by_state, drive
from fleets import pool, serve
from serving import PS, workload
from sharing_devices import lanes

from forerun.sim.control.faults import times
from forerun.sim.control.find import find
from forerun.sim.core.rows_log import STATUS
from forerun.sim.log import COLD, DOWN, UP, WANTED
from forerun.spec.control import Fault
from forerun.spec.policy import Policy
from forerun.spec.requests import Requests

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


@pytest.mark.parametrize(
    "pools", [[pool(replicas=4)], [pool(replicas=4, pp=2)], lanes(replicas=4)],
    ids=["whole", "stages", "lanes"],
)  # fmt: skip
def test_what_falls_together_hands_nothing_on_to_what_falls_with_it(pools):
    rack = Fault(mtbf_s=0.1, mttr_s=60.0, per="group", group_replicas=2)
    n_again = 0
    for seed in range(8):
        log = drive(burst(0.0, n=60), pools, faults=(rack,), seed=seed).log()
        strikes = np.unique(log.spans["from_ps"][log.spans["state"] == DOWN])
        so_far = np.searchsorted(strikes, log.requests["done_ps"])
        assert (log.requests["n_retries"] <= so_far).all()
        n_again += (log.requests["n_retries"] == 1).sum()
    assert n_again > 20


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
