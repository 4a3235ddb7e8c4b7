"""One benchmark calibrates an engine: known terms come back, unknown ones stay."""

import json
from dataclasses import replace

import numpy as np
import pytest

from forerun import api, catalog
from forerun.calibrate.bench import calibrate
from forerun.calibrate.least import solve
from forerun.cost import engine_fit
from forerun.cost.scale import Scale, scaled
from forerun.errors import SpecError
from forerun.measure import bench
from forerun.measure.bench import vllm_result
from forerun.sim import serve
from forerun.sim.prepare import prepare
from forerun.spec.deployment import Deployment, Engine, Pool
from forerun.spec.requests import Requests

MODEL = "llama-3.1-8b"
TRUE = {"host_step_s": 2e-3, "host_seq_s": 1e-5, "host_request_s": 4e-3}
HERE = Deployment(pools=(Pool(device="h100-sxm"),))
ARRAYS = ("input_lens", "output_lens", "ttfts", "itls", "start_times")


def measured(folder, *, rate=None, concurrency=None, noise=0.0, n=240, tokens=1.0, name="b.json"):
    """A result of an engine whose host terms are TRUE and whose linear part takes `tokens`."""
    rng = np.random.default_rng(5)
    isl = np.clip(rng.lognormal(6.3, 0.8, n).astype(int), 16, 6000)
    osl = np.clip(rng.lognormal(4.6, 0.6, n).astype(int), 2, 600)
    arrival = np.zeros(n) if concurrency else np.cumsum(rng.exponential(1 / rate, n))
    pool = Pool(device="h100-sxm", engine=Engine(**TRUE))
    (served,) = prepare(catalog.model(MODEL), Deployment(pools=(pool,)))
    served = replace(served, table=scaled(served.table, Scale(tokens=(tokens,))))
    log = serve.run(Requests(arrival, isl, osl), [served], concurrency=concurrency)
    data = vllm_result(
        log.requests, model_id="meta-llama/Llama-3.1-8B", request_rate=rate,
        max_concurrency=concurrency, date="20260914-101500",
    )  # fmt: skip
    factor = np.exp(rng.normal(0, noise, (2, n)))
    data["ttfts"] = [t * f for t, f in zip(data["ttfts"], factor[0], strict=True)]
    data["itls"] = [
        [g * f for g in gaps] for gaps, f in zip(data["itls"], 1 + (factor[1] - 1) / 5, strict=True)
    ]
    path = folder / name
    path.write_text(json.dumps(data), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def once(tmp_path_factory):
    """(path, calibrated) of an open loop without noise."""
    path = measured(tmp_path_factory.mktemp("bench"), rate=6.0)
    return path, calibrate(bench.read(path), catalog.model(MODEL), HERE)


def test_host_terms_come_back_from_the_result_of_an_engine_that_has_them(once):
    fit = once[1].fit
    assert fit.host_step_s == pytest.approx(TRUE["host_step_s"], rel=0.35)
    assert fit.host_request_s == pytest.approx(TRUE["host_request_s"], rel=0.35)
    # a step of 2 ms more is told from linear layers that take longer, as prompts say those do not
    assert fit.tokens == pytest.approx(1.0, abs=0.1)


def test_the_error_on_requests_not_used_falls_to_a_few_percent(once):
    found = once[1]
    assert found.held_out == "every second request, 120 in all"
    assert found.before["tpot_s_mean"] > 0.15
    assert found.after["tpot_s_mean"] < 0.01
    assert found.after["e2el_s_mean"] < 0.01
    assert found.after["ttft_s_mean"] < 0.05
    assert found.seconds < 60


@pytest.mark.parametrize("load", [{"rate": 6.0, "noise": 0.05}, {"concurrency": 24}])
def test_noise_and_closed_loops_are_no_hindrance(tmp_path, load):
    found = calibrate(bench.read(measured(tmp_path, **load)), catalog.model(MODEL), HERE)
    assert found.after["tpot_s_mean"] < 0.02
    assert found.after["ttft_s_mean"] < 0.06
    assert found.fit.host_step_s == pytest.approx(TRUE["host_step_s"], rel=0.5)


def test_slower_kernels_are_factors_and_not_host_terms(tmp_path):
    # of few requests, which step each falls into says as much as a factor does
    path = measured(tmp_path, rate=6.0, tokens=1.25, n=600)
    fit = calibrate(bench.read(path), catalog.model(MODEL), HERE).fit
    assert fit.tokens == pytest.approx(1.25, abs=0.12)


def test_a_summary_alone_tells_less_and_says_so(once, tmp_path):
    data = json.loads(once[0].read_text())
    path = tmp_path / "summary.json"
    path.write_text(json.dumps({k: v for k, v in data.items() if k not in ARRAYS}))
    found = calibrate(bench.read(path), catalog.model(MODEL), HERE)
    assert found.held_out == ""
    # which of the terms a few means tell hangs on the kernels; what they do not tell is left alone
    assert len(found.fit.untold) > len(once[1].fit.untold)
    neutral = {"tokens": 1.0, "decode": 1.0, "prefill": 1.0}
    for name in found.fit.untold:
        assert getattr(found.fit, name) == neutral.get(name, 0.0)
    assert found.fit.rms >= 0.1  # no held-out error, so no narrow interval
    assert found.after["tpot_s_mean"] < 0.05 < found.before["tpot_s_mean"]


def test_of_several_runs_every_second_is_held_out(tmp_path):
    paths = [measured(tmp_path, concurrency=c, n=120, name=f"{c}.json") for c in (4, 16, 48)]
    runs = [run for path in paths for run in bench.read(path)]
    found = calibrate(runs, catalog.model(MODEL), HERE)
    assert found.held_out == "1 of 3 runs (16 at once)"
    assert found.after["tpot_s_mean"] < 0.02
    held = {s.file: (s.rows_used, s.rows_held_out) for s in found.fit.sources}
    assert held == {"4.json": (120, 0), "48.json": (120, 0), "16.json": (0, 120)}


def test_a_result_of_another_model_is_refused(once):
    with pytest.raises(SpecError, match=r"llama-3\.1-70b was asked for"):
        calibrate(bench.read(once[0]), catalog.model("llama-3.1-70b"), HERE)


def test_a_calibration_is_the_same_after_a_file(once, tmp_path):
    path = tmp_path / "mine.yaml"
    engine_fit.save(once[1].fit, path)
    again = engine_fit.load(path)
    assert again.host_step_s == pytest.approx(once[1].fit.host_step_s, rel=1e-5)
    assert again.sources == once[1].fit.sources
    assert engine_fit.text(again) == path.read_text()


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        ("forerun_engine_fit: 1", "forerun_engine_fit: 7", "has schema 7"),
        ("forerun_engine_fit: 1\n", "", "is not a calibration"),
        ("host_step_s: ", "host_step_s: 9", "changed after it was written"),
        ("digest", "digest_", "unknown key"),
    ],
)
def test_a_file_that_is_not_as_it_was_written_is_refused(once, tmp_path, old, new, what):
    path = tmp_path / "mine.yaml"
    path.write_text(engine_fit.text(once[1].fit).replace(old, new, 1))
    with pytest.raises(SpecError, match=what):
        engine_fit.load(path)


def test_a_file_cut_short_is_refused(once, tmp_path):
    text = engine_fit.text(once[1].fit)
    for end in (0.3, 0.6, 0.9):
        path = tmp_path / f"{end}.yaml"
        path.write_text(text[: int(end * len(text))])
        with pytest.raises(SpecError):
            engine_fit.load(path)


def case(calibration, device="h100-sxm", **engine):
    given = {"calibration": str(calibration), **engine}
    return api.load(
        {
            "model": MODEL, "fleet": {device: 1},
            "traffic": {"isl": 500, "osl": 50, "rate_per_s": "2 req/s", "n_requests": 40},
            "deployment": {"device": device, "engine": given},
        }
    )  # fmt: skip


def test_a_simulation_with_the_calibration_is_slower_and_says_what_it_rests_on(once, tmp_path):
    path = tmp_path / "mine.yaml"
    engine_fit.save(once[1].fit, path)
    with_it = api.simulate(case(path), bootstrap=False)
    without = api.simulate(case(path).model_copy(update={"deployment": HERE}), bootstrap=False)
    slower = with_it.metrics.tpot_s.mean - without.metrics.tpot_s.mean
    assert slower > 0.5 * TRUE["host_step_s"]
    assert with_it.provenance["calibration_ids"][0].startswith(str(path))
    assert any("calibrated from b.json" in line for line in with_it.provenance["assumed"])
    # a term that the case gives itself stays
    own = api.simulate(case(path, host_step_s=0.0), bootstrap=False)
    assert own.metrics.tpot_s.mean < with_it.metrics.tpot_s.mean


def test_a_calibration_of_another_device_is_refused_with_what_to_do(once, tmp_path):
    path = tmp_path / "mine.yaml"
    engine_fit.save(once[1].fit, path)
    with pytest.raises(SpecError, match="is of device h100-sxm, and this is l40s") as error:
        api.simulate(case(path, "l40s"))
    assert "benchmark of l40s" in error.value.problems[0].fix


def test_a_solution_stays_at_the_prior_where_nothing_is_told():
    target = np.array([3.0, 0.0])

    def residuals(z):
        return 10 * (z[:1] - target[:1])  # says nothing of the second

    found = solve(residuals, np.full(2, -np.inf), np.full(2, np.inf), np.ones(2, dtype=bool))
    assert found.z == pytest.approx([3 * 100 / 101, 0.0], abs=1e-3)  # the prior weighs 1 of 101
    assert found.sd == pytest.approx([1 / np.sqrt(101), 1.0])


def test_a_solution_keeps_within_its_bounds():
    found = solve(lambda z: 5 * (z + 2), np.zeros(1), np.ones(1), np.ones(1, dtype=bool))
    assert found.z.tolist() == [0.0]
