"""A cost table scaled to a few measured steps."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from forerun import catalog
from forerun.cost.price import price
from forerun.cost.scale import Measured, Scale, fit_scale, scaled
from forerun.cost.step import step_time
from forerun.errors import SpecError
from forerun.ops.lower import lower
from forerun.spec.deployment import Pool

STEPS = [
    {"n_tokens": n, "n_seqs": n, "n_decode": n, "decode_ctx": c}
    for n in (1, 8, 64) for c in (256.0, 4096.0)
] + [
    {"n_tokens": q, "n_seqs": 1, "chunks": ((q, p),)}
    for q in (64, 512, 2048)
    for p in (0.0, 8192.0)
]  # fmt: skip


@pytest.fixture(scope="module")
def table():
    pool = Pool(device="h100-sxm")
    graph = lower(catalog.model("llama-3.1-8b"), pool)
    return price(graph, catalog.device("h100-sxm"), max_tokens=4096, max_seqs=64, max_len=16384)


def measured(table, scale):
    """What an engine of these coefficients would show."""
    there = scaled(table, scale)
    return [Measured(time_s=step_time(there, **step).value, **step) for step in STEPS]


def test_a_fit_recovers_the_coefficients_that_made_its_rows(table):
    true = Scale((1, 256, 2048), (2.0, 1.5, 1.1), 3.0, 1.4, 5e-3, 2e-4)
    found = fit_scale(table, measured(table, true), at_tokens=true.at_tokens)
    assert found.tokens == pytest.approx(true.tokens, rel=1e-6)
    assert (found.decode, found.prefill) == pytest.approx((3.0, 1.4), rel=1e-6)
    assert (found.host_step_s, found.host_seq_s) == pytest.approx((5e-3, 2e-4), rel=1e-6)
    assert found.residual < 1e-9


def test_what_is_not_free_keeps_its_place(table):
    true = Scale(decode=3.0)
    found = fit_scale(table, measured(table, true), free=["decode"])
    assert found.decode == pytest.approx(3.0)
    assert (found.tokens, found.prefill, found.host_step_s) == ((1.0,), 1.0, 0.0)


def test_coefficients_are_never_negative(table):
    """An engine without host time, measured with noise: the host term stays at zero or above."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        rows = [
            Measured(time_s=row.time_s * rng.uniform(0.8, 1.2), n_tokens=row.n_tokens,
                     n_seqs=row.n_seqs, n_decode=row.n_decode, decode_ctx=row.decode_ctx,
                     chunks=row.chunks)
            for row in measured(table, Scale())
        ]  # fmt: skip
        found = fit_scale(table, rows)
        values = (*found.tokens, found.decode, found.prefill, found.host_step_s, found.host_seq_s)
        assert min(values) >= 0


def test_scaling_by_nothing_changes_no_time(table):
    same = scaled(table, Scale())
    for part in ("tokens", "seqs", "decode", "prefill"):
        np.testing.assert_array_equal(getattr(same.time_s, part), getattr(table.time_s, part))
    assert same.flop is table.flop
    assert same.sources == {"fitted": 1.0}


def test_the_interval_is_that_of_the_fit(table):
    assert scaled(table, Scale(residual=0.1)).high == pytest.approx(1.128)
    assert scaled(table, Scale(residual=0.0)).low == pytest.approx(0.95)


def test_decoding_beside_chunks_is_scaled_as_decoding_alone_is(table):
    both = replace(table, mixed_decode=table.time_s.decode + 1.0, mixed_cross_s=0.5)
    twice = scaled(both, Scale(decode=2.0))
    np.testing.assert_array_equal(twice.mixed_decode, 2.0 * both.mixed_decode)
    assert twice.mixed_cross_s == 1.0


def test_a_fit_that_is_far_off_leaves_no_step_below_nothing(table):
    assert scaled(table, Scale(residual=2.0)).low == 0.05


def test_rows_that_cannot_fix_the_coefficients_are_refused(table):
    rows = measured(table, Scale())
    with pytest.raises(SpecError, match="cannot fix"):
        fit_scale(table, rows[:3])
    with pytest.raises(SpecError, match="do not tell"):
        fit_scale(table, rows[:6], free=["prefill", "decode"])
    with pytest.raises(SpecError, match="takes no time"):
        fit_scale(table, [Measured(0.0, 1, 1)], free=["tokens"])
    with pytest.raises(SpecError, match="does not ascend"):
        fit_scale(table, rows, at_tokens=(8, 4))
    with pytest.raises(SpecError, match="is not one of"):
        fit_scale(table, rows, free=["magic"])
