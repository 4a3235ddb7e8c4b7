"""`sm_share`: prompts and answers on shares of the same SMs, from the spec to the answer."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from forerun import api, catalog
from forerun.cost.part import Part, alone, beside, hbm_share
from forerun.errors import ForerunError, PolicyError
from forerun.ops.lower import lower
from forerun.sim.lanes import lanes_of
from forerun.sim.prepare import prepare
from forerun.spec.case import Case
from forerun.spec.deployment import Deployment, Pool

H100 = catalog.device("h100-sxm")
TABLES = ("tokens", "seqs", "decode", "prefill")


def case(share=None, *, pool=None, deployment=None, **rest):
    how = {"device": "h100-sxm", **(pool or {})}
    if share is not None:
        how["sm_share"] = share
    return Case.model_validate(
        {
            "name": "shares", "model": "llama-3.1-8b", "fleet": {"h100-sxm": 4},
            "traffic": {
                "arrivals": "poisson", "rate_per_s": 5.0, "n_requests": 120,
                "isl": {"kind": "lognormal", "mean": 2000, "cv": 0.8, "high": 8192},
                "osl": {"kind": "lognormal", "mean": 100, "cv": 0.8, "high": 500},
            },
            "slo": {"ttft_s": 1.0, "tpot_s": 0.015},
            "deployment": {"pools": [how], **(deployment or {})},
            **rest,
        }
    )  # fmt: skip


HALF = {"prefill": 0.6, "decode": 0.4}
SLOW = {"prefill": 0.2, "decode": 0.8}  # too little for prompts


# -- costs ------------------------------------------------------------------------------------


def test_the_whole_device_costs_what_it_costs_without_shares():
    plain, parts = (
        prepare(catalog.model("llama-3.1-8b"), Deployment(pools=(pool,)))[0].table
        for pool in (
            Pool(device="h100-sxm"),
            Pool(
                device="h100-sxm",
                sm_share={"prefill": 1.0, "decode": 1.0, "oversubscribe": True},
            ),
        )
    )
    for name in TABLES:
        np.testing.assert_array_equal(
            getattr(plain.time_s, name), getattr(parts.time_s, name), err_msg=name
        )


def test_fewer_sms_or_less_memory_never_make_a_step_faster():
    def table(part):
        from forerun.cost.price import price

        graph = lower(catalog.model("llama-3.1-8b"), Pool(device="h100-sxm"))
        return price(graph, H100, max_tokens=2048, max_seqs=32, max_len=4096, part=part).time_s

    shares = [table(alone(H100, share)) for share in (0.1, 0.2, 0.4, 0.7, 1.0)]
    memory = [table(Part(0.5, hbm)) for hbm in (0.3, 0.5, 0.8, 1.0)]
    for row in (shares, memory):
        for slower, faster in pairwise(row):
            for name in TABLES:
                assert (getattr(faster, name) <= getattr(slower, name) * (1 + 1e-12)).all()


def test_prompts_go_with_the_share_and_answers_until_the_memory_is_full():
    rows = prepare(
        catalog.model("llama-3.1-8b"),
        Deployment(pools=(Pool(device="h100-sxm", sm_share={"prefill": 0.5, "decode": 0.5}),)),
    )
    whole = prepare(catalog.model("llama-3.1-8b"), Deployment(pools=(Pool(device="h100-sxm"),)))[
        0
    ].table.time_s
    prompts, answers = rows[0].table.time_s, rows[2].table.time_s
    assert 1.8 < prompts.tokens[-1] / whole.tokens[-1] <= 2.0
    assert answers.tokens[8] == pytest.approx(whole.tokens[8], rel=0.02)


def test_some_of_the_sms_fill_the_memory():
    shares = np.linspace(0.01, 1, 50)
    curve = [hbm_share(H100, x) for x in shares]
    assert all(b >= a for a, b in pairwise(curve))
    assert curve[-1] == 1.0
    a100 = catalog.device("a100-sxm-80gb")
    assert hbm_share(a100, 0.2) < 1.0 <= hbm_share(a100, 0.35)


def test_the_other_lane_takes_memory_and_never_gives_any():
    for mine in (0.1, 0.5, 0.9):
        part = alone(H100, mine)
        left = [beside(part, mine, 1 - mine, other, 3e12) for other in (0.0, 1e12, 2e12, 3e12)]
        assert left[0] == part
        for more, less in pairwise(left):
            assert less.hbm <= more.hbm <= part.hbm
            assert less.flop == part.flop
        assert left[-1].hbm >= min(0.5, part.hbm)


def test_shares_beyond_the_device_are_had_in_proportion_when_both_work():
    part = beside(alone(H100, 1.0), 1.0, 0.5, 0.0, 3e12)
    assert part.flop == pytest.approx(1 / 1.5)


def test_the_rows_of_a_pool_have_its_devices_once():
    pool = Pool(device="h100-sxm", replicas=2, tp=2, sm_share=HALF)
    rows = prepare(catalog.model("llama-3.1-8b"), Deployment(pools=(pool,)))
    assert [row.pool.replicas for row in rows] == [2, 0, 2, 0]
    assert sum(row.pool.replicas * row.table.n_devices / row.table.stages for row in rows) == 4
    assert len({row.n_blocks for row in rows}) == 1
    assert callable(lanes_of)


# -- answers -----------------------------------------------------------------------------------


def test_an_answer_says_what_the_lanes_did():
    result = api.simulate(case(HALF), bootstrap=False)
    m = result.metrics
    assert m.n_devices == 1
    assert m.counts.finished == 120
    for name in ("prompts_busy", "answers_busy", "lanes_overlap"):
        assert 0 < getattr(m, name).value < 1
    assert m.lanes_overlap.value <= min(m.prompts_busy.value, m.answers_busy.value)
    assert 1 <= m.prompts_slowdown.value < 2
    assert 1 <= m.answers_slowdown.value < 2
    assert m.kv_peak.value <= 1
    assert any("share their devices" in reason for reason in result.reasons)
    assert any("shares of SMs" in a for a in result.provenance["assumed"])
    assert "40% for answers" in str(result)


def test_a_deployment_without_shares_reads_and_hashes_as_before():
    assert "sm_share" not in case().model_dump(mode="json")["deployment"]["pools"][0]
    assert api.simulate(case(), bootstrap=False).metrics.prompts_busy.value is None


@pytest.mark.parametrize("name", ["slo_driven", "least_for_tpot"])
def test_a_policy_changes_the_shares(name):
    result = api.simulate(
        case(SLOW | {"policy": name, "every_s": 0.5, "levels": [0.3]}), bootstrap=False
    )
    assert result.metrics.share_switches.value > 0
    fixed = api.simulate(case(SLOW), bootstrap=False)
    assert result.metrics.ttft_s.p90 < fixed.metrics.ttft_s.p90
    assert result.metrics.counts.finished == 120
    assert result.provenance["shares"]["switches"][0]["prefill"] > 0.2


def test_what_a_policy_sees_does_not_depend_on_leaps(tmp_path):
    logs = []
    for leap in (True, False):
        from forerun.sim.control.drive import Control
        from forerun.sim.serve import Server

        asked = case(SLOW | {"levels": [0.3], "policy": "slo_driven", "every_s": 0.3})
        wanted = api.requests(asked)
        pools = prepare(catalog.model("llama-3.1-8b"), asked.deployment)
        server = Server(pools, n_requests=len(wanted), leap=leap)
        control = Control(server, slo=asked.slo)
        server.inject(wanted)
        control.run()
        logs.append(control.log())
    assert logs[0].meta["lanes"]["switches"] == logs[1].meta["lanes"]["switches"]
    assert logs[0].requests.tobytes() == logs[1].requests.tobytes()
    assert logs[0].meta["lanes"]["switches"]


def test_a_policy_that_chooses_no_level_is_named(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("def mine(lanes, rule, memory):\n    return 99\n")
    share = HALF | {"policy": f"{path}:mine", "levels": [0.3]}
    with pytest.raises(PolicyError, match=r"chose level 99 for pool main at 1\.0+ s"):
        api.simulate(case(share), bootstrap=False)


# -- mistakes ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("share", "says"),
    [
        ({"prefill": 0.8, "decode": 0.4}, "more than all SMs"),
        ({"prefill": 0.8, "decode": 1.0}, "leaves none for prompts"),
        ({"prefill": 0.8}, "decode"),
        ({"prefill": 0.0, "decode": 0.4}, "prefill"),
        (HALF | {"levels": [1.0], "policy": "slo_driven"}, "leaves no SM for prompts"),
    ],
)
def test_shares_that_cannot_be_are_told(share, says):
    with pytest.raises(ValueError, match=says):
        case(share)


@pytest.mark.parametrize(
    ("more", "where"),
    [
        ({"pool": {"role": "prefill"}}, "role"),
        ({"pool": {"pp": 2}}, "pp"),
        ({"pool": {"engine": {"kept_tokens": 500}}}, "kept_tokens"),
        ({"deployment": {"kv_tiers": [{"tier": "dram", "capacity_bytes": 1e9}]}}, "kv_tiers"),
    ],
)
def test_what_shares_are_not_combined_with_is_told(more, where):
    from forerun.spec.check import check_case

    told = check_case(case(HALF, **more))
    assert any(problem.where.endswith(where) for problem in told), told


def test_a_policy_of_shares_goes_on_beside_a_pool_that_is_scaled():
    share = SLOW | {"policy": "slo_driven", "every_s": 0.5, "levels": [0.3]}
    rule = {"min_replicas": 1, "metric": "waiting", "target": 2}
    pools = [
        {"name": "a", "device": "h100-sxm", "sm_share": share},
        {"name": "b", "device": "h100-sxm", "replicas": 2, "autoscale": rule},
    ]
    result = api.simulate(case(deployment={"pools": pools}), bootstrap=False)
    assert result.metrics.share_switches.value > 0
    assert result.metrics.counts.finished == 120
    starts = result.provenance["control"]["cold_starts"]
    assert set(starts) == {"a", "b"}  # one replica of two lanes is one
    whole = api.simulate(case(share), bootstrap=False)
    assert result.metrics.usd_per_hour.value > 1.9 * whole.metrics.usd_per_hour.value


def test_a_rule_without_a_choice_or_an_aim_is_told():
    from forerun.spec.check import check_case

    told = check_case(case(HALF | {"levels": [0.3]}))
    assert [problem.where for problem in told] == ["deployment.pools.0.sm_share.levels"]
    rule = HALF | {"policy": "slo_driven"}
    told = check_case(case(rule, slo={"ttft_s": 1.0}))
    assert [problem.where for problem in told] == ["deployment.pools.0.sm_share.tpot_s"]


def test_a_plan_does_not_leave_shares_out_silently():
    from forerun.plan.limits import _of_deployment

    told = _of_deployment(case(HALF).deployment)
    assert [problem.where for problem in told] == ["deployment.pools.main.sm_share"]
    assert issubclass(PolicyError, ForerunError)


def test_a_case_that_nobody_checked_is_told_too():
    from forerun.errors import SpecError
    from forerun.sim.serve import Server
    from forerun.sim.tiers import Tier

    with pytest.raises(SpecError, match="lanes of pipeline stages"):
        api.simulate(case(HALF, pool={"pp": 2}))
    pools = prepare(
        catalog.model("llama-3.1-8b"),
        Deployment(pools=(Pool(device="h100-sxm", sm_share=HALF),)),
    )
    with pytest.raises(SpecError, match="cannot be combined with sm_share"):
        Server(pools, tiers=[Tier("dram", 1e9, 1e9, 1e-4)], hash_tokens=16)
