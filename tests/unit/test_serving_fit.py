"""Fits of engine profiles to runs: terms come back, and processes or memory change nothing."""

import numpy as np
import pytest

from forerun.calibrate import profile_fit, scored_runs, serving
from forerun.cost.engine_profile import profile
from forerun.measure.runs import Runs, read_runs
from forerun.serving.answer import answer, mean, outcome, stations_of
from forerun.serving.question import question
from forerun.spec.columns import Columns

pytest.importorskip("polars", reason="tables are read with polars")

ROW = {"model": "llama-3.1-8b", "device": "h100-sxm", "runtime": "vllm"}
APART = {
    **ROW, "mode": "disagg", "isl": "800", "osl": "60", "concurrency": "24",
    "prefill_replicas": "1", "decode_replicas": "2",
}  # fmt: skip
TRUE = profile("vllm").model_copy(
    update={"host_step_s": 1e-3, "host_seq_s": 2e-5, "api_request_s": 12e-3, "decode": 1.1}
)


def asked():
    for isl, osl in ((300, 20), (1500, 20), (150, 40)):
        for concurrency in (1, 6):
            yield {**ROW, "isl": str(isl), "osl": str(osl), "concurrency": str(concurrency)}


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Runs:
    path = tmp_path_factory.mktemp("runs") / "own.csv"
    rows = list(asked())
    lines = [",".join((*rows[0], "ttft_s", "tpot_s"))]
    for row in rows:
        seconds = answer(question(row, TRUE), energy=False).seconds
        lines.append(",".join((*row.values(), repr(seconds["ttft_s"]), repr(seconds["tpot_s"]))))
    path.write_text("\n".join(lines) + "\n")
    return read_runs(path)


def test_a_profile_tells_what_its_runs_showed_and_the_same_in_several_processes(runs, monkeypatch):
    monkeypatch.setattr(serving, "PIECE", 2)  # of the parent, which cuts
    monkeypatch.setattr(profile_fit, "STARTS", profile_fit.STARTS[:1])
    assert 0 < serving.halves(runs).sum() < runs.n == 6
    (found,), scored = serving.fit(runs)
    assert (found.rows, found.devices) == (6, ("h100-sxm",))
    plain = profile_fit.with_values(profile("vllm"), np.zeros(len(profile_fit.NAMES)))
    fitted, bare = (scored_runs.score(runs, known) for known in (found, plain))
    for name in ("ttft_s", "tpot_s"):
        off, without = (
            np.abs(getattr(one, name) / getattr(runs, name) - 1) for one in (fitted, bare)
        )
        assert (off < 0.3 * without).all()
    assert scored.answered.all()
    # what neither half saw is nearer than without a fit, too
    off, without = (np.abs(one.tpot_s / one.runs.tpot_s - 1) for one in (scored, bare))
    assert np.median(off) < 0.5 * np.median(without)
    (again,), shared = serving.fit(runs, workers=3)
    assert again == found
    for name in ("ttft_s", "tpot_s", "low", "high", "refused"):
        assert np.array_equal(getattr(shared, name), getattr(scored, name)), name
    assert shared.runs.table.text("isl").tolist() == scored.runs.table.text("isl").tolist()


@pytest.mark.parametrize("took_s", [0.02, 0.4])
def test_a_hand_over_is_found_on_either_side_of_what_is_expected(tmp_path, took_s):
    true = TRUE.model_copy(update={"transfer_s": took_s})
    rows = [{**APART, "isl": isl, "concurrency": c} for isl in ("300", "800") for c in ("2", "24")]
    lines = [",".join((*APART, "ttft_s", "tpot_s"))]
    for row in rows:
        seconds = answer(question(row, true), energy=False).seconds
        lines.append(",".join((*row.values(), repr(seconds["ttft_s"]), repr(seconds["tpot_s"]))))
    path = tmp_path / "apart.csv"
    path.write_text("\n".join(lines) + "\n")
    fit = profile_fit.Fit(read_runs(path), TRUE)
    found = fit.profile([fit.descended(0)])
    assert abs(found.transfer_s - took_s) < 0.3 * abs(profile_fit.CENTRE["transfer_s"] - took_s)


def test_runs_of_one_configuration_are_fitted_though_no_half_is_left(runs, monkeypatch):
    monkeypatch.setattr(profile_fit, "STARTS", profile_fit.STARTS[:1])
    few = runs.take(np.arange(2))
    few.table.cells["device"][1] = "h100-sxm of mine"  # refused, and on no device that is known
    (found,), scored = serving.fit(few)
    assert scored.answered.sum() == 1
    assert found.devices == ("h100-sxm",)
    assert found.rows == scored.runs.n == 2
    assert found.spread == {}  # of so few no interval is stated


@pytest.mark.parametrize("row", [next(asked()), APART], ids=["one pool", "pools apart"])
def test_a_question_under_another_profile_is_as_if_it_was_asked_of_that(row):
    plain = profile("vllm")
    q = question(row, plain).under(TRUE)
    stations = [
        station.under(pool, TRUE)
        for station, pool in zip(stations_of(question(row, plain)), q.pools, strict=True)
    ]
    figures, rate, joule = outcome(q, stations)
    new = answer(question(row, TRUE))
    for name in ("ttft_s", "tpot_s", "e2el_s"):
        assert (
            mean(figures[name]) == new.seconds[name] != answer(question(row, plain)).seconds[name]
        )
    assert (rate, joule) == (new.output_tokens_per_s, new.energy_j_per_token)


def test_a_server_in_front_moves_and_the_engine_is_not_simulated_again(monkeypatch):
    calls = []

    def counted(q, served, *load):
        calls.append(load)
        return simulated(q, served, *load)

    simulated = profile_fit.simulated
    monkeypatch.setattr(profile_fit, "simulated", counted)
    row = list(asked())[1]
    run = profile_fit.run_of(row, TRUE, 0.1, 0.01)
    assert run is not None
    assert len(calls) == 1
    for more in ({"api_request_s": 1e-3}, {"api_request_s": 2e-3}, {"api_token_s": 1e-6}):
        other = TRUE.model_copy(update=more)
        fresh = profile_fit.run_of(row, other, 0.1, 0.01)
        del calls[-1]
        assert run.off(other) == fresh.off(other)
        assert len(calls) == 1
    held_up = TRUE.model_copy(update={"api_request_s": 0.5})  # six of them wait for each other
    fresh = profile_fit.run_of(row, held_up, 0.1, 0.01)
    assert run.off(held_up) == fresh.off(held_up)
    slower = TRUE.model_copy(update={"host_step_s": 4e-3})
    n = len(calls)
    run.off(slower)
    assert len(calls) == n + 1
    for step in range(2 * profile_fit.KEPT):
        run.off(TRUE.model_copy(update={"host_step_s": 1e-5 * step}))
    assert len(run.logs) == profile_fit.KEPT


def test_a_run_that_is_refused_tells_no_hand_over(tmp_path):
    counted, bare = tmp_path / "counted.csv", tmp_path / "bare.csv"
    for path, row in (
        (counted, APART),
        (bare, {k: v for k, v in APART.items() if "repl" not in k}),
    ):
        path.write_text(
            f"{','.join((*row, 'ttft_s', 'tpot_s'))}\n{','.join(row.values())},1,0.01\n"
        )
    told, refused = (scored_runs.score(read_runs(path), TRUE) for path in (counted, bare))
    assert told.answered.all()
    assert not refused.answered.any()
    newest, older = (TRUE.model_copy(update={"transfer_s": seconds}) for seconds in (0.3, 0.1))
    given = serving.handing_over([(newest, told), (older, refused)])
    assert [p.transfer_s for p in given] == [0.3, 0.3]
    assert [p.transfer_s for p in serving.handing_over([(newest, told), (older, told)])] == [
        0.3,
        0.1,
    ]
    assert [p.transfer_s for p in serving.handing_over([(older, refused)])] == [0.1]


def scored(n=60, *, mode="agg", answered=None, seed=0):
    """n runs of ten configurations, whose latencies are off by factors of about 1.3."""
    rng = np.random.default_rng(seed)
    cells = {
        "row_id": np.array([f"{mode}{i}" for i in range(n)], object),
        "device": np.array(["h100-sxm"] * n, object),
        "runtime": np.array(["vllm"] * n, object),
        "mode": np.array([mode] * n, object),
        "isl": np.array([f"{100 * (i % 10)}" for i in range(n)], object),
        "concurrency": np.array([str(i) for i in range(n)], object),
        "decode_batch": np.array([str(i // 2) for i in range(n)], object),
    }
    measured = 0.1 * np.exp(0.26 * rng.standard_normal((2, n)))
    table = Columns(tuple(cells), cells, n)
    note = np.array([""] * n, object)
    runs = Runs(table, *measured, note=note, name="made", origin="nobody", licence="none")
    said = np.full((2, n), 0.1)
    refused = np.where(np.ones(n, bool) if answered is None else answered, "", "no")
    return scored_runs.Scored(runs, said[0], said[1], said.copy(), said.copy(), refused)


def test_runs_of_one_configuration_under_other_loads_are_of_one_half():
    runs = scored().runs
    names = scored_runs.configurations(runs)
    assert len(set(names)) == 10
    for half in (serving.halves(runs), ~serving.halves(runs)):
        assert half.any()
        assert not set(names[half]) & set(names[~half])


def test_an_interval_is_between_errors_of_which_a_tenth_is_beyond_either_end():
    found = scored(99)
    low, high = scored_runs.spreads(found, np.ones(99, bool))["ttft_s"]
    ratio = np.sort(found.runs.ttft_s / found.ttft_s)
    # ten of a hundred, the next one among them
    assert (low, high) == (round(ratio[9], 3), round(ratio[-10], 3))
    assert scored_runs.spreads(scored(9), np.ones(9, bool)) == {}
    few = scored_runs.spreads(scored(10), np.ones(10, bool))["tpot_s"]
    assert few[0] == round(scored(10).runs.tpot_s.min() / 0.1, 3)


def test_a_profile_with_few_runs_of_pools_apart_has_the_interval_of_all_of_them():
    both = scored_runs.together([scored(40, mode="disagg"), scored(12, mode="disagg", seed=1)])
    own = np.arange(52) >= 40
    all_of_them = scored_runs.spreads(both, np.ones(52, bool))
    assert scored_runs.spreads(both, own) == all_of_them
    assert scored_runs.spreads(both, ~own) != all_of_them
    assert set(all_of_them) == {"split ttft_s", "split tpot_s", "split e2el_s"}


def test_intervals_are_scored_without_the_errors_of_a_runs_own_configuration():
    found = scored(100)
    runs = found.runs
    own = runs.table.text("isl") == "300"
    runs.ttft_s[own] *= 50  # one that is like no other
    got = scored_runs.bounded(found, np.zeros(100, int))
    inside = (got.low <= [runs.ttft_s, runs.tpot_s]) & ([runs.ttft_s, runs.tpot_s] <= got.high)
    assert not inside[0, own].any()
    assert 0.7 < inside[1].mean() < 0.9
    assert (got.low <= [found.ttft_s, found.tpot_s]).all()
    assert len(set(got.high[0, own])) == 1
    assert got.high[0, own][0] < got.high[0, ~own].min()  # the others were told of it
    silent = scored(100, answered=~own)
    assert np.isnan(scored_runs.bounded(silent, np.zeros(100, int)).low[0, own]).all()


def test_runs_that_tell_nothing_leave_the_hand_over_where_it_is_expected():
    plain = profile_fit.with_values(profile("vllm"), np.zeros(len(profile_fit.NAMES)))
    assert plain.transfer_s == profile_fit.CENTRE["transfer_s"] > 0
    assert plain.host_step_s == plain.api_request_s == 0
    assert plain.decode == 1
    gone = np.zeros(len(profile_fit.NAMES))
    gone[profile_fit.NAMES.index("transfer_s")] = -1e3
    assert profile_fit.with_values(profile("vllm"), gone).transfer_s == 0
