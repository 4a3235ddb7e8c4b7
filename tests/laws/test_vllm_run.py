"""300 requests of a real vLLM 0.19 engine, predicted from kernels that were measured by themselves.

Nothing of the run goes into the prediction but what a user knows before it: arrival times, lengths
and the engine's settings.  The bars are those of the accuracy table in the docs; another simulator
(LLMServingSim, its authors' own result beside the data) reaches 1.7, 2.2 and 13.6 % in minutes.
"""

import time

import numpy as np
import pytest

from forerun.calibrate import profile_run

PROFILE = "vllm_layer_profiles/RTXPRO6000/meta-llama/Llama-3.1-8B/bf16/tp1"
RUN = "vllm_bench/RTXPRO6000/Llama-3.1-8B"


@pytest.fixture(scope="module")
def found(shared_data):
    """(recorded run, engine, log, seconds) with nothing fitted."""
    start = time.perf_counter()
    run = profile_run.read_run(shared_data / RUN)
    served = profile_run.prepare(shared_data / PROFILE, run)
    log = profile_run.simulate(run, served)
    return run, served, log, time.perf_counter() - start


def error(compared, name):
    theirs, ours = compared.figures[name]
    return abs(ours / theirs - 1)


def test_latencies_are_predicted_from_the_layer_profile_alone(found):
    compared = profile_run.compare(found[0], found[2])
    assert error(compared, "TPOT mean") <= 0.02
    assert error(compared, "E2E mean") <= 0.02
    assert error(compared, "TTFT mean") <= 0.05
    assert error(compared, "TTFT p99") <= 0.05
    # within one clock, from the engine's queue
    assert error(compared, "TTFT from queue mean") <= 0.05
    assert error(compared, "TTFT from queue p99") <= 0.05


def test_both_halves_of_the_run_are_predicted(found):
    for part in (slice(0, 150), slice(150, 300)):
        compared = profile_run.compare(found[0], found[2], part)
        assert error(compared, "TPOT mean") <= 0.025
        assert error(compared, "E2E mean") <= 0.025


def test_queue_batch_and_throughput_follow_the_run_over_time(found):
    compared = profile_run.compare(found[0], found[2])
    for name, within in (("running", 0.02), ("waiting", 0.05), ("output tokens/s", 0.10)):
        (one,) = (one for one in compared.over_time if one.name == name)
        assert one.difference <= within * one.mean, name
    assert compared.most_running == (128, 128)


def test_no_step_runs_more_than_the_engine_allows(found):
    leaps = found[2].leaps
    assert leaps["n_running"].max() <= 128
    assert leaps["n_tokens"].max() <= 2048
    assert leaps["chunk"].max() > 1000  # prompts are cut to what the decoding ones leave


def test_every_token_of_the_run_is_simulated(found):
    run, _, log, _ = found
    assert np.array_equal(log.requests["isl"], run.isl)
    assert np.array_equal(log.requests["n_out"], run.osl)


def test_terms_fitted_to_the_first_requests_hold_for_the_rest(found):
    run, served, _, _ = found
    own = profile_run.fit_first(run, served, 100)
    rest = profile_run.compare(run, profile_run.simulate(run, own), slice(100, None))
    assert error(rest, "TPOT mean") <= 0.02
    assert error(rest, "E2E mean") <= 0.02
    assert error(rest, "TTFT mean") <= 0.05
    assert error(rest, "TTFT p99") <= 0.05


def test_mixed_steps_and_unequal_contexts_are_what_the_accuracy_comes_from(found):
    """Without them the same kernels are several percent off: the mechanism earns its place."""
    from dataclasses import replace

    run, served, _, _ = found
    plain = replace(served.table, mixed_decode=None, mixed_cross_s=0.0)
    log = profile_run.simulate(run, replace(served, table=plain))
    assert error(profile_run.compare(run, log), "TPOT mean") > 0.04


def test_the_command_tells_the_comparison_and_refuses_other_folders(shared_data, capsys):
    from forerun.calibrate.profile_run import main

    assert main([str(shared_data / PROFILE), str(shared_data / RUN)]) == 0
    said = capsys.readouterr().out
    assert "nothing is fitted to this run" in said
    assert "TPOT mean" in said
    assert main([str(shared_data / RUN), str(shared_data / RUN)]) == 2
    assert "has no dense.csv" in capsys.readouterr().err
    assert main([str(shared_data / PROFILE), str(shared_data / PROFILE)]) == 2
    assert "has no requests.csv" in capsys.readouterr().err
