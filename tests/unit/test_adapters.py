"""Cases with adapters: how they are written, who names which, what they cost, what is refused."""

from __future__ import annotations

import numpy as np
import pytest

import forerun
from forerun import catalog
from forerun.cost.lora import of_rank, slots_bytes
from forerun.errors import SpecError
from forerun.ops.lower import lower
from forerun.plan.limits import check_plannable
from forerun.sim.adapters import fitting
from forerun.sim.prepare import prepare
from forerun.spec.adapters import Adapters
from forerun.spec.deployment import Pool
from forerun.spec.traces import read

CASE = """\
model: llama-3.1-8b
fleet: {h100-sxm: 2}
traffic:
  rate_per_s: 8 req/s
  n_requests: 400
  isl: 300
  osl: 20
  adapters: {n: 40}
slo: {ttft_s: 1 s, attainment: 0.9}
deployment: {device: h100-sxm, replicas: 2, adapters: {ranks: [16], max_loras: 4}}
"""


def case(tmp_path, text=CASE, *overrides):
    path = tmp_path / "case.yaml"
    path.write_text(text)
    return forerun.load(path, list(overrides))


def test_popular_adapters_are_named_more_often_by_zipf_s_law(tmp_path):
    read = case(tmp_path, CASE, "traffic.n_requests=20000", "traffic.adapters.n=4")
    n = np.bincount(forerun.api.requests(read).adapter) / 20_000
    # weights 1, 1/2, 1/3, 1/4; a share of 20,000 draws has a standard deviation below 0.0036
    np.testing.assert_allclose(n, np.array([12, 6, 4, 3]) / 25, atol=0.015)


def test_adapters_leave_all_else_of_the_traffic_as_it_was(tmp_path):
    with_them = forerun.api.requests(case(tmp_path))
    without = forerun.api.requests(
        case(tmp_path, CASE.replace("  adapters: {n: 40}\n", "").replace(
            ", adapters: {ranks: [16], max_loras: 4}", ""))
    )  # fmt: skip
    np.testing.assert_array_equal(with_them.arrival_s, without.arrival_s)
    assert without.adapter is None


def test_a_share_of_requests_can_want_the_base(tmp_path):
    named = forerun.api.requests(case(tmp_path, CASE, "traffic.adapters.share=0.25")).adapter
    assert 0.15 < (named >= 0).mean() < 0.35


def test_a_trace_names_adapters_in_a_column_and_keeps_them_when_written(tmp_path):
    path = tmp_path / "trace.csv"
    path.write_text("arrival_s,isl,osl,adapter\n0,10,5,3\n1,10,5,-1\n")
    found = read(path)
    assert found.adapter.tolist() == [3, -1]
    from forerun.spec.traces.plain import write

    assert write(found, tmp_path / "again.csv") == ()
    assert read(tmp_path / "again.csv").adapter.tolist() == [3, -1]


def test_an_adapter_that_is_no_number_is_refused(tmp_path):
    path = tmp_path / "trace.csv"
    path.write_text("arrival_s,isl,osl,adapter\n0,10,5,1.5\n")
    with pytest.raises(forerun.errors.TraceError, match=r"adapter 1\.5 is not"):
        read(path)


def test_the_size_of_an_adapter_is_that_of_its_matrices():
    graph = lower(catalog.model("llama-3.1-8b"), Pool(device="h100-sxm"))
    one = of_rank(graph, Adapters())
    # q 4096, k and v 1024 each, o 4096, up and gate 14336 each, down; 32 layers
    assert one.params == 32 * (4096 + 6144 + 2 * 4096 + 4096 + 28672 + 14336 + 4096)
    assert one.kernels == 32 * 4 * 2
    only = of_rank(graph, Adapters(modules="attention"))
    assert only.params == 32 * (4096 + 6144 + 2 * 4096)


def test_slots_take_what_the_cache_would_have():
    model, pool = catalog.model("llama-3.1-8b"), Pool(device="h100-sxm")
    how = Adapters(ranks=64, max_loras=32)
    deployment = forerun.spec.deployment.Deployment(pools=(pool,), adapters=how)
    (without,) = prepare(model, deployment)
    (held,) = prepare(model, deployment, n_adapters=100)
    taken = (without.n_blocks - held.n_blocks) * 16 * without.kv_token_bytes
    asked = slots_bytes(lower(model, pool), how)
    assert abs(taken - asked) <= 16 * without.kv_token_bytes


def test_every_device_loads_its_own_share():
    model, how = catalog.model("llama-3.1-8b"), Adapters(ranks=64)
    device = catalog.device("h100-sxm")
    one, two = (
        fitting(lower(model, pool), pool, device, how, 3)
        for pool in (Pool(device="h100-sxm"), Pool(device="h100-sxm", tp=2))
    )
    assert two.near_s[0] < one.near_s[0]
    assert two.load_bytes[0] > one.load_bytes[0]  # A or B is whole on each
    assert one.load_bytes[0] == pytest.approx(64 * 2 * of_rank(
        lower(model, Pool(device="h100-sxm")), how).params)  # fmt: skip


def test_ranks_are_padded_to_the_largest_unless_said_otherwise():
    model, pool = catalog.model("llama-3.1-8b"), Pool(device="h100-sxm")
    device = catalog.device("h100-sxm")
    padded, own = (
        fitting(lower(model, pool), pool, device, Adapters(ranks=(8, 64), padded=flag), 3).ranks
        for flag in (True, False)
    )
    assert padded.tolist() == [64, 64, 64]
    assert own.tolist() == [8, 64, 8]


def test_an_answer_tells_what_adapters_did(tmp_path):
    result = forerun.simulate(case(tmp_path), bootstrap=False)
    m = result.metrics
    assert 0 < m.adapter_hit.value < 1
    assert m.adapter_loads.value > 40
    assert m.adapters_mean.value > 1
    assert "40 of rank 16; 4 slots a replica" in str(result)
    assert any("adapters had to come" in reason for reason in result.reasons)
    assert any("roofline" in said for said in result.provenance["assumed"] if "adapters" in said)


def test_more_adapters_a_step_take_longer(tmp_path):
    few, many = (
        forerun.simulate(case(tmp_path, CASE, f"traffic.adapters.n={n}",
                              "deployment.adapters.max_loras=40",
                              "traffic.rate_per_s=40 req/s"), bootstrap=False).metrics
        for n in (1, 40)
    )  # fmt: skip
    assert many.tpot_s.p50 > few.tpot_s.p50


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("deployment.adapters.evict=at_once", "memory: paged"),
        ("deployment.adapters={memory: paged, slots: 9}", "there are none"),
        ("deployment.adapters.slots=2", "2 slots cannot hold the 4 adapters"),
        ("deployment.adapters.max_cpu_loras=9", "far_link"),
        ("deployment.adapters.ranks=[0]", "at least 1"),
        ("deployment.adapters.link=none-such", "none-such"),
        ("deployment.dp=2", "pp, dp or cp"),
    ],
)
def test_what_adapters_cannot_be_is_said(tmp_path, change, words):
    def ask():
        text = CASE.replace("replicas: 2", "replicas: 1")
        return forerun.simulate(case(tmp_path, text, change), bootstrap=False)

    with pytest.raises(SpecError, match=words):
        ask()


def test_both_sides_of_a_case_speak_of_adapters_or_none(tmp_path):
    with pytest.raises(SpecError, match="nothing says how replicas keep them"):
        case(tmp_path, CASE.replace(", adapters: {ranks: [16], max_loras: 4}", ""))
    with pytest.raises(SpecError, match="no request names one"):
        case(tmp_path, CASE.replace("  adapters: {n: 40}\n", ""))


def test_a_plan_refuses_adapters(tmp_path):
    one = case(tmp_path)
    with pytest.raises(SpecError, match=r"traffic\.adapters(.|\n)*deployment\.adapters"):
        check_plannable(one, "usd", one.deployment)
