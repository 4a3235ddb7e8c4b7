"""From a `Traffic` to its requests."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forerun.errors import SpecError
from forerun.spec import traces
from forerun.spec.requests import Requests
from forerun.spec.streams import stream
from forerun.spec.traces._columns import same
from forerun.spec.traces._processes import draw_tokens
from forerun.spec.traces.describe import counts, describe
from forerun.spec.traces.draw import iter_requests, requests_of
from forerun.spec.workload import Lengths, Traffic

CONV = "azure_llm_2023/conv.csv.gz"
LENGTHS = {
    "isl": {"kind": "lognormal", "mean": 500, "cv": 1.0},
    "osl": {"kind": "geometric", "mean": 90},
}
KINDS = {
    "poisson": {},
    "gamma": {"cv": 2.0},
    "on_off": {},
    "diurnal": {"period_s": 500.0},
    "uniform": {},
}


def drawn(seed: int = 0, **settings_) -> Requests:
    return requests_of(Traffic(**{**LENGTHS, **settings_}), seed=seed)


def problems(**settings_) -> set[str]:
    """Where the problems of a traffic are, without the leading "traffic."."""
    with pytest.raises(SpecError) as caught:
        requests_of(Traffic(**settings_), seed=0)
    assert all(p.what for p in caught.value.problems)
    return {p.where.removeprefix("traffic.") for p in caught.value.problems}


@pytest.fixture
def trace(tmp_path):
    """Ten requests, one a second from 0, of isl 1..10."""
    path = tmp_path / "t.csv"
    path.write_text("arrival_s,isl,osl\n" + "".join(f"{i},{i + 1},5\n" for i in range(10)))
    return str(path)


# streams --------------------------------------------------------------------------------------


def test_a_stream_is_pinned_for_ever():
    """These numbers may never change: every recorded result rests on them."""
    assert stream(0, "arrivals").integers(0, 2**31, 3).tolist() == PINNED_ARRIVALS
    assert stream(0, "lengths").integers(0, 2**31, 3).tolist() == PINNED_LENGTHS


PINNED_ARRIVALS = [219770524, 2089093023, 1469868035]
PINNED_LENGTHS = [1260689155, 1918289273, 793988537]


def test_streams_differ_by_name_and_by_seed():
    names = ("arrivals", "lengths", "acceptance", "routing", "failures")
    first = {stream(seed, name).random() for seed in range(5) for name in names}
    assert len(first) == 25
    for bad in (-1, 1.5, True, "x"):
        with pytest.raises(SpecError, match="seed"):
            stream(bad, "arrivals")


# drawn arrivals -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_seed_gives_the_same_requests(kind):
    settings_ = {"arrivals": kind, "rate_per_s": 5.0, "n_requests": 300, **KINDS[kind]}
    assert same(drawn(7, **settings_), drawn(7, **settings_))
    assert not same(drawn(7, **settings_), drawn(8, **settings_))


def test_changing_the_arrivals_leaves_the_lengths_untouched():
    runs = [
        drawn(arrivals=kind, rate_per_s=rate, n_requests=400, **extra)
        for (kind, extra), rate in itertools.product(KINDS.items(), (1.0, 9.0))
    ]
    runs += [drawn(arrivals="at_once", n_requests=400), drawn(concurrency=3, n_requests=400)]
    for run in runs[1:]:
        assert np.array_equal(run.isl, runs[0].isl)
        assert np.array_equal(run.osl, runs[0].osl)


def test_changing_one_length_leaves_the_other_and_the_arrivals_untouched():
    base = drawn(rate_per_s=5.0, n_requests=200)
    other = drawn(rate_per_s=5.0, n_requests=200, osl=7)
    assert np.array_equal(base.isl, other.isl)
    assert np.array_equal(base.arrival_s, other.arrival_s)


@pytest.mark.parametrize("kind", KINDS)
def test_the_rate_is_the_one_asked(kind):
    """Mean over 40,000 requests within four standard errors, which are cv_eff / sqrt(n)."""
    n, rate = 40_000, 8.0
    requests = drawn(3, arrivals=kind, rate_per_s=rate, n_requests=n, **KINDS[kind])
    # on_off: counts disperse by 1 + 2 r off^2 on / (on + off)^2, which is 91 here
    dispersion = {"gamma": 4, "on_off": 1 + 2 * 8 * 30**2 * 10 / 40**2, "uniform": 1e-4}.get(
        kind, 1
    )
    error = 4 * np.sqrt(dispersion / n)
    assert n / requests.arrival_s[-1] == pytest.approx(rate, rel=error)
    assert (np.diff(requests.arrival_s) >= 0).all()


@settings(max_examples=15, deadline=None)
@given(st.floats(0.2, 4.0), st.integers(0, 1000))
def test_gamma_gaps_have_the_cv_asked(cv, seed):
    requests = drawn(seed, arrivals="gamma", cv=cv, rate_per_s=2.0, n_requests=60_000)
    # se of a gamma's sample cv is below cv * sqrt((1 + 2 cv^2) / 2n) * 1.5; five of them
    error = 5 * 1.5 * cv * np.sqrt((1 + 2 * cv**2) / 120_000)
    assert describe(requests).interarrival_cv == pytest.approx(cv, abs=error)


def test_poisson_counts_have_dispersion_one_at_every_scale():
    requests = drawn(5, rate_per_s=20.0, n_requests=200_000)
    for window_s in (0.1, 1.0, 10.0):
        count = counts(requests.arrival_s, window_s)
        # var/mean of m windows has standard error sqrt(2 / m)
        assert count.var() / count.mean() == pytest.approx(1, abs=4 * np.sqrt(2 / len(count)))


def test_gamma_counts_disperse_by_the_square_of_the_cv():
    requests = drawn(5, arrivals="gamma", cv=2.0, rate_per_s=20.0, n_requests=200_000)
    count = counts(requests.arrival_s, 10.0)
    assert count.var() / count.mean() == pytest.approx(4, abs=4 * 4 * np.sqrt(2 / len(count)))


def test_bursts_take_their_share_of_time_and_silence_the_rest():
    requests = drawn(
        1, arrivals="on_off", rate_per_s=50.0, on_s=4.0, off_s=12.0, n_requests=400_000
    )
    gaps = np.diff(requests.arrival_s)
    # in bursts 200 requests a second, so a gap above 0.2 s (e**-40) is a silence
    silent = gaps[gaps > 0.2]
    assert silent.sum() / gaps.sum() == pytest.approx(0.75, abs=0.03)
    assert silent.mean() == pytest.approx(12.0, rel=0.2)


def test_diurnal_rate_swings_as_described():
    requests = drawn(
        2, arrivals="diurnal", rate_per_s=10.0, swing=0.8, period_s=100.0, n_requests=100_000
    )
    phase = requests.arrival_s % 100.0
    whole = requests.arrival_s < 100.0 * int(requests.arrival_s[-1] // 100)
    n_periods = int(requests.arrival_s[-1] // 100)
    # 10 s around the crest: rate 10 * (1 + 0.8 * mean of sin over 20..30 s of 100 s), mean 0.9836
    for centre, sign in ((25, 1), (75, -1)):
        near = (np.abs(phase - centre) < 5) & whole
        expected = 10 * (1 + sign * 0.8 * 0.98363) * 10 * n_periods
        assert near.sum() == pytest.approx(expected, abs=4 * np.sqrt(expected))


def test_uniform_arrivals_stand_at_equal_distances():
    requests = drawn(arrivals="uniform", rate_per_s=4.0, n_requests=5)
    assert requests.arrival_s.tolist() == [0, 0.25, 0.5, 0.75, 1.0]


def test_a_duration_cuts_and_a_number_cuts_whichever_is_first():
    full = drawn(rate_per_s=10.0, n_requests=1000)
    cut = drawn(rate_per_s=10.0, duration_s=20.0)
    assert cut.arrival_s[-1] < 20 <= full.arrival_s[len(cut)]
    assert np.array_equal(cut.arrival_s, full.arrival_s[: len(cut)])
    assert len(drawn(rate_per_s=10.0, duration_s=20.0, n_requests=50)) == 50
    assert len(drawn(rate_per_s=10.0, duration_s=1.0, n_requests=5000)) < 100


@settings(max_examples=20, deadline=None)
@given(
    st.sampled_from(sorted(KINDS)), st.integers(1, 4000), st.integers(1, 3000), st.integers(0, 99)
)
def test_pieces_join_to_the_whole(kind, chunk, n, seed):
    traffic = Traffic(**LENGTHS, arrivals=kind, rate_per_s=50.0, n_requests=n, **KINDS[kind])
    pieces = list(iter_requests(traffic, seed=seed, chunk=chunk))
    assert all(len(piece) == chunk for piece in pieces[:-1])
    assert 1 <= len(pieces[-1]) <= chunk
    whole = requests_of(traffic, seed=seed)
    for name in ("arrival_s", "isl", "osl"):
        joined = np.concatenate([getattr(piece, name) for piece in pieces])
        assert np.array_equal(joined, getattr(whole, name)), name


def test_a_long_stream_crosses_batches_without_a_seam():
    traffic = Traffic(**LENGTHS, rate_per_s=1000.0, n_requests=300_000)
    gaps = np.diff(
        np.concatenate([r.arrival_s for r in iter_requests(traffic, seed=0, chunk=7777)])
    )
    assert gaps.min() > 0
    assert gaps.max() < 0.02  # 20 mean gaps: e**-20 * 300,000 = 0.0006


def test_billions_are_streamed_without_being_held():
    traffic = Traffic(**LENGTHS, rate_per_s=1e5, n_requests=10**10)
    first = next(iter_requests(traffic, seed=0, chunk=1000))
    assert len(first) == 1000


# lengths --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lengths", "mean", "cv"),
    [
        ({"mean": 40}, 40, 0),
        ({"kind": "lognormal", "mean": 500, "cv": 1.5}, 500, 1.5),
        ({"kind": "lognormal", "mean": 500, "cv": 0}, 500, 0),
        ({"kind": "geometric", "mean": 50}, 50, np.sqrt(49 / 50)),
        # a discrete uniform on 51 numbers: variance (51^2 - 1) / 12
        ({"kind": "uniform", "mean": 100, "low": 75}, 100, np.sqrt(2600 / 12) / 100),
        ({"kind": "uniform", "mean": 100, "high": 125}, 100, np.sqrt(2600 / 12) / 100),
        ({"kind": "uniform", "mean": 100, "low": 75, "high": 125}, 100, np.sqrt(2600 / 12) / 100),
    ],
)
def test_lengths_have_the_mean_and_spread_asked(lengths, mean, cv):
    tokens = draw_tokens(Lengths(**lengths), np.random.default_rng(0), 200_000)
    assert tokens.dtype == np.int64
    assert tokens.min() >= 1
    assert tokens.mean() == pytest.approx(mean, rel=4 * cv / np.sqrt(200_000) + 1e-12)
    assert tokens.std() / tokens.mean() == pytest.approx(cv, rel=0.06, abs=1e-12)


def test_lengths_stay_between_their_ends():
    for kind in ("lognormal", "geometric"):
        cv = {"cv": 2.0} if kind == "lognormal" else {}
        x = Lengths(kind=kind, mean=50, low=10, high=80, **cv)
        tokens = draw_tokens(x, np.random.default_rng(0), 20_000)
        assert (tokens.min(), tokens.max()) == (10, 80)


# traces ---------------------------------------------------------------------------------------


def test_a_trace_is_taken_as_it_is(trace):
    assert same(requests_of(Traffic(trace=trace), seed=0), traces.read(trace))


def test_a_rescaled_trace_has_the_rate_asked_and_the_same_shape(shared_data):
    path = str(shared_data / CONV)
    own = requests_of(Traffic(trace=path), seed=0)
    fast = requests_of(Traffic(trace=path, rate_per_s=11.0), seed=0)
    assert describe(fast).rate_per_s == pytest.approx(11.0, rel=1e-12)
    assert describe(fast).interarrival_cv == pytest.approx(describe(own).interarrival_cv)
    assert np.array_equal(fast.isl, own.isl)


def test_a_cut_trace_has_the_rate_asked_too(trace, shared_data):
    requests = requests_of(Traffic(trace=trace, rate_per_s=2.0, n_requests=5), seed=0)
    assert requests.arrival_s.tolist() == [0, 0.5, 1.0, 1.5, 2.0]
    requests = requests_of(
        Traffic(trace=str(shared_data / CONV), rate_per_s=9, duration_s=100), seed=0
    )
    assert len(requests) == 900
    assert describe(requests).rate_per_s == pytest.approx(9.0)
    assert requests.arrival_s[-1] < 100


def test_a_trace_can_be_cut_by_time_and_by_number(trace):
    assert requests_of(Traffic(trace=trace, duration_s=3.5), seed=0).isl.tolist() == [1, 2, 3, 4]
    assert requests_of(Traffic(trace=trace, n_requests=2), seed=0).isl.tolist() == [1, 2]
    assert "notes" not in requests_of(Traffic(trace=trace, duration_s=9.2), seed=0).meta
    long = requests_of(Traffic(trace=trace, duration_s=60.0), seed=0)
    assert "before duration_s" in long.meta["notes"][0]


def test_a_traces_lengths_can_arrive_differently(trace):
    traffic = Traffic(trace=trace, arrivals="uniform", rate_per_s=10.0, n_requests=4)
    requests = requests_of(traffic, seed=0)
    assert requests.isl.tolist() == [1, 2, 3, 4]
    assert requests.arrival_s.tolist() == pytest.approx([0, 0.1, 0.2, 0.3])
    assert len(requests_of(Traffic(trace=trace, arrivals="poisson", rate_per_s=1.0), seed=0)) == 10


def test_more_requests_than_a_trace_holds_are_not_invented(trace):
    assert problems(trace=trace, n_requests=11) == {"n_requests"}
    assert problems(trace=trace, arrivals="poisson", rate_per_s=5, duration_s=100) == {"duration_s"}


def test_a_trace_without_times_needs_arrivals(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("isl,osl\n5,6\n7,8\n")
    assert problems(trace=str(path)) == {"arrivals"}
    requests = requests_of(Traffic(trace=str(path), arrivals="uniform", rate_per_s=1.0), seed=0)
    assert requests.arrival_s.tolist() == [0, 1]
    assert "arrivals" not in requests.meta
    assert requests_of(Traffic(trace=str(path), concurrency=1), seed=0).isl.tolist() == [5, 7]


def test_requests_of_one_moment_have_no_rate_to_rescale(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("arrival_s,isl,osl\n1,5,6\n1,7,8\n")
    assert problems(trace=str(path), rate_per_s=3) == {"rate_per_s"}


def test_servegen_follows_the_seed_of_the_run(shared_data):
    traffic = Traffic(trace=str(shared_data / "servegen/deepseek-r1"), duration_s=30.0)
    a, b, c = (requests_of(traffic, seed=seed) for seed in (1, 1, 2))
    assert same(a, b)
    assert not same(a, c)
    assert a.arrival_s[-1] < 30


# bundled --------------------------------------------------------------------------------------


def test_a_bundled_workload_is_drawn_for_its_own_period_by_default():
    requests = requests_of(Traffic(trace="chat"), seed=0)
    assert describe(requests).rate_per_s == pytest.approx(5.53, rel=0.03)
    assert len(requests) == pytest.approx(19366, rel=0.03)


def test_a_bundled_workload_has_the_rate_and_number_asked():
    for name in ("chat", "code", "long_context"):
        requests = requests_of(Traffic(trace=name, rate_per_s=20.0, n_requests=2000), seed=0)
        assert len(requests) == 2000
        assert describe(requests).rate_per_s == pytest.approx(20.0)


def test_a_bundled_workloads_lengths_do_not_depend_on_its_arrivals():
    runs = [
        requests_of(Traffic(trace="long_context", n_requests=300, **how), seed=5)
        for how in ({}, {"arrivals": "poisson", "rate_per_s": 3.0}, {"concurrency": 4})
    ]
    assert all(np.array_equal(run.isl, runs[0].isl) for run in runs)
    # in a closed loop no clock says who builds on whom; the share that does is the same
    rates = [describe(run).prefix_hit_rate for run in runs]
    assert rates == pytest.approx([rates[0]] * 3, abs=0.08)


def test_an_unknown_workload_gets_the_nearest_name():
    with pytest.raises(SpecError, match="did you mean long_context"):
        requests_of(Traffic(trace="long-context"), seed=0)


# closed loop ----------------------------------------------------------------------------------


def test_a_closed_loop_leaves_the_clock_to_the_simulator():
    requests = drawn(concurrency=16, think_s=2.0, n_requests=100)
    assert not requests.arrival_s.any()
    assert requests.meta["concurrency"] == 16
    assert requests.meta["think_s"] == 2.0


# contradictions -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings_", "where"),
    [
        ({}, {"rate_per_s", "n_requests", "isl", "osl"}),
        ({**LENGTHS, "rate_per_s": 3}, {"n_requests"}),
        ({**LENGTHS, "n_requests": 3}, {"rate_per_s"}),
        ({**LENGTHS, "rate_per_s": 3, "concurrency": 2, "n_requests": 9}, {"rate_per_s"}),
        ({**LENGTHS, "concurrency": 2}, {"n_requests"}),
        ({**LENGTHS, "concurrency": 2, "duration_s": 9, "n_requests": 9}, {"duration_s"}),
        ({**LENGTHS, "concurrency": 2, "arrivals": "poisson", "n_requests": 9}, {"arrivals"}),
        ({**LENGTHS, "rate_per_s": 3, "n_requests": 9, "think_s": 1}, {"think_s"}),
        ({**LENGTHS, "rate_per_s": 3, "n_requests": 9, "cv": 2}, {"cv"}),
        ({**LENGTHS, "rate_per_s": 3, "n_requests": 9, "on_s": 2, "swing": 1}, {"on_s", "swing"}),
        ({**LENGTHS, "arrivals": "at_once", "rate_per_s": 3, "n_requests": 9}, {"rate_per_s"}),
        ({**LENGTHS, "arrivals": "at_once", "duration_s": 9}, {"duration_s", "n_requests"}),
        ({**LENGTHS, "arrivals": "trace", "n_requests": 9}, {"trace"}),
        ({**LENGTHS, "rate_per_s": float("inf"), "n_requests": 9}, {"rate_per_s"}),
        ({**LENGTHS, "rate_per_s": 3, "duration_s": float("inf")}, {"duration_s"}),
        ({**LENGTHS, "rate_per_s": 3, "n_requests": 9, "format": "plain"}, {"format"}),
        ({**LENGTHS, "trace": "chat"}, {"isl", "osl"}),
        ({"trace": "chat", "format": "plain"}, {"format"}),
        ({"trace": "chat", "arrivals": "gamma", "n_requests": 9}, {"rate_per_s"}),
        ({"trace": "chat", "concurrency": 4}, {"n_requests"}),
        ({"isl": 1.5, "osl": 5, "rate_per_s": 3, "n_requests": 9}, {"isl.mean"}),
        (
            {"isl": {"kind": "uniform", "mean": 9, "low": 5, "high": 20}, "osl": 1,
             "rate_per_s": 3, "n_requests": 9},
            {"isl.mean"},
        ),
        (
            {"isl": {"kind": "geometric", "mean": 9, "cv": 1}, "osl": {"mean": 9, "low": 10},
             "rate_per_s": 3, "n_requests": 9},
            {"isl.cv", "osl.mean"},
        ),
    ],
)  # fmt: skip
def test_contradictions_are_named_all_at_once(settings_, where):
    assert problems(**settings_) == where


@settings(max_examples=150, deadline=None)
@given(
    st.fixed_dictionaries(
        {},
        optional={
            "trace": st.sampled_from(["chat", "long_context"]),
            "arrivals": st.sampled_from(["trace", *KINDS, "at_once"]),
            "rate_per_s": st.sampled_from([0.01, 3.0, 500.0]),
            "n_requests": st.integers(1, 300),
            "duration_s": st.sampled_from([0.5, 20.0]),
            "concurrency": st.integers(1, 9),
            "cv": st.sampled_from([0.3, 4.0]),
            "isl": st.sampled_from([5, {"kind": "lognormal", "mean": 50, "cv": 1.0}]),
            "osl": st.sampled_from([7, {"kind": "geometric", "mean": 9}]),
        },
    )
)
def test_any_settings_give_what_was_asked_or_a_reason(settings_):
    traffic = Traffic(**settings_)
    try:
        requests = requests_of(traffic, seed=0)
    except SpecError as error:
        unnamed = [p for p in error.problems if not (p.where.startswith("traffic.") and p.what)]
        if unnamed:
            pytest.fail(f"problems without a place or a reason: {unnamed}")
        return
    n, duration_s = traffic.n_requests, traffic.duration_s
    assert len(requests) >= 1
    assert n is None or len(requests) <= n
    assert duration_s is not None or len(requests) == (n or len(requests))
    assert duration_s is None or requests.arrival_s[-1] < duration_s
    assert (np.diff(requests.arrival_s, prepend=0) >= 0).all()
    assert min(requests.isl.min(), requests.osl.min()) >= 1
    if (
        traffic.trace
        and traffic.rate_per_s
        and traffic.arrivals in (None, "trace")
        and len(requests) > 1
    ):
        assert describe(requests).rate_per_s == pytest.approx(traffic.rate_per_s)


def test_a_traffic_too_short_for_one_request_is_said():
    assert problems(**LENGTHS, rate_per_s=0.001, duration_s=0.001) == {"duration_s"}


def test_a_piece_of_no_requests_is_refused():
    with pytest.raises(SpecError, match="chunk"):
        next(iter_requests(Traffic(**LENGTHS, rate_per_s=1.0, n_requests=5), seed=0, chunk=0))


def test_a_file_that_synth_wrote_is_a_workload_too(tmp_path):
    from forerun.spec.traces import bundled, synth

    path = tmp_path / "like-mine.yaml"
    synth.save(bundled.load("chat"), path)
    by_file = requests_of(Traffic(trace=str(path), n_requests=50), seed=3)
    by_name = requests_of(Traffic(trace="chat", n_requests=50), seed=3)
    np.testing.assert_array_equal(by_file.isl, by_name.isl)
    np.testing.assert_array_equal(by_file.arrival_s, by_name.arrival_s)
