"""Figures of a run that can be checked by hand; see `three_requests` for its story."""

import itertools
from dataclasses import fields, replace

import numpy as np
import pytest
from handmade_logs import S, many_requests, table, three_requests

from forerun.errors import SpecError
from forerun.metrics import goodput, latency
from forerun.metrics.answer import model_band
from forerun.metrics.figure import Figure
from forerun.metrics.rows import rows
from forerun.metrics.score import score
from forerun.spec.slo import Slo


def test_latencies_are_what_the_story_says():
    log = three_requests()
    np.testing.assert_allclose(latency.ttft_s(log.requests), [2, 4, np.nan])
    np.testing.assert_allclose(latency.queue_s(log.requests), [0, 1, np.nan])
    np.testing.assert_allclose(latency.e2el_s(log.requests), [8, 4, np.nan])
    np.testing.assert_allclose(latency.tpot_s(log.requests), [3, np.nan, np.nan])  # (8 - 2) / 2
    np.testing.assert_allclose(latency.max_itl_s(log.requests), [4, np.nan, np.nan])


def test_counts_and_rates():
    m = score(three_requests())
    c = m.counts
    assert (c.n, c.finished, c.rejected, c.aborted, c.unfinished) == (3, 2, 1, 0, 0)
    assert (c.input_tokens, c.output_tokens) == (150, 4)
    assert m.requests_per_s.value == pytest.approx(2 / 8)
    assert m.output_tokens_per_s.value == pytest.approx(4 / 8)
    assert m.total_tokens_per_s.value == pytest.approx(154 / 8)
    assert m.output_tokens_per_s_per_device.value == pytest.approx(4 / 8 / 2)


def test_inter_token_gaps_include_the_wait_for_a_stalled_decode():
    itl = score(three_requests()).itl_s  # the gaps are 6 - 2 = 4 s and 8 - 6 = 2 s
    assert (itl.n, itl.min, itl.mean, itl.p50, itl.max) == pytest.approx((2, 2, 3, 3, 4))


def test_a_rejected_request_misses_the_slo():
    slo = Slo(ttft_s=3, tpot_s=3, attainment=0.3)  # 0 meets both, 1 misses ttft, 2 was rejected
    m = score(three_requests(), slo)
    assert m.attainment.value == pytest.approx(1 / 3)
    assert m.goodput_per_s.value == pytest.approx(1 / 8)
    assert m.slo_met is True
    assert m.binding == "ttft_s"
    assert m.failing[0].share == 0.5
    assert any("1 rejected" in note for note in m.notes)


def test_one_output_token_meets_any_tpot_bound():
    slo = Slo(tpot_s=1e-9, itl_s=1e-9)
    assert list(goodput.good(three_requests().requests, slo)) == [False, True, False]


def test_without_a_bound_there_is_no_verdict():
    assert score(three_requests()).slo_met is None


def test_utilisation_follows_from_the_table():
    # flop of the three leaps, at 10 a token, 5 a sequence, 1 a cached token, q*(1 + p) a chunk:
    # 10*100 + 5 + 100 = 1105; 10*50 + 5 + 50 = 555; (10 + 5 + 101) + (10 + 5 + 102) = 233
    m = score(three_requests())
    assert m.hfu.value == pytest.approx(1893 / (8 * 1000))
    assert m.mfu.value == m.hfu.value  # nothing was recomputed
    assert m.mbu.value == pytest.approx(2 * 1893 / (8 * 4000))
    assert m.busy.value == pytest.approx(1.0)
    assert m.kv_peak.value == pytest.approx(1.0)
    assert m.kv_mean.value == pytest.approx((7 * 2 + 10 * 3 + 7 * 3) / 10 / 8)
    assert m.batch_mean.value == pytest.approx((1 * 2 + 2 * 3 + 1 * 3) / 8)


def test_energy_money_and_carbon():
    m = score(three_requests(), price_usd_per_hour=3.6, carbon_gco2e_per_kwh=360)
    assert m.energy_j.value == pytest.approx(10 * 8 + 18.93)  # idle 10 W for 8 s, 1 J for 100 flop
    assert m.energy_j_per_output_token.value == pytest.approx(98.93 / 4)
    assert m.usd.value == pytest.approx(3.6 * 8 / 3600)
    assert m.usd_per_million_output_tokens.value == pytest.approx(0.008 / 4 * 1e6)
    assert m.usd_per_million_tokens.value == pytest.approx(0.008 / 154 * 1e6)
    assert m.gco2e.value == pytest.approx(98.93 / 3.6e6 * 360)


def test_what_the_log_does_not_hold_is_unknown_not_guessed():
    m = score(three_requests(leaps=None, gaps=None))
    assert m.itl_s is None
    for name in ("hfu", "mfu", "mbu", "kv_mean", "batch_mean", "energy_j", "power_w", "usd",
                 "usd_per_hour", "gco2e", "link_bytes_per_s"):  # fmt: skip
        assert getattr(m, name).value is None, name
    assert m.busy.value == pytest.approx(1.0)  # the totals still tell
    assert any("kept no steps" in note for note in m.notes)


def test_mfu_leaves_out_recomputed_tokens():
    log = three_requests()
    log.requests["recomputed"][0] = 38  # of 152 computed: a quarter
    m = score(log)
    assert m.mfu.value == pytest.approx(0.75 * m.hfu.value)


def test_a_window_takes_latencies_by_arrival_and_rates_by_end():
    m = score(three_requests(), window=(0.5, 6.5))
    assert m.counts.n == 2  # requests 1 and 2 arrive in it
    assert m.ttft_s.p50 == pytest.approx(4)
    assert m.requests_per_s.value == pytest.approx(1 / 6)  # request 1 ends in it
    assert m.counts.output_tokens == 3  # at 2, 5 and 6
    assert m.itl_s.n == 1  # the gap that ends at 6
    assert m.itl_s.max == pytest.approx(4)


def test_a_window_over_everything_changes_no_figure():
    log = many_requests(200)
    whole, part = score(log), score(log, window=(0.0, log.end_ps / S))
    for a, b in zip(rows(whole), rows(part), strict=True):
        assert a[:2] == b[:2]
        assert a[2] == pytest.approx(b[2]), a[1]


def test_a_window_outside_the_run_is_refused():
    with pytest.raises(SpecError, match="holds nothing"):
        score(three_requests(), window=(9, 10))


def test_disjoint_windows_add_up():
    log = many_requests(200)
    end = log.end_ps / S
    cuts = [0.0, end / 3, end / 2, end]
    parts = [score(log, window=w) for w in itertools.pairwise(cuts)]
    whole = score(log)
    assert sum(p.counts.n for p in parts) == whole.counts.n
    assert sum(p.counts.output_tokens for p in parts) == whole.counts.output_tokens
    assert sum(p.itl_s.n for p in parts) == whole.itl_s.n
    assert sum(p.energy_j.value for p in parts) == pytest.approx(whole.energy_j.value)


def test_tokens_and_gaps_are_conserved():
    log = many_requests(300)
    m = score(log)
    steps = log.leaps["n_seqs"].astype(int) * log.leaps["n_steps"]
    assert m.counts.output_tokens == steps.sum() == log.requests["n_out"].sum()
    assert m.itl_s.n == (log.requests["n_out"] - 1).sum()
    assert m.counts.finished == m.counts.n == 300


def test_intervals_hold_their_figure_and_repeat():
    log = many_requests(600)
    a, b = score(log, Slo(ttft_s=0.3)), score(log, Slo(ttft_s=0.3))
    assert rows(a) == rows(b)
    with_interval = [row for row in rows(a) if row[3] is not None and row[0] != "model"]
    assert len(with_interval) >= 20
    for _, name, value, low, high, _, _ in with_interval:
        assert low <= value <= high, name
        assert low < high or name == "queue_s.p50", name  # most wait for nothing


def test_no_figure_is_nan():
    for log in (three_requests(), three_requests(leaps=None, gaps=None), many_requests(60),
                three_requests(requests=three_requests().requests[:0])):  # fmt: skip
        for row in rows(score(log, Slo(ttft_s=1), price_usd_per_hour=1, carbon_gco2e_per_kwh=1)):
            assert all(x is None or not np.isnan(x) for x in row[2:5]), row


def test_the_model_band_stands_apart_from_sampling():
    log = replace(three_requests(), tables=(table(low=0.9, high=1.2),))
    m = score(log)
    assert model_band(m, m.ttft_s.p50) == pytest.approx((0.9 * 3, 1.2 * 3))
    assert model_band(m, None) is None
    assert rows(m)[-1][:5] == ("model", "step_time_factor", 1.0, 0.9, 1.2)


def test_every_figure_is_among_the_rows():
    m = score(three_requests())
    named = {row[1] for row in rows(m)}
    figures = {f.name for f in fields(m) if isinstance(getattr(m, f.name), Figure)}
    assert figures <= named


def test_the_batches_of_a_pipeline_share_its_devices():
    # two stages: the log shows two replicas, one a batch in flight, of one engine with two devices
    log = many_requests(80, replicas=2)
    alone, stages = score(log), score(replace(log, tables=(table(stages=2),)))
    assert (alone.n_devices, stages.n_devices) == (4, 2)
    assert stages.hfu.value == pytest.approx(2 * alone.hfu.value)
    idle_j = 10 * log.end_ps / S  # 10 W an engine
    assert alone.energy_j.value - stages.energy_j.value == pytest.approx(idle_j)


def test_a_table_in_steps_is_read_in_steps():
    # between knots the constant table keeps the value of the knot below, here 0 cached tokens:
    # the two decode steps lose their 101 + 102 flop
    m = score(replace(three_requests(), tables=(table(between="constant"),)))
    assert m.hfu.value == pytest.approx((1893 - 203) / 8000)


def test_requests_the_run_left_unlisted_are_said():
    m = score(three_requests(n_unfinished=7))
    assert m.counts.unfinished == 7
    assert any("stopped before 7 requests" in note for note in m.notes)


def test_without_a_bound_good_means_finished():
    assert score(three_requests()).attainment.value == pytest.approx(2 / 3)
