"""What naming an engine does to a case: its profile's host terms and factors, and who wins."""

from dataclasses import replace

import numpy as np
import pytest

from forerun import api, catalog, units
from forerun.calibrate import bench
from forerun.calibrate.profile_fit import SD
from forerun.cost import engine_fit
from forerun.cost.engine_fit import EngineFit
from forerun.cost.engine_profile import UNKNOWN, EngineProfile, engines, profile
from forerun.sim.prepare import prepare
from forerun.spec.deployment import Deployment, Engine, Pool

MODEL = "llama-3.1-8b"


def case(**engine):
    return of({"device": "h100-sxm", "engine": engine})


def of(deployment):
    return api.load(
        {
            "model": MODEL, "fleet": {"h100-sxm": 2},
            "traffic": {"isl": 500, "osl": 50, "rate_per_s": "2 req/s", "n_requests": 40},
            "deployment": deployment,
        }
    )  # fmt: skip


def told(result):
    return "; ".join(result.provenance["assumed"])


@pytest.mark.parametrize("engine", engines())
def test_an_engine_that_is_named_brings_its_profile(engine):
    known, plain = profile(engine), api.simulate(case(), bootstrap=False)
    found = api.simulate(case(runtime=engine), bootstrap=False)
    assert f"host terms of {engine}: profile fitted to {known.rows} runs of {known.origin}" in told(
        found
    )
    assert "median error on runs not used: TPOT" in told(found)
    assert found.provenance["calibration_ids"] == [f"profile of {engine} {known.content_hash()}"]
    assert found.metrics.tpot_s.mean != plain.metrics.tpot_s.mean
    # the API server's time comes before the first token; prompts differ by the factors on them
    later = found.metrics.ttft_s.mean - plain.metrics.ttft_s.mean
    assert later > known.api_request_s - 0.3 * plain.metrics.ttft_s.mean
    is_other = known.batch.name != "chunked"
    assert (f"the profile is of {engine}'s {known.batch.name} batches" in told(found)) is is_other


def test_the_terms_and_factors_are_the_profiles():
    known = profile("trtllm")
    pool = Pool(device="h100-sxm", engine=Engine(runtime="trtllm"))
    (served,) = prepare(catalog.model(MODEL), Deployment(pools=(pool,)))
    bare = pool.model_copy(update={"engine": pool.engine.model_copy(update={"calibration": None})})
    (before,) = prepare(catalog.model(MODEL), Deployment(pools=(bare,)))
    assert served.table.host_step_s == known.host_step_s
    assert served.table.host_seq_s == known.host_seq_s
    assert served.table.eager_s > before.table.eager_s == 0
    ratio = served.table.time_s.decode[4, 1] / before.table.time_s.decode[4, 1]
    assert ratio == pytest.approx(known.decode)
    assert served.pool.engine.host_request_s == known.api_request_s
    assert served.table.low < before.table.low
    assert served.table.sources == before.table.sources


def test_without_a_named_engine_the_host_takes_no_time_and_the_answer_says_so():
    plain = api.simulate(case(), bootstrap=False)
    assert "the host takes no time (no engine is named; " in told(plain)
    assert plain.provenance["calibration_ids"] == []
    own = api.simulate(case(host_step_s="1 ms"), bootstrap=False)
    assert "the host takes no time" not in told(own)


def test_an_older_version_has_the_profile_of_before():
    older, newest = profile("vllm", "0.12.0"), profile("vllm")
    assert (older.name, newest.name) == ("vllm before 0.14", "vllm")
    assert profile("vllm", "0.11.2") == profile("vllm", "0.13") == older
    assert profile("vllm", "0.14.0") == profile("vllm", "0.24.0") == newest
    assert profile("sglang", "0.1.0") == profile("sglang")
    assert older.transfer_s == newest.transfer_s > 0  # no run of pools apart told it
    # its host waits for every step, and a step takes longer for it
    found = api.simulate(case(runtime="vllm 0.12.0"), bootstrap=False)
    assert "host terms of vllm before 0.14: profile fitted to" in told(found)
    late = api.simulate(case(runtime="vllm 0.18.0"), bootstrap=False)
    more = older.host_step_s - newest.host_step_s
    assert found.metrics.tpot_s.mean > late.metrics.tpot_s.mean + 0.9 * more


def test_a_prediction_names_the_profile():
    assert api.predict(case(runtime="vllm"))[0].why.endswith("; host: profile of vllm")
    assert "host" not in api.predict(case())[0].why


def test_what_a_hand_over_takes_an_engine_is_said_where_prompts_have_a_pool():
    engine = {"runtime": "vllm"}
    pools = [
        {"name": role, "device": "h100-sxm", "engine": engine, "role": role}
        for role in ("prefill", "decode")
    ]
    words = f"from pools apart vllm sent it {units.show(profile('vllm').transfer_s, 'time')} later"
    assert words in told(api.simulate(of({"pools": pools}), bootstrap=False))
    assert words not in told(api.simulate(case(runtime="vllm"), bootstrap=False))


def test_an_engine_without_a_profile_is_said():
    found = api.simulate(case(runtime="llamacpp"), bootstrap=False)
    assert "the host takes no time (llamacpp has no profile; " in told(found)


def test_host_terms_of_ones_own_win():
    alone = case(runtime="vllm", host_step_s="1 ms").deployment.pools[0].engine
    assert alone.calibration is None  # nothing is mixed unless that is asked for
    for none in (None, "none"):
        off = case(runtime="vllm", calibration=none).deployment.pools[0].engine
        assert off.calibration is None
    engine = Engine(runtime="vllm", calibration="profile", host_step_s=1e-3)
    pool = Pool(device="h100-sxm", engine=engine)
    mixed = engine_fit.on_pool(engine_fit.of_pool(pool), MODEL, pool).engine
    assert mixed.host_step_s == 1e-3
    assert mixed.host_request_s == profile("vllm").api_request_s
    none = Pool(device="h100-sxm", engine=Engine(runtime="vllm", host_step_s=0.0))
    assert engine_fit.of_pool(none) is None


@pytest.mark.parametrize(
    "engine", [{}, {"runtime": "vllm"}, {"runtime": "vllm", "host_seq_s": 0.0}]
)
def test_an_answer_read_again_means_the_same(engine):
    first = Engine(**engine)
    again = Engine.model_validate(first.model_dump(mode="json"))
    assert (again.calibration, again.content_hash()) == (first.calibration, first.content_hash())
    pools = [Pool(device="h100-sxm", engine=e) for e in (first, again)]
    a, b = (engine_fit.on_pool(engine_fit.of_pool(p), MODEL, p).engine for p in pools)
    assert a == b


def test_naming_the_default_runtime_is_another_case():
    assert Engine().content_hash() != Engine(runtime="vllm").content_hash()


def test_a_benchmark_is_fitted_to_costs_that_no_profile_changed():
    pool = Pool(device="h100-sxm", engine=Engine(runtime="vllm"))
    bare = bench._uncalibrated(Deployment(pools=(pool,)))
    assert engine_fit.of_pool(pool) is not None
    assert engine_fit.of_pool(bare.pools[0]) is None


def test_priors_and_coefficients_are_one_list():
    assert set(SD) == set(EngineProfile.times())
    assert set(bench.HOST_SD) == set(EngineFit.times())
    for kind in (EngineFit, EngineProfile):
        assert set(kind.times()) <= set(kind.model_fields)
    assert set(EngineFit.times()) <= set(Engine.model_fields)


def test_an_interval_holds_what_runs_were_off_by_and_a_device_that_none_was_on():
    known = profile("vllm").model_copy(update={"spread": {"tpot_s": (0.8, 0.9)}, "devices": ("x",)})
    (served,) = prepare(
        catalog.model(MODEL), Deployment(pools=(Pool(device="b300", engine=Engine()),))
    )
    table = replace(served.table, low=0.7, high=2.0, sources={"data sheet": 1.0})
    # the prediction itself is always inside
    assert known.interval("tpot_s", table, "x") == pytest.approx((0.8, 1.0))
    rows = replace(table, sources={"fitted": 1.0})
    assert known.interval("tpot_s", rows, "y") == pytest.approx((0.8, 1.0))
    low, high = known.interval("tpot_s", table, "y")
    assert np.log(low) == pytest.approx(-np.hypot(np.log(0.8), np.log(0.7)))
    assert high == pytest.approx(2.0)
    assert known.interval("ttft_s", table, "x") == pytest.approx(UNKNOWN)
