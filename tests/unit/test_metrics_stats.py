"""Percentiles against numpy on expanded values; coverage of the bootstrap."""

import numpy as np
import pytest
from handmade_logs import S, expanded_gaps_ps, many_requests, rows, three_requests
from hypothesis import given, settings
from hypothesis import strategies as st

from forerun.metrics import stats
from forerun.metrics.gaps import itl
from forerun.sim import leaps as leap_rows
from forerun.sim.core.rows_log import GAP, LEAP

QS = [0, 0.013, 0.25, 0.5, 0.9, 0.99, 1]


@given(
    st.lists(st.tuples(st.integers(0, 30), st.integers(0, 6)), min_size=1, max_size=20),
    st.floats(0, 1),
)
def test_weighted_percentile_is_numpys_on_repeated_values(pairs, q):
    values, weights = np.array(pairs).T
    if weights.sum() == 0:
        with pytest.raises(ValueError, match="no values"):
            stats.weighted_percentile(values, weights, [q])
        return
    expected = np.quantile(np.repeat(values, weights), q)
    assert stats.weighted_percentile(values, weights, [q])[0] == pytest.approx(expected)


@st.composite
def made_leaps(draw):
    """Leaps of one replica back to back, some with decodes that had waited, some resumed."""
    out, gaps, now = [], [], 0
    for _ in range(draw(st.integers(1, 8))):
        n, first = draw(st.integers(1, 9)), draw(st.integers(20, 60))
        slope, batch = draw(st.integers(-2, 4)), draw(st.integers(0, 5))
        out.append(dict(start_ps=now, first_ps=first, slope_ps=slope, n_steps=n, n_decode=batch))
        for resumed in (0, 1):
            count = draw(st.integers(0, 3 if resumed else batch))
            if count:
                gaps.append(dict(end_ps=now + first, gap_ps=first + draw(st.integers(1, 99)),
                                 count=count, resumed=resumed))  # fmt: skip
        now += n * first + slope * n * (n - 1) // 2 + draw(st.integers(0, 10))
    return three_requests(leaps=rows(LEAP, *out), gaps=rows(GAP, *gaps))


@given(made_leaps())
@settings(max_examples=200)
def test_gap_percentiles_are_numpys_on_expanded_gaps(log):
    found, expected = itl(log.leaps, log.gaps), expanded_gaps_ps(log)
    assert found.count == len(expected)
    if len(expected):
        np.testing.assert_allclose(found.quantiles_s(QS), np.quantile(expected, QS) * 1e-12)
        assert found.mean_s() == pytest.approx(expected.mean() * 1e-12)


def test_billions_of_gaps_need_no_expansion():
    # 10**7 steps of 200 requests: 2e9 gaps from 1 s down the line in steps of 1 ps
    leaps = rows(LEAP, dict(first_ps=S, slope_ps=1, n_steps=10**7, n_decode=200))
    found = itl(leaps, np.zeros(0, GAP))
    assert found.count == 2 * 10**9
    assert found.quantiles_s([0.5])[0] == pytest.approx(1 + 5e-6, abs=2e-12)


def test_a_gap_row_without_its_step_is_a_contradiction():
    log = three_requests(gaps=rows(GAP, dict(end_ps=7 * S, gap_ps=4 * S, count=1)))
    with pytest.raises(ValueError, match="no leap starts with"):
        itl(log.leaps, log.gaps)


@given(made_leaps(), st.integers(0, 600), st.integers(1, 600))
def test_clipping_keeps_exactly_the_steps_that_end_inside(log, start, length):
    clipped = leap_rows.clip(log.leaps, start, start + length)

    def steps(leaps):
        out = []
        for leap in leaps:
            end = int(leap["start_ps"])
            for i in range(int(leap["n_steps"])):
                end += int(leap["first_ps"] + i * leap["slope_ps"])
                out.append((end, int(leap["first_ps"] + i * leap["slope_ps"])))
        return out

    assert steps(clipped) == [s for s in steps(log.leaps) if start < s[0] <= start + length]


@given(
    st.lists(
        st.tuples(st.integers(0, 50), st.integers(0, 20), st.integers(0, 9)),
        min_size=1, max_size=12,
    )
)  # fmt: skip
def test_amounts_by_time_are_the_sum_of_clipped_stretches(stretches):
    start, length, amount = np.array(stretches).T
    edges = np.arange(0, 80, 3)
    got = leap_rows.amount_by(edges, start, start + length, amount.astype(float))
    for t, value in zip(edges, got, strict=True):
        expected = sum(
            a * (min(max((t - s) / n, 0), 1) if n else float(t >= s)) for s, n, a in stretches
        )
        assert value == pytest.approx(expected, abs=1e-6)


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    # medians of 200 samples of 400 values: the truth is 1/2; 95 % intervals, less 3 sigma
    # of a binomial of 200 (4.6 %)
    hits = 0
    for seed in range(200):
        values = np.random.default_rng(seed).random(400)
        low, high = stats.bootstrap_quantiles(values, np.random.default_rng(seed + 1000))["p50"]
        hits += low <= 0.5 <= high
    assert hits / 200 >= 0.95 - 0.046


def test_blocks_widen_the_interval_of_correlated_values():
    # 20 stretches of 50 equal values carry the information of 20 values, not of 1000
    rng = np.random.default_rng(1)
    values = np.repeat(rng.random(20), 50)
    low, high = stats.bootstrap_quantiles(values, rng)["mean"]
    alone = 1.96 * values.std() / np.sqrt(1000)
    assert (high - low) / 2 > 3 * alone


def test_few_values_get_no_interval():
    values = np.arange(stats.FEWEST - 1, dtype=float)
    assert stats.quantiles(values, rng=np.random.default_rng(0)).intervals == {}


def test_nothing_observed_gives_none():
    q = stats.quantiles(np.array([np.nan]))
    assert (q.n, q.mean, q.p99) == (0, None, None)


def test_binned_bootstrap_agrees_with_exact_resampling():
    values = np.random.default_rng(3).lognormal(size=20_000)
    got = stats.bootstrap_quantiles(values, np.random.default_rng(5))
    blocks = stats.n_blocks(len(values))
    block = np.arange(len(values)) * blocks // len(values)
    by_block = [values[block == b] for b in range(blocks)]
    weights = stats.resample_weights(blocks, np.random.default_rng(5))
    samples = [
        np.quantile(np.concatenate([by_block[b] for b in np.repeat(range(blocks), w.astype(int))]),
                    [0.5, 0.99])
        for w in weights
    ]  # fmt: skip
    for name, column in zip(("p50", "p99"), np.array(samples).T, strict=True):
        point = np.quantile(values, {"p50": 0.5, "p99": 0.99}[name])
        want = stats.widen(*stats.interval(column), point, blocks)
        np.testing.assert_allclose(got[name], want, rtol=0.01)


def test_drift_tells_a_growing_queue_from_a_steady_one():
    assert stats.drift(np.linspace(1, 10, 300)) > 2
    assert stats.drift(np.tile([1.0, 2.0, 3.0], 100)) == pytest.approx(1)


def test_timeline_keeps_what_the_run_had():
    from forerun.metrics.utilisation import timeline
    from forerun.metrics.window import view

    log = many_requests(120)
    line = timeline(view(log), bins=37)
    width = np.diff(line.t_s)
    assert (line.output_tokens_per_s * width).sum() == pytest.approx(log.requests["n_out"].sum())
    assert (line.finished_per_s * width).sum() == pytest.approx(120)
    waited = (log.requests["scheduled_ps"] - log.requests["arrival_ps"]).sum() / S
    assert (line.waiting * width).sum() == pytest.approx(waited)
    assert (line.busy * width).sum() == pytest.approx(log.replicas["busy_ps"].sum() / S / 2)
