"""Clocks, caps and budgets that cannot be are refused in sentences; answers say what was drawn."""

from __future__ import annotations

import pytest

from forerun import api
from forerun.errors import ForerunError, SpecError

CASE = {
    "model": "llama-3.1-8b",
    "fleet": {"h100-sxm": 4},
    "traffic": {"arrivals": "poisson", "rate_per_s": "20 req/s", "n_requests": 60,
                "isl": 300, "osl": 40},
    "slo": {"ttft_s": "2 s", "tpot_s": "50 ms"},
}  # fmt: skip
POOL = {"device": "h100-sxm", "replicas": 2}


def case(row=None, power=None, device=None, **pool):
    data = {**POOL, **pool}
    if power is not None:
        data["power"] = power
    fleet = CASE["fleet"]
    if device is not None:
        data["device"], fleet = device, {device: 4}
    deployment = {"pools": [data]} | ({} if row is None else {"power": row})
    return api.read(CASE | {"fleet": fleet, "deployment": deployment}, env={}, project=False).case


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"policy": "row_bugdet", "budget_w": "2 kW"}, "did you mean row_budget"),
        ({"policy": "row_budget"}, "budget_w: is missing (row_budget keeps to it)"),
        ({"policy": "slack"}, "tpot_s: is missing"),
        ({"levels": [0.9, 0.5]}, "do not fall from 1"),
        ({"levels": [1.0, 0.5, 0.5]}, "do not fall from 1"),
        ({"gco2e_per_h": 100}, "grams an hour are no watts"),
        ({"pools": ["mian"], "budget_w": "2 kW"}, "did you mean main"),
        ({"trip_s": "3 s"}, "nothing trips without a budget"),
        ({"repeat_s": "24 h"}, "nothing repeats"),
        ({"budgets": [{"at_s": "1 h", "budget_w": "2 kW"}]}, "what holds before is not said"),
        (
            {"budgets": [{"at_s": "0 h", "budget_w": "2 kW"}, {"at_s": "0 h", "budget_w": "1 kW"}]},
            "is not after",
        ),
        (
            {
                "repeat_s": "1 h",
                "budgets": [
                    {"at_s": "0 h", "budget_w": "2 kW"},
                    {"at_s": "2 h", "budget_w": "1 kW"},
                ],
            },
            "lies beyond the 3600 s",
        ),
    ],
)
def test_a_row_that_cannot_be_is_refused_when_it_is_read(row, said):
    with pytest.raises(SpecError) as refused:
        case(row)
    assert said in str(refused.value)
    assert all(problem.fix for problem in refused.value.problems)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"power": {"cap_w": "60 W"}}, "not above what it draws idle, 72 W"),
        ({"power": {"cap_w": "150 W"}}, "200 W"),
        ({"power": {"clock_hz": "3 GHz"}}, "outside its range, 0.21 GHz (11%) to 1.98 GHz"),
        ({"power": {"clock_hz": "100 MHz"}}, "outside its range"),
        ({"power": {"cap_w": "100 W"}, "device": "tpu-v5e"}, "power of a tpu follows its clock"),
        ({"power": {"cap_w": "100 W"}, "device": "v100-sxm-32gb"}, "idle_w: 60 W in a device file"),
        ({"row": {"policy": "row_budget", "budget_w": "300 W"}}, "less than the row can draw at"),
        ({"row": {"policy": "fixed_cap", "budget_w": "2 kW", "levels": [1.0, 0.05]}}, "below the"),
        (
            {
                "row": {
                    "policy": "fixed_cap",
                    "gco2e_per_h": 1,
                    "carbon": [{"at_s": "0 h", "intensity_gco2e_per_kwh": "400 gCO2e/kWh"}],
                }
            },
            "gco2e_per_h: 2.5 W is less",
        ),
    ],
)
def test_what_devices_cannot_do_is_said_before_the_run(given, said):
    with pytest.raises(ForerunError) as refused:
        api.simulate(case(**given))
    assert said in str(refused.value)


def test_what_says_nothing_of_power_reads_and_hashes_as_it_did():
    plain = case()
    assert "power" not in plain.deployment.model_dump()
    assert "power" not in plain.deployment.pools[0].model_dump()
    answer = api.simulate(plain, bootstrap=False)
    assert answer.metrics.row_peak_w.value is None
    assert answer.metrics.power_by_pool == ()
    assert not any("row drew" in reason for reason in answer.reasons)


def test_a_cap_slows_prompts_more_than_answers_and_the_answer_says_so():
    free = api.simulate(case({}), bootstrap=False)
    capped = api.simulate(case({}, {"cap_w": "350 W"}), bootstrap=False)
    one, other = (answer.metrics.power_by_pool[0] for answer in (free, capped))
    assert other.peak_w <= 2 * 350 * (1 + 1e-6) < one.peak_w
    assert one.slowed_s == 0 < other.slowed_s
    ttft, tpot = (
        getattr(capped.metrics, name).p50 / getattr(free.metrics, name).p50
        for name in ("ttft_s", "tpot_s")
    )
    assert ttft > tpot > 1
    assert any("longer than at full clock" in reason for reason in capped.reasons)
    assert any("metered under clocks" in said for said in capped.provenance["assumed"])
    assert capped.to_dict()["power_by_pool"][0]["pool"] == "main"


def test_a_fixed_clock_is_the_lower_of_its_own_and_the_level():
    slow = api.simulate(case({}, {"clock_hz": "990 MHz"}), bootstrap=False)
    row = {"policy": "fixed_cap", "budget_w": "1.36 kW", "levels": [1.0, 0.9, 0.8, 0.3]}
    both = api.simulate(case(row, {"clock_hz": "990 MHz"}), bootstrap=False)
    # whatever of these levels is told, half of the clock is lower
    assert {level for level, _ in both.metrics.power_by_pool[0].at_level_s} <= {1.0, 0.9, 0.8}
    assert both.metrics.ttft_s.p50 == slow.metrics.ttft_s.p50


def test_a_breaker_that_would_have_tripped_is_told():
    row = {"budget_w": "700 W", "trip_s": "0.5 s"}
    answer = api.simulate(case(row), bootstrap=False)
    assert answer.metrics.over_budget_longest_s.value > 0.5
    assert any("would have tripped" in reason for reason in answer.reasons)


def test_a_plan_does_not_leave_power_out_silently():
    from forerun.plan.limits import check_plannable

    asked = case({"budget_w": "2 kW"}, {"cap_w": "400 W"})
    with pytest.raises(SpecError) as refused:
        check_plannable(asked, "price", asked.deployment)
    assert "deployment.power: a plan would leave it out" in str(refused.value)
    assert "deployment.pools.main.power: a plan takes devices at full clock" in str(refused.value)


def slower(free, capped, figure="tpot_s"):
    """How many times as long the median took with the pool's own power as without."""
    return getattr(capped.metrics, figure).p50 / getattr(free.metrics, figure).p50


def test_a_fixed_clock_goes_with_experts_whose_load_changes():
    moe = {"routing": {"kind": "zipf", "skew": 0.5, "drift": 0.5, "correlation_s": "1 s"},
           "window_s": "0.5 s"}  # fmt: skip
    asked = CASE | {"model": "qwen3-30b-a3b"}
    answers = []
    for power in (None, {"clock_hz": "990 MHz"}):
        pool = {**POOL, "ep": 2, "tp": 2, "moe": moe} | ({"power": power} if power else {})
        deployment = {"pools": [pool]}
        given = api.read(asked | {"deployment": deployment}, env={}, project=False).case
        answers.append(api.simulate(given, bootstrap=False))
    assert len({int(p) for p in answers[1].log.leaps["pool"]}) > 1  # levels of load
    assert 1.05 < slower(*answers) < 2
    assert all(t.free is not None for t in answers[1].log.tables)


def test_a_cap_and_a_budget_go_with_models_that_take_turns():
    def asked(power=None, row=None, n=60):
        pool = {"device": "h100-sxm", "replicas": 1, "models": ["a", "b"]}
        pool |= {"power": power} if power else {}
        data = CASE | {"models": {"a": {"model": "llama-3.1-8b"}, "b": {"model": "qwen3-8b"}}}
        data |= {"traffic": CASE["traffic"] | {"n_requests": n}}
        data.pop("model")
        deployment = {"pools": [pool]} | ({"power": row} if row else {})
        return api.read(data | {"deployment": deployment}, env={}, project=False).case

    free, slow = (
        api.simulate(asked(power), bootstrap=False) for power in (None, {"cap_w": "300 W"})
    )
    assert slower(free, slow) > 1.05
    assert slow.metrics.row_peak_w.value <= 300 * (1 + 1e-6)
    assert slow.metrics.row_mean_w.value == pytest.approx(slow.metrics.power_w.value, rel=1e-6)
    watched, kept = (
        api.simulate(asked(row={"policy": policy, "budget_w": "400 W"}, n=400), bootstrap=False)
        for policy in ("watch", "row_budget")
    )
    assert slower(watched, kept) > 1.02
    assert len({int(p) for p in kept.log.leaps["pool"]}) > 2  # each model at several clocks


def test_a_clock_slows_the_draft_on_the_same_devices_too():
    engine = {
        "speculation": {
            "kind": "draft",
            "draft": "llama-3.2-1b",
            "k": 3,
            "acceptance": {"alpha": 0.7},
        }
    }
    free, slow = (
        api.simulate(case({}, power, engine=engine), bootstrap=False)
        for power in ({}, {"clock_hz": "990 MHz"})
    )
    assert slower(free, slow) > 1.1
    table = slow.log.tables[0]
    assert table.draft.time_s.tokens[8] > free.log.tables[0].draft.time_s.tokens[8]


def test_a_controller_goes_with_scaling_faults_and_roles():
    pools = [
        {"name": "p", "role": "prefill", "device": "h100-sxm", "replicas": 1},
        {"name": "d", "role": "decode", "device": "h100-sxm", "replicas": 2,
         "autoscale": {"target": 8, "period_s": "1 s"}, "power": {"priority": "low"}},
    ]  # fmt: skip
    row = {"policy": "row_budget", "budget_w": "1.6 kW", "period_s": "0.5 s", "act_s": "0.2 s",
           "delay_s": "0.2 s", "window_s": "0.5 s"}  # fmt: skip
    faults = [{"effect": "slow", "at_s": ["1 s"], "mttr_s": "1 s", "factor": 2, "pool": "d"}]
    data = CASE | {"deployment": {"pools": pools, "power": row}, "faults": faults}
    answer = api.simulate(api.read(data, env={}, project=False).case, bootstrap=False)
    assert answer.metrics.counts.finished == 60
    assert {one.pool for one in answer.metrics.power_by_pool} == {"p", "d"}
    assert answer.provenance["control"]["power"]["n_looks"] > 3


def test_a_pool_that_the_row_does_not_feed_is_told_beside_it():
    pools = [{**POOL, "name": name} for name in ("a", "b")]
    row = {"pools": ["a"], "budget_w": "9 kW"}
    data = CASE | {"deployment": {"pools": pools, "power": row}}
    answer = api.simulate(api.read(data, env={}, project=False).case, bootstrap=False)
    told = [reason for reason in answer.reasons if " drew " in reason]
    assert [words.split(" drew")[0] for words in told] == ["The row", "Of it a", "Beside it b"]
    inside, outside = answer.metrics.power_by_pool
    assert answer.metrics.row_mean_w.value == pytest.approx(inside.mean_w)
    assert inside.mean_w + outside.mean_w == pytest.approx(answer.metrics.power_w.value)
