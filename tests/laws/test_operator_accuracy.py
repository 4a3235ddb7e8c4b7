"""Fits to real measurements, thinned so that they take seconds: better than both baselines, with
intervals that hold.  The whole tables are judged by `forerun accuracy`."""

from dataclasses import replace

import numpy as np
import pytest

from forerun.calibrate import operators as fitting
from forerun.calibrate import solve
from forerun.calibrate.data import gathered
from forerun.calibrate.judged import judge, lines
from forerun.calibrate.operators import fit
from forerun.cost.operators import predict
from forerun.measure.tables import Table, read_all

ROWS = 1_500  # of each table
#: family -> (tables, bar of the median and of the 90th percentile on shapes not used): twice what
#: whole tables give or more, since a few percent of the rows are used
FAMILIES = {
    "gemm": (
        ("aiconfigurator_ops/h100_sxm/vllm-0.24.0/gemm_perf.parquet",
         "aiconfigurator_ops/b60/vllm-0.20.0/gemm_perf.parquet", "infersim_kernels"),
        0.08, 0.25,
    ),
    "attention_decode": (
        ("aiconfigurator_ops/h100_sxm/vllm-0.24.0/generation_attention_perf.parquet",
         "aiconfigurator_ops/b60/vllm-0.20.0/generation_attention_perf.parquet",
         "infersim_kernels", "vllm_layer_profiles"),
        0.08, 0.25,
    ),
    "attention_prefill": (
        ("aiconfigurator_ops/h100_sxm/vllm-0.24.0/context_attention_perf.parquet",
         "aiconfigurator_ops/b60/vllm-0.20.0/context_attention_perf.parquet",
         "vllm_layer_profiles"),
        0.10, 0.35,
    ),
    "collective": (
        ("aiconfigurator_ops/h100_sxm/nccl-2.29.2", "aiconfigurator_ops/b60/oneccl-2021.17.2"),
        0.10, 0.35,
    ),
}  # fmt: skip


def _thinned(table: Table) -> Table:
    every = max(1, table.rows.n // ROWS)
    at = np.random.default_rng(0).permutation(table.rows.n)[: table.rows.n // every]
    return replace(table, rows=table.rows.take(np.sort(at)), time_s=table.time_s[np.sort(at)])


@pytest.fixture(scope="module", params=FAMILIES)
def judged(request, shared_data):
    """(family, its judged rows by "measured device"): one fit a family."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(fitting.OWN, "n_trees", 150)
        patch.setitem(fitting.GENERAL, "n_trees", 60)
        patch.setitem(solve.FIXED, "num_threads", 1)
        paths = [shared_data / place for place in FAMILIES[request.param][0]]
        tables = [_thinned(table) for table in read_all(paths)]
        (data,) = gathered(tables, only=request.param)
        found = [judge(data, scored) for scored in fit(data, date="d").scored]
    return request.param, {line.seen: line for line in lines(found) if line.slice == ("all",)}


def test_shapes_not_used_of_a_measured_device_are_close(judged):
    name, line = judged
    _, median, p90 = FAMILIES[name]
    assert line[True].median < median
    assert line[True].p90 < p90


def test_a_fit_is_better_than_the_roofline_and_than_the_nearest_row(judged):
    _, line = judged
    assert line[True].median < 0.5 * line[True].roofline
    assert line[True].median < line[True].nearest
    assert line[True].p90 < line[True].nearest_p90


def test_a_device_never_measured_is_nearer_than_its_roofline(judged):
    _, line = judged
    assert line[False].median < line[False].roofline


def test_intervals_hold_on_rows_not_used(judged):
    _, line = judged
    assert 0.7 < line[True].covered < 0.9


def test_every_measured_row_is_answered(shared_data):
    """A few hundred of each table, by what is installed; also of tables no fit has seen."""
    names = (
        "aiconfigurator_ops", "deepbench", "infersim_kernels", "llmcompass_kernels", "neusight_ops",
        "vidur_profiles", "vllm_layer_profiles", "vllm_layer_profiles_v0",
    )  # fmt: skip
    for table in read_all([shared_data / name for name in names]):
        at = np.random.default_rng(0).permutation(table.rows.n)[:300]
        found = predict(table.rows.take(at))
        assert set(found.refused) == {""}, table.name
        assert np.isfinite(found.time_s).all()
        assert (found.low_s <= found.high_s).all()
