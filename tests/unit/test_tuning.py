"""Cases that fine-tune beside serving: memory, figures, work done, what is refused."""

from __future__ import annotations

import numpy as np
import pytest

import forerun
from forerun import catalog
from forerun.errors import SpecError
from forerun.metrics import work
from forerun.plan.limits import check_plannable
from forerun.sim.prepare import prepare
from forerun.spec.deployment import Deployment, Engine, Pool
from forerun.spec.tuning import Tuning

CASE = """\
model: llama-3.1-8b
fleet: {h100-sxm: 1}
traffic: {rate_per_s: 4 req/s, n_requests: 100, isl: 300, osl: 40}
slo: {ttft_s: 1 s, attainment: 0.9}
deployment:
  device: h100-sxm
  engine: {tuning: {tokens: 1000000000}, tune: {name: fixed, params: {tokens: 256}}}
"""


def answer(tmp_path, *overrides, text=CASE):
    path = tmp_path / "case.yaml"
    path.write_text(text)
    return forerun.simulate(forerun.load(path, list(overrides)), bootstrap=False)


def test_an_answer_tells_what_was_trained_and_what_it_took(tmp_path):
    result = answer(tmp_path)
    m = result.metrics
    assert m.tuned_tokens.value > 10_000
    assert m.tuned_tokens_per_s.value == pytest.approx(m.tuned_tokens.value / m.duration_s)
    assert 0 < m.tuning_alone.value < 1
    assert 0 < m.tuning_beside.value < 1
    assert any(reason.startswith("Fine-tuning took") for reason in result.reasons)
    assert any("optimiser" in said for said in result.provenance["assumed"])
    assert "fixed policy, backward 2 times forward" in str(result)


def test_requests_are_slower_beside_it(tmp_path):
    """On the whole: one that comes a little later may meet a batch that is smaller."""
    without = answer(tmp_path, "deployment.engine.tuning=null").metrics
    assert without.tuned_tokens.value is None
    for policy in ("idle_only", "fixed", "slack"):
        with_it = answer(tmp_path, f"deployment.engine.tune={policy}").metrics
        assert with_it.e2el_s.mean > without.e2el_s.mean
        assert with_it.ttft_s.mean > without.ttft_s.mean
        if policy == "idle_only":  # nothing is trained beside decoding ones
            assert with_it.tpot_s.mean == pytest.approx(without.tpot_s.mean, rel=1e-3)
        else:
            assert with_it.tpot_s.mean > without.tpot_s.mean


def test_the_flop_of_a_trained_token_is_three_times_that_of_a_forward_one(tmp_path):
    log = answer(tmp_path, "deployment.engine.tune=idle_only").log
    alone = log.leaps[log.leaps["n_tuned"] > 0]
    flop = work.by_leap(alone, log, "flop") / (alone["n_steps"] * alone["n_tuned"])
    model = catalog.model("llama-3.1-8b")
    body = 2 * 6.98e9  # weights of the layers, without embedding and head
    assert model.n_layers == 32
    # attention of a token after 1,024 and half of 512 others: 4 * 4,096 flop each and layer
    attention = 32 * 4 * 4096 * (1024 + 256)
    np.testing.assert_allclose(flop, 3 * (body + attention), rtol=0.02)


def test_activations_of_a_sequence_take_what_the_cache_would_have():
    model = catalog.model("llama-3.1-8b")
    pools = (
        Pool(device="h100-sxm"),
        Pool(device="h100-sxm", engine=Engine(tuning=Tuning(tokens=9))),
    )
    without, held = (prepare(model, Deployment(pools=(pool,)))[0] for pool in pools)
    taken = (without.n_blocks - held.n_blocks) * 16 * without.kv_token_bytes
    assert abs(taken - 2048 * 32 * 4096 * 34) <= 16 * without.kv_token_bytes


def test_an_engine_that_does_not_tune_reads_and_hashes_as_it_always_did():
    assert not {"tune", "tuning"} & Engine().model_dump().keys()


def test_a_plan_refuses_tuning(tmp_path):
    path = tmp_path / "case.yaml"
    path.write_text(CASE)
    case = forerun.load(path)
    with pytest.raises(SpecError, match=r"engine\.tuning"):
        check_plannable(case, "usd", case.deployment)
