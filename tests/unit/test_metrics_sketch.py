"""Sketches against exact figures, within the error they state."""

import numpy as np
import pytest
from handmade_logs import many_requests, three_requests
from hypothesis import given
from hypothesis import strategies as st

from forerun.metrics import latency
from forerun.metrics.gaps import itl
from forerun.metrics.score import score
from forerun.metrics.sketch import ERROR, Sketch, SketchLog, cell_of, value_of
from forerun.spec.slo import Slo


@given(
    st.lists(st.floats(1e-9, 1e6), min_size=1, max_size=60),
    st.sampled_from([0.0, 0.5, 0.9, 0.99, 1.0]),
)
def test_quantiles_are_within_half_a_percent(values, q):
    assert Sketch().add(values).quantile(q) == pytest.approx(np.quantile(values, q), rel=ERROR)


@given(st.floats(1e-11, 1e7))
def test_a_cell_stands_for_its_values(x):
    assert value_of(cell_of(np.array([x])))[0] == pytest.approx(x, rel=ERROR * (1 + 1e-6))


def test_merging_in_any_order_is_adding_at_once():
    values = np.random.default_rng(0).lognormal(size=999)
    a, b, c = (Sketch().add(part) for part in np.array_split(values, 3))
    whole = Sketch().add(values)
    for merged in (a.merge(b).merge(c), c.merge(a.merge(b))):
        np.testing.assert_array_equal(merged.counts, whole.counts)
        assert (merged.min_s, merged.max_s) == (whole.min_s, whole.max_s)
        assert merged.total_s == pytest.approx(whole.total_s)


def test_zero_and_undefined_latencies():
    s = Sketch().add(np.array([0.0, np.nan, 0.0]))
    assert s.n == 2
    assert s.quantile(0.5) == 0.0
    assert Sketch().quantile(0.5) is None
    with pytest.raises(ValueError, match="below zero"):
        Sketch().add(np.array([-1.0]))


@pytest.mark.parametrize("log", [many_requests(500), three_requests()], ids=["many", "three"])
def test_a_sketched_run_gives_the_exact_runs_figures(log):
    slo = Slo(ttft_s=0.2)
    half = len(log.requests) // 2
    exact, rough = score(log, slo), SketchLog().add(log, slo)
    for name, q in rough.quantiles().items():
        want = getattr(exact, name)
        assert q.n == want.n
        assert (q.mean, q.min, q.max) == pytest.approx((want.mean, want.min, want.max))
        for point in ("p50", "p90", "p99"):
            assert getattr(q, point) == pytest.approx(getattr(want, point), rel=ERROR), name
    assert rough.counters["output_tokens"] == exact.counts.output_tokens
    assert rough.counters["good"] == round(exact.attainment.value * exact.counts.n)
    parts = [SketchLog().add(three_requests(requests=r, leaps=None, gaps=None), slo)
             for r in (log.requests[:half], log.requests[half:])]  # fmt: skip
    assert parts[0].merge(parts[1]).counters == rough.counters


def test_a_leap_longer_than_a_chunk_is_sketched_whole(monkeypatch):
    monkeypatch.setattr("forerun.metrics.sketch.CHUNK", 4)
    log = many_requests(40)
    gaps = itl(log.leaps, log.gaps)
    s = Sketch().add_gaps(gaps)
    assert s.n == gaps.count
    assert s.total_s == pytest.approx(gaps.mean_s() * gaps.count)
    assert s.quantile(0.5) == pytest.approx(gaps.quantiles_s([0.5])[0], rel=ERROR)
    assert latency.PS == 1e-12
