"""The command line as a process: answers on stdout, remarks on stderr, the promised exit codes."""

import ast
import csv
import io
import json
from pathlib import Path

import pytest

import forerun
from forerun.cli import _FOLDER, first_line

ENGINE_FREE = ["doctor", "fit", "init", "schema", "show", "trace"]
SMALL = ["llama-3.1-8b", "--gpu", "h100:1", "--isl", "300", "--osl", "20", "--rate", "5"]
SMALL += ["--n-requests", "40"]


def _fails(done, code, *sentences):
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    for sentence in sentences:
        assert sentence in done.stderr


# -- commands are files ---------------------------------------------------------------------------


COMMANDS = sorted(p.stem for p in _FOLDER.glob("[a-z]*.py"))


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_and_a_first_line(run, name):
    done = run(name.replace("_", "-"), "--help")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Usage: ")
    line = first_line(name)
    assert 20 < len(line) <= 100
    assert line.endswith(".")
    assert line[:20] in run("--help").stdout


def test_a_new_file_is_a_new_command(run, tmp_path, monkeypatch):
    target = _FOLDER / "zz_test_only.py"
    target.write_text(
        '"""A command that a test wrote."""\n\nimport click\n\n\n'
        '@click.command()\ndef command():\n    click.echo("here")\n'
    )
    try:
        assert "A command that a test wrote." in run("--help").stdout
        assert run("zz-test-only").stdout == "here\n"
    finally:
        target.unlink()


def test_an_unknown_command_offers_the_nearest(run):
    _fails(run("simulte"), 2, "no command 'simulte'\n  try: did you mean simulate?")


def test_an_unknown_option_is_a_mistake_of_use(run):
    _fails(run("simulate", "--ratte", "4"), 2, "No such option")


def test_the_version_is_the_packages(run):
    assert run("--version").stdout == f"forerun {forerun.__version__}\n"


# -- answers --------------------------------------------------------------------------------------


def test_doctor_says_what_is_modelled(run):
    rows = json.loads(run("doctor", "--json").stdout)["rows"]
    parts = {row["part"] for row in rows}
    assert {"cores", "GPU", "energy counters", "measured here", "modelled", "cache"} <= parts


def test_doctor_survives_a_home_that_is_not_there(run):
    done = run("doctor", HOME="/nowhere/at/all", FORERUN_CACHE_DIR="/nowhere/cache")
    assert done.returncode == 0, done.stderr


def test_fit_says_what_fits_and_what_would(run):
    done = run("fit", "llama-3.1-70b", "--gpu", "l4,h100", "--json")
    assert done.returncode == 3
    answer = json.loads(done.stdout)
    assert answer["schema_version"] == 1
    assert [row["device"] for row in answer["devices"]] == ["l4", "h100-sxm"]
    for row in answer["devices"]:
        assert not row["fits"]
        assert row["suggestions"]
        assert "weights" in row["problems"][0]


def test_fit_balances_its_books(run):
    row = json.loads(run("fit", "llama-3.1-8b", "--gpu", "l4", "--json").stdout)["devices"][0]
    kept = row["weights_bytes"] + row["activation_bytes"] + row["reserve_bytes"]
    assert row["budget_bytes"] - kept == pytest.approx(row["kv_pool_bytes"])
    # 32 layers x 8 heads x 128 x keys and values x 2 bytes
    assert row["kv_bytes_per_token"] == 32 * 8 * 128 * 2 * 2
    assert row["concurrency"]["8192"] == row["kv_pool_bytes"] // (131072 * 8192)


def test_fit_reports_every_mistake_at_once(run):
    done = run("fit", "lama-3.1-8b", "--gpu", "h1000", "--tp", "0")
    _fails(done, 2, "did you mean llama-3.1-8b", "device 'h1000'", "tp: must be at least 1")


def test_predict_gives_one_row_a_device(run):
    done = run(
        "predict", "llama-3.1-8b", "--gpu", "l4,h100", "--isl", "500", "--osl", "50",
        "--rate", "1", "--n-requests", "50", "--csv",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    assert [row["device"] for row in rows] == ["l4", "h100-sxm"]
    for row in rows:
        assert float(row["low"]) < 1 < float(row["high"])
        assert float(row["ttft_p50_s"]) <= float(row["ttft_p99_s"])
    assert float(rows[1]["tpot_p50_s"]) < float(rows[0]["tpot_p50_s"])


def test_predict_without_a_rate_is_idle_latency_and_full_throughput(run):
    point = ("predict", "llama-3.1-8b", "--gpu", "h100", "--isl", "500", "--osl", "50", "--json")
    idle = json.loads(run(*point).stdout)["points"][0]
    busy = json.loads(run(*point, "--rate", "8").stdout)["points"][0]
    assert idle["ttft_p50_s"] <= busy["ttft_p50_s"]
    assert idle["output_tokens_per_s"] > busy["output_tokens_per_s"]


def test_predict_exits_3_where_the_model_fits_nowhere(run):
    done = run("predict", "llama-3.1-405b", "--gpu", "l4", "--isl", "9", "--osl", "9")
    assert done.returncode == 3
    assert "needs" in done.stdout


def test_simulate_answers_on_stdout_and_remarks_on_stderr(run):
    done = run("simulate", *SMALL, "--json")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["counts"]["finished"] == 40
    assert answer["case"]["deployment"]["pools"][0]["device"] == "h100-sxm"
    assert answer["provenance"]["seed"] == 0
    assert "no deployment was given" in done.stderr
    assert run("simulate", *SMALL, "--json", "--quiet").stderr == ""


def test_the_same_command_gives_the_same_bytes(run):
    assert run("simulate", *SMALL, "--json").stdout == run("simulate", *SMALL, "--json").stdout
    other = run("simulate", *SMALL, "--json", "--seed", "1").stdout
    assert other != run("simulate", *SMALL, "--json").stdout


def test_a_missed_slo_exits_3_and_names_the_binding_term(run):
    done = run("simulate", *SMALL, "--ttft", "1 us")
    assert done.returncode == 3
    assert "SLO missed" in done.stdout
    assert "time to first token" in done.stdout


def test_a_model_that_does_not_fit_exits_3_with_what_would(run):
    done = run("simulate", "llama-3.1-405b", "--gpu", "l4:2", "--trace", "chat")
    _fails(done, 3, "needs", "weights", "try: ")


def test_files_are_written_where_asked(run, tmp_path):
    done = run(
        "simulate", *SMALL, "--csv", "r.csv", "--parquet", "r.parquet", "--html", "r.html",
        "--perfetto", "t.json", "-o", "r.txt",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert len((tmp_path / "r.csv").read_text().splitlines()) == 41
    assert (tmp_path / "r.parquet").read_bytes()[:4] == b"PAR1"
    assert "<html" in (tmp_path / "r.html").read_text()
    assert json.loads((tmp_path / "t.json").read_text())["traceEvents"]
    assert "time to first token" in (tmp_path / "r.txt").read_text()


@pytest.mark.parametrize("option", ["--csv", "--parquet", "--html", "--perfetto", "-o"])
def test_an_output_that_cannot_be_written_is_said_before_anything_runs(run, option):
    done = run("simulate", *SMALL, option, "no/such/folder/file")
    _fails(done, 2, "no/such/folder/file: cannot be written: no folder no/such/folder")


def test_a_report_of_a_saved_result_repeats_it(run, tmp_path):
    run("simulate", *SMALL, "--ttft", "1 s", "--json", "-o", "result.json")
    done = run("report", "result.json", "--html", "report.html")
    assert done.returncode == 0, done.stderr
    assert "differ" not in done.stderr
    assert "SLO met" in (tmp_path / "report.html").read_text()
    saved = json.loads((tmp_path / "result.json").read_text())
    saved["counts"]["finished"] = 39
    (tmp_path / "result.json").write_text(json.dumps(saved))
    assert "counts: the saved figures differ" in run("report", "result.json").stderr


# -- cases ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["chat", "code", "long-context"])
def test_what_init_writes_is_read_and_meets_its_own_goals(run, tmp_path, name):
    assert run("init", name).returncode == 0
    text = (tmp_path / "forerun.yaml").read_text()
    assert text.startswith("# yaml-language-server: $schema=forerun.schema.json\n")
    done = run("simulate", "--n-requests", "200", "--json")
    assert done.returncode == 0, done.stderr + done.stdout[-500:]
    assert json.loads(done.stdout)["title"].startswith(name)


def test_init_refuses_to_overwrite(run, tmp_path):
    (tmp_path / "forerun.yaml").write_text("mine")
    _fails(run("init"), 2, "forerun.yaml: is there already and was left alone")
    assert (tmp_path / "forerun.yaml").read_text() == "mine"
    assert run("init", "--force").returncode == 0
    assert "model:" in (tmp_path / "forerun.yaml").read_text()


def test_a_case_comes_from_standard_input(run):
    text = "model: llama-3.1-8b\nfleet: h100\ntraffic: {isl: 9, osl: 9, rate_per_s: 1 /s, "
    text += "n_requests: 9}\n"
    assert json.loads(run("simulate", "-", "--json", stdin=text).stdout)["counts"]["n"] == 9


def test_explain_goes_to_stderr_with_every_origin(run):
    run("init")
    done = run(
        "simulate", "--explain", "--n-requests", "20", "--json", "--set", "seed=3",
        FORERUN_TTFT="2 s",
    )  # fmt: skip
    assert json.loads(done.stdout)["provenance"]["seed"] == 3
    lines = {line.split()[0]: line for line in done.stderr.splitlines() if line.strip()}
    assert lines["seed"].endswith("--set seed")
    assert lines["slo.ttft_s"].endswith("FORERUN_TTFT")
    assert lines["traffic.n_requests"].endswith("--n-requests")
    assert "forerun.yaml:" in lines["model"]
    assert lines["deployment.pools.0.pp"].endswith("default")


def test_every_mistake_of_a_command_line_comes_at_once(run):
    done = run(
        "simulate", "lama-3.1-8b", "--gpu", "h1000:4", "--trace", "chatt", "--ttft", "500",
        "--route", "roundrobin",
    )  # fmt: skip
    _fails(
        done, 2,
        "--model model: 'lama-3.1-8b' is not in the catalog\n  try: did you mean llama-3.1-8b",
        "--fleet fleet.h1000: device 'h1000' is not in the catalog\n  try: did you mean h100",
        "--trace traffic.trace: no bundled workload or file is called 'chatt'\n  try: did you",
        "--ttft slo.ttft_s: '500' has no unit\n  try: 500 ms",
        "--route deployment.route: no route policy is called 'roundrobin'\n  try: did you mean "
        "round_robin",
        "5 problems",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (["--tp", "3", "--gpu", "h100:4"], "3 does not divide 32 attention heads of llama-3.1-8b"),
        (["--rate", "0"], "rate_per_s: must be greater than 0, is 0 /s"),
        (["--rate", "-1"], "rate_per_s: must be greater than 0, is -1 /s"),
        (["--rate", "nan"], "'nan req/s' is not a number with a unit"),
        (["--isl", "0"], "traffic.isl: must be at least 1, is 0"),
        (["--osl", "many"], "traffic.osl: expected keys and values, found 'many'"),
        (["--ep", "2", "--gpu", "h100:2"], "llama-3.1-8b has no experts to spread"),
        (["--replicas", "5"], "5 x h100-sxm are used (5 replicas of 1), the fleet has 1"),
        (["--dtype", "int3"], "'int3' is not a value of dtype"),
        (["--gpu-memory-utilization", "1.5"], "must be at most 1, is 1.5"),
        (["--concurrency", "4"], "given together with concurrency"),
        (["--seed", "-1"], "seed: must be at least 0, is -1"),
        (["--policy", "rout=x.py:f"], "--policy 'rout=x.py:f' names no kind"),
        (["--policy", "route=x.py:f"], "there is no file 'x.py'"),
        (["--set", "slo.tfft_s=1 s"], "unknown key 'tfft_s'\n  try: did you mean ttft_s"),
    ],
)
def test_a_wrong_flag_is_a_sentence(run, args, sentence):
    _fails(run("simulate", *SMALL, *args), 2, sentence)


def test_a_case_that_is_not_there_offers_init(run):
    _fails(run("simulate", "forerun.yaml"), 2, "no such file\n  try: forerun init chat")
    _fails(run("simulate"), 2, "model: is missing", "fleet: is missing", "traffic: is missing")


# -- traces ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "empty"),
        ("arrival_s,isl,osl\n", "there is a header, and no row below it"),
        ("arrival_s,isl,osl\n0,10,5\n1,-4,5\n", "t.csv:3: -4 input tokens"),
        ("arrival_s,isl,osl\n0,10,5\nnan,4,5\n", "t.csv:3: arrival is nan"),
        ("arrival_s,isl,osl\n5,10,5\n1,4,5\n", "t.csv:3"),
        ("arrival_s,isl,osl\n0,10,5\n1,4\n", "t.csv:3"),
        ("a,b\n1,2\n", "no known trace format has the columns a, b"),
    ],
)
def test_a_bad_trace_is_refused_with_its_line(run, tmp_path, text, sentence):
    (tmp_path / "t.csv").write_text(text)
    _fails(run("trace", "describe", "t.csv"), 2, sentence)
    done = run("simulate", "llama-3.1-8b", "--gpu", "h100", "--trace", "t.csv", "--quiet")
    _fails(done, 2, sentence)


def test_skipped_rows_are_counted_never_silent(run, tmp_path):
    (tmp_path / "t.csv").write_text("arrival_s,isl,osl\n0,10,5\n1,-4,5\n2,7,7\n")
    done = run("trace", "describe", "t.csv", "--skip-bad")
    assert "left out 1 negative_tokens" in done.stderr
    done = run("simulate", "llama-3.1-8b", "--gpu", "h100", "--trace", "t.csv", "--skip-bad")
    assert done.returncode == 0, done.stderr
    assert "left out: 1 bad rows of t.csv" in done.stdout
    assert "2 of 2 requests finished" in done.stdout


def test_a_workload_travels_as_parameters(run, tmp_path):
    assert run("trace", "synth", "chat", "--n", "300", "-o", "a.csv").returncode == 0
    assert run("trace", "synth", "a.csv", "-o", "w.yaml").returncode == 0
    assert run("trace", "synth", "w.yaml", "--n", "50", "-o", "b.csv").returncode == 0
    assert len((tmp_path / "b.csv").read_text().splitlines()) == 51
    done = run("trace", "convert", "b.csv", "c.jsonl", "--to", "mooncake")
    assert "wrote 50 requests" in done.stderr
    rows = json.loads(run("trace", "describe", "b.csv", "c.jsonl", "--json").stdout)["traces"]
    assert [row["n"] for row in rows] == [50, 50]
    assert rows[0]["isl_mean"] == rows[1]["isl_mean"]


# -- show -----------------------------------------------------------------------------------------


def test_every_number_of_a_device_has_a_unit_and_a_source(run):
    fields = json.loads(run("show", "device", "h100", "--json").stdout)["fields"]
    by_name = {row["field"]: row for row in fields}
    assert by_name["hbm_bytes_per_s"]["shown"] == "3.35 TB/s"
    assert by_name["peak_flop_per_s.bf16"]["shown"].endswith("flop/s")
    assert all(row["source"] for row in fields)


@pytest.mark.parametrize("kind", ["device", "link", "model", "policy", "technique"])
def test_show_lists_what_there_is_and_refuses_what_is_not(run, kind):
    assert run("show", kind).returncode == 0
    _fails(run("show", kind, "no-such-thing-at-all"), 2, "no-such-thing-at-all")


def test_show_policy_lists_those_of_a_kind(run):
    for kind in ("route", "place", "turn"):
        done = run("show", "policy", kind)
        assert done.returncode == 0
        names = [line.split("/")[0] for line in done.stdout.splitlines()[1:]]
        assert set(names) == {"route" if kind == "place" else kind}
        assert len(names) > 3
    assert "did you mean" in run("show", "policy", "rout").stderr


def test_the_first_line_of_a_policy_is_all_that_the_list_shows_of_it():
    policies = sorted((Path(forerun.__file__).parent / "sim" / "policies").glob("*/[a-z]*.py"))
    assert len(policies) > 50
    for path in policies:
        lines = (ast.get_docstring(ast.parse(path.read_text("utf-8"))) or "").splitlines()
        assert lines, path
        assert not any(lines[1:2]), path


def test_show_model_counts_parameters(run):
    fields = json.loads(run("show", "model", "llama-3.1-8b", "--json").stdout)["fields"]
    by_name = {row["field"]: row["value"] for row in fields}
    assert by_name["parameters"] == pytest.approx(by_name["published parameters"], rel=0.005)
