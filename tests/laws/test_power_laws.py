"""Laws of power at run time: a clock is a row of costs, and the core knows nothing of it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from control import drifting, drive
from fleets import assert_laws, both_ways, fleets, pool, serve, sharing
from hypothesis import given, settings
from hypothesis import strategies as st
from powered import DEVICE, LEVELS, QUICK, drawing, fed_fleets, hard_cases, rows
from serving import PS, table, workload

from forerun import catalog
from forerun.cost.clocked import at_clock, least_cap_w, most_w
from forerun.cost.price import price
from forerun.cost.step import step_work
from forerun.errors import PolicyError, SpecError
from forerun.metrics.energy import energy_j
from forerun.metrics.power import dynamic_j, power, trace
from forerun.metrics.window import view
from forerun.ops.lower import lower
from forerun.sim.power.course import Course, budget_w
from forerun.sim.power.told import noted
from forerun.spec.control import Fault
from forerun.spec.deployment import Engine, Pool
from forerun.spec.power import RowPower
from forerun.spec.requests import Requests

CASES = {name: (pools, row, faults) for name, pools, row, faults in hard_cases()}
H100 = catalog.device(DEVICE)


def driven(requests, pools, row, **settings):
    return drive(requests, pools, power=row, **settings)


# -- the core between two looks is the plain one ---------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_a_leap_equals_stepping_whatever_is_read_and_switched(name):
    pools, row, faults = CASES[name]
    changed = 0
    for seed in range(2):
        requests = sharing(seed, 60, isl=60, ties=seed % 2 == 0, rate=80)
        leapt = both_ways(driven, requests, pools, row, faults=faults, seed=seed).log()
        changed += len(leapt.meta["control"]["power"]["changes"])
    assert changed or name.split()[-1] == "0.8"


@pytest.mark.parametrize("name", [name for name in CASES if "faults" in name or "one" in name])
def test_every_request_ends_once_with_all_its_tokens_and_the_same_seed_gives_the_same_bytes(name):
    pools, row, faults = CASES[name]
    requests = sharing(3, 50, isl=60)
    a, b = (driven(requests, pools, row, faults=faults, seed=4) for _ in range(2))
    log = a.log()
    assert (log.requests["status"] == 0).all()
    np.testing.assert_array_equal(log.requests["n_out"], log.requests["osl"])
    assert not a.server._state.replicas.n_blocks.any()
    for one, other in ((log.requests, b.log().requests), (log.leaps, b.log().leaps)):
        assert one.tobytes() == other.tobytes()


@pytest.mark.parametrize("policy", ["row_budget", "fixed_cap", "slack", "watch"])
def test_a_budget_that_never_binds_writes_the_log_of_a_fleet_without_one(policy):
    for pools in fed_fleets().values():
        requests = sharing(2, 50, isl=60)
        plain = serve(requests, pools).log_so_far()
        row = rows(pools, policy, share=100.0, tpot_s=1e-4)  # nor is there any slack
        log = driven(requests, pools, row).log()
        for name in ("requests", "leaps", "gaps"):
            assert getattr(log, name).tobytes() == getattr(plain, name).tobytes()


def test_a_fault_and_a_level_hold_together_as_their_product():
    slow = Fault(effect="slow", at_s=(0.0,), mttr_s=100.0, factor=3, replicas=(0,))
    one = Requests(np.array([0.5]), np.array([20]), np.array([2]))
    mine = [drawing(pool(), memory=0.0)]
    steady = {"budgets": [{"at_s": 0, "budget_w": 400}]}
    row = rows(mine, "fixed_cap", budget_w=None, **steady)
    log = driven(one, mine, row, faults=(slow,)).log()
    level = log.meta["control"]["power"]["changes"][0]["level"]
    plain = serve(one, mine).log_so_far()
    host = round((1e-4 + 1e-6) * PS)  # per step and per sequence
    assert level < 1
    np.testing.assert_allclose(
        log.leaps["first_ps"] - host, 3 / level * (plain.leaps["first_ps"] - host), rtol=1e-6
    )


def test_loads_of_experts_clocks_and_stragglers_are_dials_of_one_fleet():
    slow = Fault(effect="slow", mtbf_s=0.2, mttr_s=0.3, factor=2.5)
    together = 0
    for kind in ("one", "split", "unequal"):
        pools = [drawing(one) for one in drifting(fleets()[kind], 0.05, [0, 2, 1, 0, 1])]
        for seed in range(3):
            requests = sharing(seed, 60, isl=60, rate=80)
            row = rows(pools, share=0.6)
            a = both_ways(driven, requests, pools, row, faults=(slow,), seed=seed)
            assert_laws(a.server, requests)
            keys = a.hardware.dials.keys
            together += sum(len(keys[p][1]) == 3 for p in a.log().leaps["pool"])
    assert together > 50  # steps at another load, at a lower clock, of a straggler


# -- what is read ----------------------------------------------------------------------------------


def busy(n=60, rate=150.0):
    return workload(5, n, rate=rate)


@pytest.mark.parametrize("name", ["one", "split", "unequal"])
def test_the_power_trace_adds_up_to_the_energy_of_the_log(name):
    pools = fed_fleets()[name]
    row = rows(pools, share=0.6)
    log = noted(driven(busy(), pools, row).log(), row, pools)
    for window in (None, (0.113, 0.391)):
        part = view(log, window)
        found = trace(part, 0.01)
        joule = (found.power_w * np.diff(found.edges_ps) / PS).sum()
        if window is None:
            assert joule == pytest.approx(energy_j(part), rel=1e-9)
        # of the tables: 100 W each
        replicas = np.bincount(log.pool_of_replica, minlength=len(found.power_w))
        assert (found.power_w.min(axis=1) >= 99.9 * replicas).all()


def test_the_trace_is_the_same_whether_steps_are_leapt_over():
    pools = fed_fleets()["one"]
    leapt, stepped = (serve(busy(), pools, leap=leap).log_so_far() for leap in (True, False))
    edges = np.linspace(0, leapt.end_ps, 977).astype(np.int64)
    a, b = (dynamic_j(log.leaps, log, edges) for log in (leapt, stepped))
    np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9)
    assert len(stepped.leaps) > 2 * len(leapt.leaps)


def test_what_a_meter_shows_is_the_trace_of_a_window_that_lies_back(tmp_path):
    file = tmp_path / "spy.py"
    file.write_text(
        "def spy(row, rule, memory):\n"
        "    memory.setdefault('seen', []).append((row.time_s, row.power_w))\n"
        "    return [0] * len(row.pools)\n"
    )
    for delay_s in (0.0, 0.04):
        pools = fed_fleets()["unequal"]
        row = rows(pools, f"{file}:spy", delay_s=delay_s)
        control = driven(busy(), pools, row)
        log, seen = control.log(), control.power[0].memory["seen"]
        assert len(seen) > 5
        for time_s, watts in seen:
            until = time_s - delay_s
            edges = np.rint(np.array([until - row.window_s, until]) * PS).astype(np.int64)
            if edges[0] < 0 or edges[1] > log.end_ps:
                continue
            joule = dynamic_j(log.leaps, log, edges).sum() + 400 * row.window_s
            assert watts == pytest.approx(joule / row.window_s, abs=0.3)  # four of 0.1 W


def test_before_anything_ran_a_meter_shows_idle_devices(tmp_path):
    file = tmp_path / "spy.py"
    file.write_text(
        "def spy(row, rule, memory):\n"
        "    memory.setdefault('seen', []).append(row.power_w)\n"
        "    return [0] * len(row.pools)\n"
    )
    late = Requests(np.array([1.0]), np.array([8]), np.array([4]))
    pools = fed_fleets()["one"]
    seen = driven(late, pools, rows(pools, f"{file}:spy", delay_s=0.2)).power[0].memory["seen"]
    assert set(np.round(seen[:20], 6)) == {300.0}


# -- what is done ----------------------------------------------------------------------------------


def test_a_level_is_taken_on_after_its_delay_and_not_before():
    pools = fed_fleets()["one"]
    most = 3 * 550.0
    budgets = [{"at_s": 0, "budget_w": 2 * most}, {"at_s": 0.02, "budget_w": 0.8 * most}]
    row = rows(pools, "fixed_cap", budget_w=None, budgets=budgets, act_s=0.07)
    log = driven(busy(), pools, row).log()
    (change,) = log.meta["control"]["power"]["changes"]
    assert change["time_s"] == pytest.approx(0.05 + 0.07)
    slowed = log.leaps[log.leaps["pool"] > 0]
    assert len(slowed)
    assert slowed["start_ps"].min() >= round(0.12 * PS)
    assert (log.leaps["pool"][log.leaps["start_ps"] > round(0.15 * PS)] > 0).all()


def test_an_order_that_a_later_one_has_overtaken_is_void(tmp_path):
    file = tmp_path / "late.py"
    file.write_text(
        "def late(row, rule, memory):\n"
        "    memory['n'] = memory.get('n', 0) + 1\n"
        "    if memory['n'] == 1:\n"
        "        return list(row.level)\n"
        "    return [1 if memory['n'] == 2 else 3] * len(row.pools)\n"
    )
    pools = fed_fleets()["one"]
    log = driven(busy(), pools, rows(pools, f"{file}:late", act_s=0.2)).log()
    # level 1 is told at 0.05 s for 0.25 s, the brake at 0.1 s for 0.11 s
    changes = log.meta["control"]["power"]["changes"]
    assert [(round(c["time_s"], 6), c["level"]) for c in changes] == [(0.11, 0.3)]


def test_low_pools_are_slowed_before_high_ones():
    pools = [drawing(pool(replicas=2, name="l"), low=True), drawing(pool(replicas=2, name="h"))]
    log = driven(busy(200, 300.0), pools, rows(pools, share=0.97)).log()
    changes = log.meta["control"]["power"]["changes"]
    first = {c["pool"]: c["time_s"] for c in reversed(changes)}
    assert "l" in first
    assert first["l"] < first.get("h", np.inf)


def test_a_budget_is_kept_better_with_a_controller_than_without():
    pools = fed_fleets()["one"]
    over = {}
    for policy in ("watch", "row_budget", "fixed_cap"):
        row = rows(pools, policy, 0.75)
        log = noted(driven(busy(200, 200.0), pools, row).log(), row, pools)
        over[policy] = power(view(log)).values["over_budget_s"]
    assert over["row_budget"] < 0.5 * over["watch"]
    assert over["fixed_cap"] == 0


def test_a_policy_that_wants_no_level_is_named_with_the_time(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("def mine(row, rule, memory):\n    return [9] * len(row.pools)\n")
    pools = fed_fleets()["one"]
    with pytest.raises(PolicyError, match=r"mine.py:mine: wants levels \[9\] of 1 pools at 0.0"):
        driven(busy(), pools, rows(pools, f"{file}:mine"))


# -- tables at a clock or a cap --------------------------------------------------------------------


@pytest.fixture(scope="module")
def priced():
    pool_ = Pool(device=DEVICE, tp=2, engine=Engine(max_num_seqs=64))
    graph = lower(catalog.model("llama-3.1-8b"), pool_)
    return price(graph, H100, max_tokens=512, max_seqs=64, max_len=8192)


STEPS = st.builds(
    lambda n, ctx, q, past: {
        "n_tokens": n + q, "n_seqs": n, "n_decode": n, "decode_ctx": float(ctx),
        "chunks": ((q, past),) if q else (),
    },
    st.integers(1, 64), st.integers(0, 8192), st.sampled_from([0, 1, 64, 333, 448]),
    st.integers(0, 7000),
)  # fmt: skip


def drawn(t, step):
    """(seconds, mean watts) of the kernels of a step on one device."""
    seconds, joule = step_work(t, t.time_s, **step), step_work(t, t.energy_j, **step)
    return seconds, t.idle_w / t.n_devices + joule / seconds / t.n_devices


@settings(max_examples=60, deadline=None)
@given(step=STEPS, cap_w=st.floats(200, 700))
def test_no_step_draws_more_than_its_cap(priced, step, cap_w):
    slow = at_clock(priced, H100, cap_w=cap_w)
    assert drawn(slow, step)[1] <= cap_w * (1 + 1e-9)


@settings(max_examples=60, deadline=None)
@given(step=STEPS, a=st.floats(200, 700), b=st.floats(200, 700))
def test_a_lower_cap_is_never_faster(priced, step, a, b):
    low, high = (at_clock(priced, H100, cap_w=w) for w in sorted((a, b)))
    assert drawn(low, step)[0] >= drawn(high, step)[0] * (1 - 1e-9)
    assert drawn(high, step)[0] >= drawn(priced, step)[0] * (1 - 1e-9)


@settings(max_examples=60, deadline=None)
@given(step=STEPS, a=st.floats(0.12, 1.0), b=st.floats(0.12, 1.0))
def test_a_lower_clock_is_never_faster_and_never_draws_more(priced, step, a, b):
    low, high = (drawn(at_clock(priced, H100, s), step) for s in sorted((a, b)))
    assert low[0] >= high[0] * (1 - 1e-9)
    assert low[1] <= high[1] * (1 + 1e-9)


def test_full_clock_and_a_cap_beyond_all_draws_are_the_table_itself(priced):
    assert at_clock(priced, H100) is priced
    assert at_clock(priced, H100, cap_w=1_000.0) is priced
    slow = at_clock(priced, H100, 0.5, 300.0)
    assert at_clock(slow, H100) is priced
    again = at_clock(slow, H100, 0.7)
    np.testing.assert_array_equal(
        again.time_s.tokens, at_clock(priced, H100, 0.7).time_s.tokens
    )  # of the table at full clock, not of the slowed one


def test_kernels_that_only_wait_for_memory_lose_nothing_and_others_all():
    memory, cores = (drawing(pool(), memory=m).table for m in (1.0, 0.0))
    half = at_clock(memory, H100, 0.5).time_s
    np.testing.assert_allclose(half.decode, memory.time_s.decode, rtol=1e-12)
    half = at_clock(cores, H100, 0.5).time_s
    np.testing.assert_allclose(half.decode, 2 * cores.time_s.decode, rtol=1e-12)


def test_a_lower_level_never_makes_the_row_draw_more(priced):
    draws = [most_w(at_clock(priced, H100, s)) for s in (1.0, 0.9, 0.7, 0.5, 0.3)]
    assert draws == sorted(draws, reverse=True)
    assert most_w(at_clock(priced, H100, cap_w=300.0)) <= 2 * 300.0 * (1 + 1e-9)


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ({"cap_w": 50.0}, "not above what it draws idle, 72 W"),
        ({"cap_w": 150.0}, "less than it can be told or keep, 200 W"),
        ({"clock": 0.05}, "a clock of 0.099 GHz .5%. is outside its range, 0.21 GHz"),
        ({"clock": 1.2}, "outside its range"),
    ],
)
def test_what_a_device_cannot_be_told_is_refused(priced, setting, said):
    with pytest.raises(SpecError, match=said):
        at_clock(priced, H100, **setting)
    assert least_cap_w(H100) == 200


# -- budgets by time -------------------------------------------------------------------------------


def test_a_course_holds_each_value_until_the_next_and_repeats():
    day = Course([(0.0, 1.0), (6.0, 2.0)], 24.0)
    assert day.at([0, 5.9, 6.0, 23.9, 24.0, 30.0]).tolist() == [1, 1, 2, 2, 1, 2]
    assert day.changes_s(49.0).tolist() == [6, 24, 30, 48]


def test_grams_an_hour_are_watts_at_the_carbon_of_the_time():
    row = RowPower(
        gco2e_per_h=500.0, budget_w=2_000.0, repeat_s=24 * 3600.0,
        carbon=[{"at_s": 0, "intensity_gco2e_per_kwh": 200.0},
                {"at_s": 43200, "intensity_gco2e_per_kwh": 500.0}],
    )  # fmt: skip
    # 500 g/h at 200 g/kWh are 2.5 kW, more than 2 kW; at 500 g/kWh 1 kW
    assert budget_w(row, np.array([0.0, 50_000.0, 90_000.0])).tolist() == [2000.0, 1000.0, 2000.0]


def test_carbon_is_counted_at_the_intensity_of_the_time():
    pools = fed_fleets()["one"]
    carbon = [{"at_s": 0, "intensity_gco2e_per_kwh": 0.0},
              {"at_s": 0.2, "intensity_gco2e_per_kwh": 3.6e6}]  # fmt: skip
    row = rows(pools, "watch", carbon=carbon)
    log = noted(serve(busy(), pools).log_so_far(), row, pools)
    part = view(log)
    edges = np.array([0, round(0.2 * PS), log.end_ps])
    late = dynamic_j(log.leaps, log, edges)[:, 1].sum() + 300 * (log.end_ps / PS - 0.2)
    assert power(part).gco2e == pytest.approx(late)  # a gram a joule


def test_levels_that_were_told_add_up_to_the_run():
    pools = fed_fleets()["unequal"]
    row = rows(pools, share=0.6)
    log = noted(driven(busy(), pools, row).log(), row, pools)
    for one in power(view(log)).pools:
        assert sum(s for _, s in one.at_level_s) == pytest.approx(log.end_ps / PS)
        assert {k for k, _ in one.at_level_s} <= set(LEVELS)


def test_steps_at_a_lower_clock_are_counted_as_slowed():
    mine = [drawing(pool(), memory=0.0)]
    slow = at_clock(mine[0].table, H100, 0.5)
    slowed = [replace(mine[0], table=slow)]
    row = RowPower(**QUICK)
    log = noted(serve(busy(10), slowed).log_so_far(), row, slowed)
    spent = log.replicas["busy_ps"].sum() / PS
    host = log.replicas["n_steps"].sum() * 1e-4
    assert power(view(log)).values["slowed_s"] == pytest.approx((spent - host) / 2, rel=0.01)


def test_a_table_of_another_device_says_nothing_of_bytes_it_does_not_move():
    quiet = replace(table(), hbm_bytes=drawing(pool(), memory=0.0).table.hbm_bytes)
    assert at_clock(quiet, H100, 0.5).time_s.tokens[1] == pytest.approx(2 * quiet.time_s.tokens[1])
