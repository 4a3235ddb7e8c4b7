"""What an engine reports every second, beside a simulation whose course is known by hand."""

import numpy as np
import pytest
from fleets import plain
from serving import PS, served, simulate

from forerun.calibrate.over_time import over_time
from forerun.calibrate.pictures import draw


@pytest.fixture
def log():
    """One seat: the second of two requests waits until the first is done."""
    requests = plain([0.0, 0.0], isl=30, osl=[9, 5])
    return simulate(requests, served(max_num_seqs=1, n_blocks=20))


def series(log, ticks):
    return {one.name: one for one in over_time(np.array(ticks), log)}


def test_batch_and_queue_at_a_moment_are_those_of_the_requests(log):
    first, second = log.requests
    middle = (first["scheduled_ps"] + first["done_ps"]) / 2 / PS
    late = (second["scheduled_ps"] + second["done_ps"]) / 2 / PS
    over = second["done_ps"] / PS + 0.001
    ticks = [[t, 0, 0, 0, 0, 0] for t in (middle, late, over)]
    found = series(log, ticks)
    assert found["running"].simulated.tolist() == [1, 1, 0]
    assert found["waiting"].simulated.tolist() == [1, 0, 0]
    assert "KV cache, %" not in found  # 0 throughout: the engine did not say


def test_tokens_between_two_ticks_are_counted_once(log):
    whole = 0.001 + log.requests["done_ps"].max() / PS
    ticks = np.zeros((4, 6))
    ticks[:, 0] = whole * np.arange(1, 5) / 4
    found = series(log, ticks)["output tokens/s"]
    # 9 and 5 answers' tokens; steps of a chunk give none where a prompt is not done
    assert found.simulated.sum() * whole / 4 == pytest.approx(9 + 5)
    assert found.mean == 0
    assert found.difference == pytest.approx(found.simulated.mean())


def test_kv_in_use_is_that_of_the_steps_under_way(log):
    first, _ = log.requests
    (leap,) = [one for one in log.leaps if one["start_ps"] == first["scheduled_ps"]]
    ticks = [[(first["scheduled_ps"] + leap["first_ps"] / 2) / PS, 0, 0, 1, 0, 40.0], [99.0] * 6]
    found = series(log, ticks)["KV cache, %"]
    assert found.simulated.tolist() == [100 * 8 / 20, 0]  # 30 tokens of prompt: 8 blocks of 4
    assert found.recorded[0] == 40.0


def test_the_course_of_a_run_is_drawn(log, tmp_path):
    pytest.importorskip("vl_convert", reason="pictures need vl-convert")
    ticks = np.ones((3, 6)) * [[0.1], [0.2], [0.3]]
    draw([one.plot for one in over_time(ticks, log)], tmp_path / "run.svg")
    assert (tmp_path / "run.svg").read_text().startswith("<svg")
