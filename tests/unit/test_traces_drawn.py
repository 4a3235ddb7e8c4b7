"""Describing traces, and drawing others like them."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from trace_files import CODE, CONV, MOONCAKE, csv, put, refused

from forerun.errors import SpecError
from forerun.spec import traces
from forerun.spec.requests import Requests
from forerun.spec.traces import bundled, synth
from forerun.spec.traces._columns import same, take
from forerun.spec.traces.describe import describe, prefix_hit_rate

# ServeGen -------------------------------------------------------------------------------------


def test_servegen_draws_at_the_clients_rate(shared_data):
    """The first window of deepseek-r1: its rates add up to 14.86 requests a second."""
    requests = traces.read(shared_data / "servegen/deepseek-r1", duration_s=600.0, seed=3)
    assert len(requests) == pytest.approx(14.8633 * 600, abs=73)  # < 1 a client
    assert (np.diff(requests.arrival_s) >= 0).all()
    assert requests.arrival_s[-1] < 600
    assert requests.isl.min() >= 1
    assert "pooled" in requests.meta["assumed"][0]


def test_servegen_repeats_by_seed_and_finds_its_pair_from_either_file(shared_data):
    folder = shared_data / "servegen"
    names = ["deepseek-r1", "deepseek-r1_client_rates.csv.gz", "deepseek-r1_length_pmfs.jsonl.gz"]
    first, *others = (traces.read(folder / name, duration_s=60.0) for name in names)
    assert all(same(first, other) for other in others)
    assert not same(first, traces.read(folder / names[0], duration_s=60.0, seed=1))
    assert "3 ServeGen pairs" in refused(folder)


def test_servegen_lengths_follow_each_clients_table(tmp_path):
    rates = ["client,t_start_s,rate_req_s,cv,dist,p0,p1"]
    rates += ["0,0,50,1,Gamma,0.5,1", "1,0,10,1,Weibull,0.7,1", "0,100,0,0,,0,0"]
    put(tmp_path / "w_client_rates.csv", "\n".join(rates))
    tables = [
        {
            "client": 0,
            "t_start_s": 0,
            "input_tokens": [[7, 0.25], [9, 0.75]],
            "output_tokens": [[3, 1]],
        },
        {"client": 1, "t_start_s": 0, "input_tokens": [[100, 1]], "output_tokens": [[4, 1]]},
    ]
    put(tmp_path / "w_length_pmfs.jsonl", "\n".join(map(json.dumps, tables)))
    requests = traces.read(tmp_path, duration_s=100.0)
    mine = requests.tenant == 0
    assert (mine.sum(), (~mine).sum()) == (5000, 1000)
    assert set(requests.isl[~mine]) == {100}
    # 5000 draws of probability 1/4: standard error 0.006
    assert (requests.isl[mine] == 7).mean() == pytest.approx(0.25, abs=0.03)
    assert "nobody sends" in refused(tmp_path, start_s=100.0)
    assert "shorter duration_s" in refused(
        put(tmp_path / "w_client_rates.csv", "\n".join(rates).replace("0,0,50", "0,0,5e9")).parent
    )
    put(tmp_path / "w_client_rates.csv", "\n".join(rates).replace("Weibull,0.7", "Pareto,0.7"))
    assert "w_client_rates.csv:3: dist 'Pareto'" in refused(tmp_path)
    assert traces.read(tmp_path, skip_bad=True, duration_s=9.0).meta["skipped"] == {"malformed": 1}
    (tmp_path / "w_length_pmfs.jsonl").unlink()
    assert "needs both files" in refused(tmp_path / "w_client_rates.csv")


# description ----------------------------------------------------------------------------------


def test_a_poisson_trace_has_cv_and_dispersion_one():
    rng = np.random.default_rng(0)
    n = 100_000
    one = np.ones(n, dtype=int)
    d = describe(Requests(np.cumsum(rng.exponential(0.1, n)), one, one))
    assert d.rate_per_s == pytest.approx(10, rel=0.02)
    assert d.interarrival_cv == pytest.approx(1, abs=0.02)
    assert d.dispersion_1s == pytest.approx(1, abs=0.06)  # se = sqrt(2 / 10000 windows) = 0.014
    assert d.dispersion_10s == pytest.approx(1, abs=0.18)  # 1000 windows: 0.045
    assert math.isnan(d.prefix_hit_rate)


def test_the_ideal_hit_rate_counts_leading_blocks_seen_before():
    # prompts AB, AC, AB, BA in blocks of 10: hits 0, 10, 20, 0 of 80 tokens.  The last begins with
    # B, which nobody began with, but a block's hash stands for its place too, so B is "seen".
    hashes = np.array([1, 2, 1, 3, 1, 2, 9, 1])
    starts = np.array([0, 2, 4, 6, 8])
    twenty = np.full(4, 20)
    requests = Requests(
        np.arange(4.0), twenty, twenty, block_hashes=hashes, block_starts=starts, hash_tokens=10
    )
    assert prefix_hit_rate(requests) == 30 / 80


def test_the_hit_rate_of_mooncake_agrees_with_a_plain_count(shared_data):
    requests = traces.read(shared_data / MOONCAKE)
    seen, saved = set(), 0
    starts = requests.block_starts
    for i in range(len(requests)):
        ids = requests.block_hashes[starts[i] : starts[i + 1]].tolist()
        k = next((k for k, h in enumerate(ids) if h not in seen), len(ids))
        saved += min(k * 512, int(requests.isl[i]))
        seen.update(ids)
    assert prefix_hit_rate(requests) == saved / requests.isl.sum()
    assert prefix_hit_rate(requests) == pytest.approx(0.374, abs=0.001)


def test_what_a_trace_cannot_say_is_left_out_of_the_rows(tmp_path):
    requests = traces.read(csv(tmp_path / "t.csv", "5,6", header="isl,osl"))
    names = {name for name, _, _ in describe(requests).rows()}
    assert "isl_mean" in names
    assert not names & {"rate_per_s", "dispersion_1s", "prefix_hit_rate", "n_sessions"}


# synthesiser ----------------------------------------------------------------------------------

BANDS = {  # largest deviation of the mean of five draws from the trace
    "rate_per_s": 0.02, "interarrival_cv": 0.18, "dispersion_1s": 0.1, "dispersion_10s": 0.2,
    "dispersion_60s": 0.2, "peak_per_min": 0.08,
    "isl_mean": 0.02, "isl_p50": 0.03, "isl_p90": 0.04, "isl_p99": 0.03,
    "osl_mean": 0.03, "osl_p50": 0.04, "osl_p90": 0.06, "osl_p99": 0.08, "prefix_hit_rate": 0.06,
}  # fmt: skip


@pytest.mark.parametrize("name", [CONV, CODE, MOONCAKE])
def test_drawn_traces_match_the_original(shared_data, tmp_path, name):
    trace = traces.read(shared_data / name)
    fitted = synth.fit(trace)
    seeds = [synth.compare(trace, fitted, seed=seed) for seed in range(5)]
    assert set(seeds[0]) >= set(BANDS) - {"prefix_hit_rate"}
    for key in seeds[0]:
        mean = np.mean([errors[key] for errors in seeds])
        assert abs(mean) <= BANDS[key], f"{key}: {mean:+.3f}"
    synth.save(fitted, tmp_path / "s.yaml")
    assert (tmp_path / "s.yaml").stat().st_size < 10_000
    assert synth.load(tmp_path / "s.yaml") == fitted


def test_lengths_stay_tied_to_each_other():
    rng = np.random.default_rng(0)
    n = 20_000
    isl = np.maximum(rng.lognormal(6, 1, n), 1).astype(int)
    osl = np.maximum(isl * rng.uniform(0.1, 0.3, n), 1).astype(int)
    trace = Requests(np.cumsum(rng.exponential(1, n)), isl, osl)
    drawn = synth.fit(trace).draw(n, seed=1)

    def rank_correlation(r: Requests) -> float:
        return float(
            np.corrcoef(np.argsort(np.argsort(r.isl)), np.argsort(np.argsort(r.osl)))[0, 1]
        )

    assert rank_correlation(drawn) == pytest.approx(rank_correlation(trace), abs=0.06)
    osl_given_long = drawn.osl[drawn.isl > np.quantile(isl, 0.9)].mean()
    assert osl_given_long == pytest.approx(osl[isl > np.quantile(isl, 0.9)].mean(), rel=0.1)


def test_sessions_are_synthesised_when_the_trace_has_them():
    rng = np.random.default_rng(0)
    starts = np.cumsum(rng.exponential(2.0, 2000))
    turns = rng.geometric(0.25, 2000)  # 4 on average
    session = np.repeat(np.arange(2000), turns)
    first = np.repeat(np.cumsum(turns) - turns, turns)
    nth = np.arange(len(session)) - first
    t = np.repeat(starts, turns) + nth * 30.0
    order = np.argsort(t, kind="stable")
    n = len(t)
    trace = Requests((t - t.min())[order], np.full(n, 100), np.full(n, 10), session=session[order])
    own, drawn = describe(trace), describe(synth.fit(trace).draw(n, seed=2))
    assert drawn.requests_per_session == pytest.approx(own.requests_per_session, rel=0.15)


def test_a_poisson_trace_is_fitted_as_flat_and_memoryless():
    rng = np.random.default_rng(3)
    n = 20_000
    t = np.cumsum(rng.exponential(0.2, n))
    fitted = synth.fit(Requests(t, rng.integers(1, 9, n), rng.integers(1, 9, n)))
    assert max(fitted.arrivals.profile) < 1.25
    assert fitted.arrivals.gap_cv == pytest.approx(1, abs=0.1)
    assert sum(fitted.arrivals.level_var) < 0.05
    drawn = describe(fitted.draw(n, seed=1))
    assert drawn.interarrival_cv == pytest.approx(1, abs=0.06)
    assert drawn.dispersion_1s == pytest.approx(1, abs=0.1)  # 4000 windows: se 0.022, twice


def test_a_trace_without_times_is_fitted_without_arrivals(tmp_path):
    path = csv(tmp_path / "t.csv", *["5,6", "7,8"] * 50, header="isl,osl")
    fitted = synth.fit(traces.read(path))
    assert fitted.arrivals is None
    drawn = fitted.draw(10)
    assert drawn.meta["arrivals"] == "absent"
    assert set(drawn.isl) <= {5, 6, 7}
    synth.save(fitted, tmp_path / "s.yaml")
    assert synth.load(tmp_path / "s.yaml") == fitted
    with pytest.raises(SpecError, match="say n instead"):
        fitted.draw(duration_s=5.0)


def test_a_damaged_synth_file_names_all_that_is_wrong(shared_data, tmp_path):
    text = (Path(bundled.__file__).parents[2] / "catalog/workloads/chat.yaml").read_text()
    text = text.replace("gap_cv: ", "gap_cw: ").replace("bin_s: 20 s", "bin_s: 20")
    with pytest.raises(SpecError) as caught:
        synth.load(put(tmp_path / "s.yaml", text))
    message = str(caught.value)
    assert "gap_cw" in message
    assert "20 has no unit" in message.replace("'", "")
    with pytest.raises(SpecError, match="cannot be read"):
        synth.load(put(tmp_path / "s.yaml", "a: [1"))


# bundled --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", bundled.names())
def test_a_bundled_workload_draws_the_same_again_and_says_whose_it_is(name):
    workload = bundled.load(name)
    assert workload.name == name
    assert "github.com" in workload.source
    assert workload.licence.startswith(("CC-BY-4.0", "Apache-2.0"))
    assert same(workload.draw(500, seed=4), workload.draw(500, seed=4))
    assert not same(workload.draw(500, seed=4), workload.draw(500, seed=5))


def test_a_shorter_draw_is_the_beginning_of_the_lengths_of_a_longer_one():
    chat = bundled.load("chat")
    long = chat.draw(1000)
    assert np.array_equal(chat.draw(200).isl, long.isl[:200])
    assert np.array_equal(chat.draw(1000, rate_scale=3).isl, long.isl)


def test_the_bundled_workloads_are_what_the_traces_fit_to(shared_data):
    for name, file in {"chat": CONV, "code": CODE, "long_context": MOONCAKE}.items():
        refit = synth.fit(traces.read(shared_data / file))
        bundle = bundled.load(name)
        assert refit.lengths == bundle.lengths
        assert refit.reuse == bundle.reuse
        assert refit.arrivals.profile == pytest.approx(bundle.arrivals.profile, abs=0.05)
        assert bundle.errors.keys() == refit.errors.keys()


def test_rate_scale_multiplies_the_rate():
    chat = bundled.load("chat")
    base = len(chat.draw(duration_s=chat.period_s))
    assert len(chat.draw(duration_s=chat.period_s, rate_scale=2.0)) / base == pytest.approx(
        2, rel=0.03
    )


def test_taking_requests_keeps_their_own_blocks():
    requests = bundled.load("long_context").draw(300)
    index = np.array([250, 3, 77])
    taken = take(requests, index)
    for k, i in enumerate(index):
        a, b = requests.block_starts[i : i + 2]
        c, d = taken.block_starts[k : k + 2]
        assert np.array_equal(requests.block_hashes[a:b], taken.block_hashes[c:d])
    assert np.array_equal(np.diff(requests.block_starts), -(-requests.isl // 512))
