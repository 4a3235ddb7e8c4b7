"""Vidur's tables and traces give Vidur's results, and the comparison says so when they do not."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from benchmarks import vidur_replay, vidur_same_work
from forerun.cost.table import CostTable, Work, grid
from forerun.cost.vidur import bagged_nearest, surface
from forerun.cost.vidur_files import read_config
from forerun.sim import tables
from forerun.sim.serve import Served, run
from forerun.spec.deployment import Engine, Policy, Pool
from forerun.spec.requests import Requests

RUNS = ("cl34-500", "cl34-2000")


@pytest.fixture(scope="module")
def vidur_run(shared_data):
    folder = shared_data / "vidur_run"
    if not folder.is_dir():
        pytest.skip("the folder of a Vidur run is not here")
    return folder


@pytest.fixture
def copy(vidur_run, tmp_path):
    """A copy that may be damaged."""
    target = tmp_path / "run"
    shutil.copytree(vidur_run, target, copy_function=shutil.copyfile)
    for path in (target, target / "ops"):
        path.chmod(0o755)
    return target


# -- against Vidur ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RUNS)
def test_latencies_are_vidurs(vidur_run, name):
    rows = list(vidur_same_work.compare(vidur_same_work.prepare(vidur_run, name)))
    judged = [row for row in rows if row.band != vidur_same_work.TOLD]
    assert len(judged) >= 10  # requests, and three percentiles of three latencies
    assert [row for row in judged if not row.passes] == []


def test_every_iteration_is_explained_and_costs_what_vidur_charged(vidur_run):
    one = vidur_same_work.prepare(vidur_run, "cl34-500")
    rows = vidur_replay.read(vidur_run / "batches-cl34-500.csv")
    batches = vidur_replay.replay(one.requests, rows)
    errors = np.abs(vidur_same_work.step_errors(one, batches))
    assert len(batches) == len(rows) == 5019
    # its random forests differ by 0.3 % from one seed to the next
    assert np.median(errors) < 0.004
    assert np.percentile(errors, 90) < 0.01


def test_the_overload_run_is_the_same_trace_three_times_as_fast(vidur_run):
    """Vidur's Poisson process draws the same gaps at another rate, so 6/s is 2/s compressed."""
    one = vidur_same_work.prepare(vidur_run, "cl34-2000")
    faster = replace(one.requests, arrival_s=one.requests.arrival_s / 3)
    ours = vidur_same_work.latencies_s(run(faster, [one.served], log="requests"))
    theirs = json.loads((vidur_run / "results.json").read_text())["cl34-2000-q6"]["metrics"]
    for metric, key in (("TTFT", "ttft_s"), ("TBT", "tbt_mean_per_request_s"), ("E2E", "e2e_s")):
        for p in (50, 90, 99):
            assert np.percentile(ours[metric], p) == pytest.approx(theirs[key][f"p{p}"], rel=0.01)


def test_the_engine_takes_the_time_that_a_batch_is_priced_at(vidur_run):
    one = vidur_same_work.prepare(vidur_run, "cl34-500")
    log = run(one.requests[:60], [one.served], leap=False)
    lone = log.leaps[log.leaps["n_chunks"] <= 1]
    assert len(lone) > 100
    for leap in lone:
        chunks = ((int(leap["chunk"]), int(leap["past"])),) if leap["n_chunks"] else ()
        batch = vidur_replay.Batch(0.0, int(leap["n_decode"]), int(leap["ctx"]), chunks)
        assert leap["first_ps"] == pytest.approx(
            1e12 * vidur_replay.price_s(one.served.table, batch), abs=4
        )


def test_the_configuration_says_what_vidur_derived_from_it(vidur_run):
    replica = read_config(vidur_run / "config-cl34-500.json")
    assert replica.max_requests_in_memory == 109  # both as printed by Vidur
    assert replica.n_blocks == 27904


def test_the_event_loop_can_be_timed_alone(vidur_run):
    assert 0 < vidur_same_work.event_loop_ms(vidur_run, "cl34-500", repeats=1) < 60_000


# -- exit codes ------------------------------------------------------------------------------------


def test_equal_results_exit_0(vidur_run, capsys):
    assert vidur_same_work.main([str(vidur_run)]) == 0
    assert "21 of 21 inside their bands" in capsys.readouterr().out


def test_other_results_exit_1(copy, capsys):
    path = copy / "request_metrics-cl34-500.csv"
    header, *body = path.read_text().splitlines()
    column = header.split(",").index("prefill_e2e_time")
    rows = [line.split(",") for line in body]
    for row in rows:
        row[column] = str(1.05 * float(row[column]))
    path.write_text("\n".join([header, *(",".join(row) for row in rows)]) + "\n")
    assert vidur_same_work.main([str(copy)]) == 1
    failed = [line for line in capsys.readouterr().out.splitlines() if line.endswith("FAIL")]
    assert failed
    assert all("cl34-500" in line and "TTFT" in line for line in failed)


def test_a_run_with_parts_missing_is_left_out_and_said(copy, capsys):
    (copy / "config-cl34-2000.json").unlink()
    assert vidur_same_work.main([str(copy)]) == 0
    assert "cl34-2000: left out, there is no config-cl34-2000.json" in capsys.readouterr().out


def _no_folder(folder):
    shutil.rmtree(folder)


def _no_runs(folder):
    for path in folder.glob("trace-*"):
        path.unlink()


def _no_linear_table(folder):
    next((folder / "ops").glob("linear-*")).unlink()


def _other_parallel_degree(folder):
    for path in (folder / "ops").iterdir():
        path.rename(path.with_name(path.name.replace("tp2", "tp4")))


def _bad_number(folder):
    path = next((folder / "ops").glob("linear-*"))
    path.write_text(path.read_text().replace("0.219", "fast", 1))


def _bad_json(folder):
    (folder / "config-cl34-500.json").write_text("{")


def _unknown_scheduler(folder):
    path = folder / "config-cl34-500.json"
    path.write_text(path.read_text().replace('"sarathi"', '"lightllm"'))


def _pipeline(folder):
    path = folder / "config-cl34-500.json"
    text = path.read_text()
    path.write_text(text.replace('"num_pipeline_stages": 1', '"num_pipeline_stages": 2'))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (_no_folder, "is not a folder"),
        (_no_runs, "holds no run of Vidur"),
        (_no_linear_table, "has no linear table for codellama/CodeLlama-34b-Instruct-hf, tp = 2"),
        (_other_parallel_degree, "linear-a100-codellama34b-tp4.csv"),
        (_bad_number, "column mlp_up_proj_ms"),
        (_bad_json, "is not a Vidur configuration"),
        (_unknown_scheduler, "lightllm"),
        (_pipeline, "pipeline stages"),
    ],
)
def test_an_unusable_folder_exits_2_with_the_reason(copy, capsys, damage, said):
    damage(copy)
    assert vidur_same_work.main([str(copy)]) == 2
    assert said in capsys.readouterr().err


# -- smoothing -------------------------------------------------------------------------------------


def test_bagging_weighs_points_by_the_chance_that_no_nearer_one_was_drawn():
    # at 0: the point there with chance 1 - 1/e, the other with 1/e * (1 - 1/e) of what is left
    e = np.exp(-1)
    expected = 1 * (e * (1 - e)) / ((1 - e) + e * (1 - e))
    assert bagged_nearest(np.array([0.0, 1]), np.array([0.0, 1]), np.array([0.0])) == pytest.approx(
        expected
    )


def test_bagging_is_what_bootstrap_samples_give():
    rng = np.random.default_rng(0)
    x, y = np.sort(rng.uniform(0, 10, 40)), rng.normal(size=40)
    at = np.linspace(0, 10, 7)
    samples = [np.unique(rng.integers(0, 40, 40)) for _ in range(20_000)]
    drawn = np.mean([y[s[np.abs(x[s][:, None] - at).argmin(axis=0)]] for s in samples], axis=0)
    assert bagged_nearest(x, y, at) == pytest.approx(drawn, abs=0.03)


def test_a_surface_takes_the_nearest_row_where_a_row_ends_early():
    rows, columns = np.array([0, 0, 64, 64]), np.array([1, 3, 1, 2])
    values = np.array([10.0, 30, 20, 30])
    table = surface(rows, columns, values, np.array([0, 32, 64, 999]), np.array([1, 2, 3]))
    assert table.tolist() == [[10, 20, 30], [15, 25, 30], [20, 30, 30], [20, 30, 30]]


# -- what is matched behind an option --------------------------------------------------------------


def _constant_table(tokens_s, max_seqs=8):
    n = len(tokens_s) - 1
    work = Work(
        tokens=np.asarray(tokens_s, dtype=float),
        seqs=np.zeros(len(grid(max_seqs))),
        decode=np.zeros((max_seqs + 1, 2)),
        prefill=np.zeros((n + 1, 2)),
    )
    knots = np.array([0, 64])
    return CostTable(
        n, max_seqs, knots, knots, work, work, work, work, work, 0.0, 0.0, 0.0, 1, 1.0, 1.0,
        1.0, 1.0, {"measured": 1.0}, between="constant",
    )  # fmt: skip


def test_a_table_of_measured_values_keeps_them_where_they_fall():
    falling = _constant_table([0, 5e-3, 4e-3])
    assert tables.arrays([falling])["tokens_ps"][0, :3].tolist() == [0, 5 * 10**9, 4 * 10**9]
    smooth = tables.arrays([replace(falling, between="linear")])
    assert smooth["tokens_ps"][0, :3].tolist() == [0, 5 * 10**9, 5 * 10**9]


def _prompts_by_step(isl, budget):
    table = _constant_table(np.full(budget + 1, 1e-3))
    engine = Engine(
        batch=Policy(name="prefill_first"), max_num_seqs=8, max_num_batched_tokens=budget
    )
    requests = Requests(np.zeros(len(isl)), np.array(isl), np.full(len(isl), 2))
    served = Served(Pool(device="any", engine=engine), table, 10_000, 10_000)
    admit = vidur_same_work.padded_prompts(budget)
    log = run(requests, [served], policies={"admit": admit})
    return [int(n) for n in log.leaps["n_chunks"] if n]


def test_padded_prompts_count_as_long_as_the_longest_of_their_step():
    # 4 * 500 = 2000; the fifth would make 2500 though the tokens themselves are 2000 at most
    assert _prompts_by_step([500, 500, 100, 100, 100], 2000) == [4, 1]
    # 100, 100 fit; with 900 it would be 3 * 900
    assert _prompts_by_step([100, 100, 900, 900], 2000) == [2, 2]


def test_fewest_waiting_ignores_those_that_run():
    load = np.zeros((8, 3), dtype=np.int64)
    load[0] = (1, 9, 9)  # outstanding
    load[vidur_same_work.WAITING_REQUESTS] = (1, 0, 0)
    assert vidur_same_work.fewest_waiting(None, load, None, None, None) == 1


def test_contexts_are_rounded_up_with_the_token_being_computed(vidur_run):
    table = vidur_same_work.prepare(vidur_run, "cl34-500").served.table
    # 128 decodes at 0 to 63 cached tokens are charged as at 64: 0.030 ms, times 48 layers and 1.1
    assert table.knots_ctx[:3].tolist() == [0, 64, 128]
    assert table.time_s.decode[128, 0] == pytest.approx(0.030e-3 * 48 * 1.1)
    # a chunk of 512 after nothing, after 1 to 64 and after 65 to 128 tokens: the first two measured
    assert table.knots_past[:3].tolist() == [0, 1, 65]
    assert table.time_s.prefill[512, :2] == pytest.approx([0.072e-3 * 48, 0.080e-3 * 48])


def test_several_chunks_cost_more_than_one_for_grouped_queries(vidur_run):
    one = vidur_same_work.prepare(vidur_run, "cl34-500")
    assert one.served.table.mixed_factor == pytest.approx(1.1)
    several = vidur_replay.Batch(0.0, 0, 0, ((150, 0), (200, 0)))
    lone = vidur_replay.Batch(0.0, 0, 0, ((250, 0),))  # 150^2 + 200^2 = 250^2
    attention = [
        vidur_replay.price_s(one.served.table, batch)
        - one.served.table.time_s.tokens[sum(q for q, _ in batch.chunks)]
        for batch in (several, lone)
    ]
    assert attention[0] == pytest.approx(1.1 * attention[1])
