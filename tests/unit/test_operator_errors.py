"""Errors of operator costs: beside baselines, on tables of one's own, from the command line."""

import json
from dataclasses import replace

import numpy as np
import pytest
from operator_data import GEMM, ROWWISE, data_of, shapes_of, times_of

from forerun.calibrate import operators as fitting
from forerun.calibrate.accuracy import accuracy
from forerun.calibrate.baselines import nearest_scaled_s, roofline_s
from forerun.calibrate.data import gathered
from forerun.calibrate.judged import judge, lines, splits, text
from forerun.calibrate.operators import fit
from forerun.calibrate.run import calibrate, check_family, write
from forerun.cli.accuracy import splits_of
from forerun.cost.calibration import Store
from forerun.cost.families import family
from forerun.cost.rows import rows
from forerun.cost.sheet import sheet
from forerun.errors import SpecError
from forerun.measure.tables import Table
from forerun.spec.columns import write_columns

pytestmark = pytest.mark.usefixtures("few_trees")

# -- baselines and error tables --------------------------------------------------------------------


def test_the_roofline_is_the_data_sheet_alone():
    x = rows(2, op="gemm", device="h100-sxm", m=[4096.0, 1.0], n=4096.0, k=4096.0)
    x = x.filled(family("gemm").DEFAULTS)
    s = sheet(x)
    found = roofline_s(x, s, family("gemm").counts(x))
    assert found[0] == pytest.approx(2 * 4096**3 / s.flop_per_s[0])
    assert found[1] == pytest.approx(2 * (4096 * 4096 + 2 * 4096) / s.hbm_bytes_per_s[0])


def test_the_nearest_row_is_scaled_by_the_ratio_of_data_sheets():
    known = data_of("gemm", 50)
    asked = replace(known.take(np.arange(5)), time_s=np.full(5, np.nan))
    assert nearest_scaled_s(known, asked) == pytest.approx(known.time_s[:5])
    twice = replace(known, time_s=2 * known.time_s)
    assert nearest_scaled_s(twice, asked) == pytest.approx(2 * known.time_s[:5])
    assert np.isnan(nearest_scaled_s(known.take(np.arange(0)), asked)).all()


def test_a_row_of_twice_the_work_is_taken_to_last_twice_as_long():
    """4096 x 4096 x 4096 is bound by arithmetic on an H100, and so is twice as wide a product; an
    L4 has 121 of its 989 Tflop/s."""

    def product(n, device):
        x = rows(1, op="gemm", device=device, dtype="bf16", m=4096.0, n=n, k=4096.0)
        return gathered([Table(x, np.array([2e-4]), "t", "o", "l")])[0]

    known = product(4096.0, "h100-sxm")
    assert nearest_scaled_s(known, product(8192.0, "h100-sxm"))[0] == pytest.approx(4e-4, rel=0.01)
    peak = [sheet(product(1.0, d).x).flop_per_s[0] for d in ("h100-sxm", "l4")]
    other = nearest_scaled_s(known, product(4096.0, "l4"))[0]
    assert other == pytest.approx(2e-4 * peak[0] / peak[1], rel=0.01)


@pytest.mark.parametrize("n", [30, 300])
def test_the_nearest_row_is_never_the_row_itself(n):
    data = data_of("gemm", n)
    scored = [s for s in fit(data, date="d").scored if s.seen]
    (judged,) = [judge(data, s) for s in scored]
    assert (judged.nearest > 1e-9).all()
    assert np.isfinite(judged.nearest).all()


def test_a_scored_table_that_no_fit_saw_has_no_rows_to_be_near_to(tmp_path):
    data = data_of("gemm", 30)
    said = np.full(30, 1e-4)
    judged = judge(data.take(np.arange(0)), fitting.Scored(data, True, said, said, said))
    assert np.isnan(judged.nearest).all()


def _table(path, x, time_s):
    names = ("op", "device", "runtime", "dtype", "n_tokens", "width")
    columns = {n: x.words(n) if n in x.text else x.get(n) for n in names}
    write_columns(path, columns | {"time_us": time_s * 1e6})
    return path


@pytest.fixture
def mine(tmp_path):
    made = times_of("rowwise", shapes_of("rowwise", 300), ROWWISE, 0.05)
    return _table(tmp_path / "mine.csv", made.rows, made.time_s)


@pytest.fixture
def other(tmp_path):
    made = times_of("rowwise", shapes_of("rowwise", 100, 5), ROWWISE, 0.05, 5)
    return _table(tmp_path / "other.csv", made.rows, made.time_s)


def test_a_table_that_was_fitted_to_is_held_out_and_a_new_one_is_predicted(tmp_path, mine, other):
    write(calibrate([mine]), tmp_path / "store")
    said = []
    store = Store(tmp_path / "store")
    judged = accuracy([mine, other], calibrations=store, say=said.append)
    assert said == ["1 table was never fitted to, 1 held out and refitted"]
    rows_of = {j.scored.data.tables[0].name[:5]: j.scored.data.x.n for j in judged}
    assert rows_of["other"] == 100  # every row: none was used
    assert 30 < rows_of["mine."] < 90  # a fifth of the shapes
    assert all(np.median(j.ape) < 0.1 for j in judged)


@pytest.mark.parametrize("change", ["moved", "renamed", "appended"])
def test_rows_of_a_fit_are_not_taken_for_new_when_their_file_moves_or_grows(
    tmp_path, mine, other, change
):
    write(calibrate([mine]), tmp_path / "store")
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    text_of = mine.read_text()
    if change == "appended":
        text_of += other.read_text().split("\n", 1)[1]
    path = folder / ("renamed.csv" if change == "renamed" else "mine.csv")
    path.write_text(text_of)
    said = []
    accuracy([path], calibrations=Store(tmp_path / "store"), say=said.append)
    assert "0 tables were never fitted to, 1 held out and refitted" in said[-1]


def _retimed(lines, time_of, name="time_us"):
    """The lines of a table with other times."""
    at = lines[0].split(",").index("time_us")
    rows_ = [line.split(",") for line in lines]
    rows_[0][at] = name
    for i, cells in enumerate(rows_[1:]):
        cells[at] = f"{time_of(i, float(cells[at])):.9g}"
    return [",".join(cells) for cells in rows_]


def _changed(lines, change):
    head, *body = lines
    if change == "part":
        return [head, *body[::3]]
    if change == "other unit":
        return _retimed(lines, lambda i, time_us: 1e-6 * time_us, "time_s")
    return [head, *reversed(body), *_retimed(lines, lambda i, time_us: 1.1 * time_us)[1:6]]


@pytest.mark.parametrize("change", ["part", "other order, with rows added", "other unit"])
def test_rows_of_a_fit_are_told_again_in_another_file(tmp_path, mine, change):
    """Neither name nor content of the file is the same, and no row of it is new."""
    write(calibrate([mine]), tmp_path / "store")
    path = tmp_path / "another.csv"
    path.write_text("\n".join(_changed(mine.read_text().splitlines(), change)) + "\n")
    said = []
    judged = accuracy([path], calibrations=Store(tmp_path / "store"), say=said.append)
    assert "0 tables were never fitted to, 1 held out and refitted" in said[-1]
    assert all(j.scored.data.x.n < len(path.read_text().splitlines()) - 1 for j in judged)


def test_a_new_measurement_of_the_same_shapes_is_new(tmp_path, mine):
    """Two rows that took the same time by chance do not make it known."""
    write(calibrate([mine]), tmp_path / "store")
    lines_ = mine.read_text().splitlines()
    anew = _retimed(lines_, lambda i, time_us: time_us * (1.0 if i < 2 else 1.02))
    path = tmp_path / "anew.csv"
    path.write_text("\n".join(anew) + "\n")
    said = []
    accuracy([path], calibrations=Store(tmp_path / "store"), say=said.append)
    assert "1 table was never fitted to, 0 held out and refitted" in said[-1]


def test_what_was_left_out_or_refused_is_said(tmp_path, mine):
    body = mine.read_text().splitlines()
    zero = body[1].rpartition(",")[0] + ",0"
    mine.write_text("\n".join([*body, body[1], zero, zero]) + "\n")
    said = []
    accuracy([mine], calibrations=Store(tmp_path / "none"), say=said.append)
    assert "  2 time of 0" in said
    assert "  1 repeated, median taken" in said


def test_error_tables_have_a_line_a_slice_and_one_over_all(tmp_path, other):
    judged = accuracy([other], calibrations=Store(tmp_path / "none"))
    table = lines(judged, ("op", "regime"))
    assert table[-1].slice == ("all", "all")
    assert table[-1].n == sum(line.n for line in table[:-1]) == 100
    assert not table[-1].seen
    shown = text(table, ("op", "regime")).splitlines()
    assert shown[0].startswith("| op | regime | device is | rows | median | p90 |")
    assert "| unseen | 100 |" in shown[-1]
    assert shown[-1].endswith("| - |")  # no row is known that could be nearest


def test_errors_are_those_of_the_prediction(tmp_path, other):
    (judged,) = accuracy([other], calibrations=Store(tmp_path / "none"))
    data, said = judged.scored.data, judged.scored.predicted_s
    assert judged.ape == pytest.approx(np.abs(said - data.time_s) / data.time_s)
    *_, line = lines([judged])
    assert line.median == pytest.approx(np.median(judged.ape))
    assert line.p90 == pytest.approx(np.quantile(judged.ape, 0.9))


@pytest.mark.parametrize(
    ("by", "expected"), [("op", [("op",)]), ("op+device, dtype", [("op", "device"), ("dtype",)])]
)
def test_splits_are_names_joined_by_plus(by, expected):
    assert splits(by) == expected


def test_a_split_or_family_that_is_not_known_is_said_with_the_nearest():
    with pytest.raises(SpecError) as caught:
        splits("opp,device+regim")
    assert [p.where for p in caught.value.problems] == ["--by opp", "--by regim"]
    assert "did you mean" in caught.value.problems[1].fix
    with pytest.raises(SpecError, match="names nothing"):
        splits(" , ")
    with pytest.raises(SpecError, match="did you mean rowwise"):
        check_family("rowise")


def test_operators_and_runs_are_split_by_the_names_that_each_has():
    assert splits_of(None, True, True) == [
        [("op",), ("device",), ("regime",)], [("mode", "runtime"), ("device", "runtime")]
    ]  # fmt: skip
    assert splits_of("mode,device", True, True) == [[("device",)], [("mode",), ("device",)]]
    assert splits_of("mode", False, True) == [[], [("mode",)]]
    for by, there, kind in (("mode", (True, False), "operators"), ("op", (True, True), "runs")):
        with pytest.raises(SpecError, match=f"splits no table of {kind}"):
            splits_of(by, *there)
    with pytest.raises(SpecError, match="did you mean mode"):
        splits_of("modle", False, True)


# -- the commands ----------------------------------------------------------------------------------


def test_a_table_is_calibrated_predicted_and_judged_from_the_command_line(run, tmp_path, other):
    made = times_of("rowwise", shapes_of("rowwise", 55), ROWWISE, 0.05)  # too few for trees: quick
    _table(tmp_path / "few.csv", made.rows, made.time_s)
    done = run("calibrate", "ops", "few.csv", "--workers", 1)
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith("55 rows of 1 table\n")
    assert "\nwrote " in done.stderr
    assert "| norm | measured |" in done.stdout
    done = run("predict", "ops", other.name, "-q")
    assert done.stdout.count('"fitted: h100-sxm vllm 0.24.0, 55 rows"') == 100
    assert done.stderr == ""
    done = run("accuracy", other.name, "--by", "op+device,regime", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)["by"]
    assert set(found) == {"op+device", "regime"}
    line = found["op+device"][0]
    assert line["slice"] == ["norm", "h100-sxm"]
    assert line["seen"]
    assert line["n"] == 100
    assert 0.01 < line["median"] < 0.15


def test_ten_rows_of_a_device_that_ships_are_said_to_be_few(run, tmp_path):
    x = shapes_of("gemm", 10, 5)
    made = times_of("gemm", x, GEMM)
    path = tmp_path / "ten.csv"
    told = {name: x.words(name) for name in ("device", "runtime", "op", "dtype")}
    write_columns(path, told | {n: x.get(n) for n in "mnk"} | {"time_s": made.time_s})
    done = run("calibrate", "ops", path)
    assert done.returncode == 0, done.stderr
    assert "gemm: 10 rows of h100-sxm are few; the calibration that ships, of " in done.stderr
    path.write_text("device,op,dtype,m,n,k,runtime\nh100-sxm,gemm,bf16,64,4096,4096,vllm 0.24.0\n")
    done = run("predict", "ops", path)
    assert "fitted: h100-sxm vllm 0.24.0" in done.stdout
    assert " 10 rows" not in done.stdout


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--by", "oo,devicee"], "--by oo: splits no table"),
        (["--family", "gem"], "did you mean gemm"),
        (["--family", "gemm"], "no row of the family gemm"),
        (["--format", "neusigt"], "format 'neusigt': is not known"),
    ],
)
def test_mistakes_on_the_command_line_exit_with_2(run, other, arguments, sentence):
    done = run("accuracy", other.name, *arguments)
    assert done.returncode == 2
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_a_folder_that_cannot_be_written_exits_with_2(run, other):
    done = run("calibrate", "ops", other.name, "-o", other.name, "--workers", 1)
    assert done.returncode == 2
    assert "is no folder that can be written" in done.stderr
    assert "Traceback" not in done.stderr
