"""Cases with several models: how they are written, what traffic asks for them, what is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest

import forerun
from forerun.errors import Infeasible, SpecError
from forerun.spec.case import Case
from forerun.spec.requests import Requests
from forerun.spec.traces.mix import merged

BASE = """\
fleet: {h100-sxm: 4}
traffic: {rate_per_s: 8 req/s, n_requests: 600, isl: 300, osl: 20}
slo: {ttft_s: 1 s, attainment: 0.9}
"""
TWO = "models: {llama-3.1-8b: 0.75, qwen3-8b: 0.25}\n"
APART = """\
deployment:
  pools:
    - {name: a, device: h100-sxm, model: llama-3.1-8b}
    - {name: b, device: h100-sxm, models: [qwen3-8b]}
"""
TURNS = """\
deployment: {device: h100-sxm, replicas: 3, models: [llama-3.1-8b, qwen3-8b]}
"""


def case(tmp_path, text, *overrides):
    path = tmp_path / "case.yaml"
    path.write_text(text)
    return forerun.load(path, list(overrides))


def test_the_first_model_is_the_case_s_and_a_number_is_a_share(tmp_path):
    read = case(tmp_path, BASE + TWO + APART)
    assert read.model == "llama-3.1-8b"
    assert [one.share for one in read.models.values()] == [0.75, 0.25]
    assert [pool.models for pool in read.deployment.pools] == [("llama-3.1-8b",), ("qwen3-8b",)]
    assert Case.model_validate_json(read.model_dump_json()) == read


def test_traffic_is_divided_by_shares_and_stays_that_of_the_case(tmp_path):
    read = case(tmp_path, BASE + TWO + APART)
    requests = forerun.api.requests(read)
    alone = forerun.api.requests(read.model_copy(update={"models": {}}))
    np.testing.assert_array_equal(requests.arrival_s, alone.arrival_s)
    np.testing.assert_array_equal(requests.isl, alone.isl)
    # 600 draws of 1/4: the standard deviation of their share is 0.018
    assert abs(requests.model.mean() - 0.25) < 4 * 0.018


def test_a_model_s_own_traffic_comes_beside_the_case_s(tmp_path):
    own = """\
models:
  llama-3.1-8b: {}
  qwen3-8b: {traffic: {rate_per_s: 2 req/s, n_requests: 50, isl: 999, osl: 5}}
"""
    requests = forerun.api.requests(case(tmp_path, BASE + own + APART))
    assert np.bincount(requests.model).tolist() == [600, 50]
    assert set(requests.isl[requests.model == 1]) == {999}
    assert (np.diff(requests.arrival_s) >= 0).all()


def test_workloads_are_merged_with_their_sessions_and_prefixes_apart():
    a = Requests(
        np.array([0.0, 2.0]), np.full(2, 9), np.ones(2, int), session=np.array([0, -1]),
        block_hashes=np.array([7, 8, 7]), block_starts=np.array([0, 2, 3]), hash_tokens=4,
        model=np.zeros(2, int),
    )  # fmt: skip
    b = Requests(
        np.array([1.0]), np.full(1, 9), np.ones(1, int), session=np.array([0]),
        block_hashes=np.array([7]), block_starts=np.array([0, 1]), hash_tokens=4,
        model=np.ones(1, int),
    )  # fmt: skip
    c = Requests(np.array([3.0]), np.full(1, 9), np.ones(1, int), model=np.ones(1, int))
    m = merged([a, b, c])
    assert m.model.tolist() == [0, 1, 0, 1]
    assert m.session.tolist() == [0, 1, -1, -1]
    assert np.diff(m.block_starts).tolist() == [2, 1, 1, 0]
    assert m.block_hashes[0] == m.block_hashes[3] != m.block_hashes[2]


def test_figures_are_given_by_model_and_add_up(tmp_path):
    result = forerun.simulate(case(tmp_path, BASE + TWO + APART), bootstrap=False)
    rows = result.metrics.by_model
    assert [row.model for row in rows] == ["llama-3.1-8b", "qwen3-8b"]
    assert sum(row.n for row in rows) == 600
    total = sum(row.output_tokens_per_s for row in rows)
    assert total == pytest.approx(result.metrics.output_tokens_per_s.value)
    told = result.to_dict()
    assert [row["n"] for row in told["by_model"]] == [row.n for row in rows]
    json.dumps(told, allow_nan=False)
    assert "\nby model\n" in str(result)
    assert result.metrics.turns.value is None  # nothing was loaded


def test_one_model_by_name_is_the_case_without_names(tmp_path):
    plain = "model: llama-3.1-8b\ndeployment: {device: h100-sxm, replicas: 2}\n"
    named = "models: {llama-3.1-8b: 1.0}\ndeployment: {device: h100-sxm, replicas: 2}\n"
    logs = [forerun.simulate(case(tmp_path, BASE + t), bootstrap=False).log for t in (plain, named)]
    assert logs[0].requests.tobytes() == logs[1].requests.tobytes()
    assert logs[0].leaps.tobytes() == logs[1].leaps.tobytes()


def test_replicas_that_hold_one_of_two_models_load_at_the_rate_of_the_link(tmp_path):
    result = forerun.simulate(case(tmp_path, BASE + TWO + TURNS), bootstrap=False)
    loads = result.log.loads
    assert loads["n"].sum() > 10
    mean_s = loads["load_ps"].sum() / loads["n_cold"].sum() / 1e12
    assert mean_s == pytest.approx(16e9 / 63e9, rel=0.05)  # 8 G parameters of 2 bytes, PCIe 5
    assert result.metrics.loading.value > 0
    assert any("took up another model" in reason for reason in result.reasons)
    assert any("weights come over pcie5-x16" in a for a in result.provenance["assumed"])


def test_models_that_are_kept_take_memory_from_kv_and_no_time(tmp_path):
    one, two = (
        forerun.simulate(
            case(tmp_path, BASE + TWO + TURNS, f"deployment.resident={n}"), bootstrap=False
        )
        for n in (1, 2)
    )
    assert two.metrics.loading.value == 0
    assert two.metrics.turns.value > 0
    assert two.log.kv_blocks[0] < one.log.kv_blocks[0]


def test_a_slower_tier_takes_longer_and_a_common_base_less(tmp_path):
    shared = """\
models:
  a: {model: llama-3.1-8b, base: llama, own_share: 0.1}
  b: {model: llama-3.1-8b, base: llama, own_share: 0.1}
deployment: {device: h100-sxm, replicas: 2, models: [a, b]}
"""
    spread = shared.replace(", base: llama, own_share: 0.1", "")

    def mean_s(text, *overrides):
        loads = forerun.simulate(case(tmp_path, BASE + text, *overrides), bootstrap=False)
        loads = loads.log.loads
        return loads["load_ps"].sum() / loads["n_cold"].sum()

    whole = mean_s(spread)
    assert mean_s(shared) == pytest.approx(0.1 * whole, rel=0.01)
    slow = mean_s(spread, "deployment.pools.0.weights_link=pcie4-x4")
    assert slow == pytest.approx(8 * whole, rel=0.01)  # 63 GB/s against 7.9


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (TWO + "deployment: {device: h100-sxm}\n", "which of them does it serve"),
        (TWO + "deployment: {device: h100-sxm, model: llama-3.1-8b}\n", "no pool serves qwen3-8b"),
        (TWO + "deployment: {device: h100-sxm, model: mixtral}\n", "is not one of the case's"),
        (
            TWO + "deployment: {device: h100-sxm, models: [llama-3.1-8b, qwen3-8b], resident: 3}\n",
            "3 models are to be kept, the pool serves 2",
        ),
        (
            "models: {llama-3.1-8b: {own_share: 0.1}}\ndeployment: {device: h100-sxm}\n",
            "no base is named",
        ),
        ("models: {llama-3.1-8c: 1.0}\n", "llama-3.1-8c"),
        (TWO, "is for one model, the case has several"),
    ],
)
def test_what_cannot_be_run_is_refused_in_a_sentence(tmp_path, text, said):
    with pytest.raises(SpecError, match=said):
        forerun.simulate(case(tmp_path, BASE + text))


def test_models_that_are_to_be_kept_and_do_not_fit_are_refused(tmp_path):
    text = """\
models: {llama-3.1-70b: 1.0, qwen3-8b: 1.0}
deployment: {device: h100-sxm, tp: 2, models: [llama-3.1-70b, qwen3-8b], resident: 2}
"""
    with pytest.raises(Infeasible):
        forerun.simulate(case(tmp_path, BASE + text))


def test_a_plan_is_for_one_model(tmp_path):
    with pytest.raises(SpecError, match="a plan is for one model"):
        forerun.api.plan(case(tmp_path, BASE + TWO + APART))


def test_a_trace_can_name_the_models_and_one_it_does_not_know_is_refused(tmp_path):
    trace = tmp_path / "mine.csv"
    rows = ["qwen3-8b", "llama-3.1-8b", "qwen3-8b"]
    trace.write_text(
        "arrival_s,isl,osl,model\n" + "".join(f"{t},100,5,{m}\n" for t, m in enumerate(rows))
    )
    text = f"fleet: {{h100-sxm: 4}}\ntraffic: {{trace: {trace}}}\n"
    assert forerun.api.requests(case(tmp_path, text + TWO + APART)).model.tolist() == [1, 0, 1]
    one = "model: llama-3.1-8b\ndeployment: {device: h100-sxm}\n"
    assert forerun.api.requests(case(tmp_path, text + one)).model is None
    other = text + TWO.replace("qwen3-8b", "qwen3-4b") + APART.replace("qwen3-8b", "qwen3-4b")
    with pytest.raises(SpecError, match="asks for 'qwen3-8b'"):
        forerun.api.requests(case(tmp_path, other))


def test_a_conversation_asks_one_model_all_along(tmp_path):
    trace = tmp_path / "talks.csv"
    trace.write_text(
        "arrival_s,isl,osl,session\n" + "".join(f"{t},100,5,{t % 7}\n" for t in range(70))
    )
    text = f"fleet: {{h100-sxm: 4}}\ntraffic: {{trace: {trace}}}\n"
    requests = forerun.api.requests(case(tmp_path, text + TWO + APART))
    asked = {s: set(requests.model[requests.session == s].tolist()) for s in range(7)}
    assert all(len(models) == 1 for models in asked.values())
    assert set().union(*asked.values()) == {0, 1}


BLOCKS = """\
models:
  a: {model: llama-3.1-8b, blocks: {base: 0.6, chat: 0.3}}
  b: {model: llama-3.1-8b, blocks: {base: 0.6, code: 0.3}}
  c: {model: llama-3.1-8b, blocks: {base: 0.6, chat: 0.3}}
deployment:
  {device: h100-sxm, replicas: 1, models: [a, b, c], resident: 2, weights_link: pcie4-x4}
"""


def test_models_that_are_kept_together_have_each_block_once():
    from forerun.api._models import beside

    parts = [{"base": 0.6, "chat": 0.3}, {"base": 0.6, "code": 0.3}, {"base": 0.6, "chat": 0.3}]
    sizes = [10.0, 10.0, 10.0]
    assert beside(sizes, parts, 0, 1) == 0
    assert beside(sizes, parts, 0, 2) == pytest.approx(4)  # b: its code block, its own tenth
    assert beside(sizes, parts, 0, 3) == pytest.approx(5)  # and of c the tenth alone
    assert beside(sizes, [{}, {}, {}], 0, 2) == 10
    assert beside([1.0] * 40, [{}] * 40, 0, 21) == 20  # too many sets: nothing is shared


def test_shared_blocks_make_turns_cheaper_and_leave_more_memory(tmp_path):
    blocks = forerun.simulate(case(tmp_path, BASE + BLOCKS), bootstrap=False)
    plain = BLOCKS
    for part in ("chat", "code"):
        plain = plain.replace(f", blocks: {{base: 0.6, {part}: 0.3}}", "")
    apart = forerun.simulate(case(tmp_path, BASE + plain), bootstrap=False)
    m, n = blocks.metrics, apart.metrics
    assert (
        m.weights_loaded_bytes.value / m.turns.value
        < n.weights_loaded_bytes.value / n.turns.value / 2
    )
    assert (blocks.log.kv_blocks > apart.log.kv_blocks).all()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("{base: 0.8, chat: 0.3}", "its blocks are 110% of its weights"),
        ("{base: 0.5, chat: 0.3}", "one block has one size"),
        ("{base: 0.6, chat: 0.3}, base: x", "name it in blocks as well"),
    ],
)
def test_blocks_that_cannot_be_are_refused(tmp_path, change, words):
    text = BASE + BLOCKS.replace("{base: 0.6, chat: 0.3}", change, 1)

    def ask():
        return forerun.simulate(case(tmp_path, text), bootstrap=False)

    with pytest.raises(SpecError, match=words):
        ask()
