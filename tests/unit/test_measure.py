"""Measuring: which shapes, how times are taken, stopping and going on, what is fitted from them.

No time of this machine is asserted: benches here are functions with known times, and a real one is
only asked whether it runs.
"""

import csv
import itertools
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from forerun import catalog
from forerun.calibrate import onnx_loop
from forerun.calibrate.data import gathered
from forerun.calibrate.operators import fit_own
from forerun.calibrate.solve import predicted
from forerun.catalog import hardware
from forerun.cost import choose, operators
from forerun.cost.families import family, family_of_op, gemm
from forerun.cost.sheet import sheet
from forerun.errors import MissingDependency, SpecError
from forerun.measure import machine, threads
from forerun.measure import points as points_module
from forerun.measure.backends import backend, backends, ready
from forerun.measure.onnx_model import Transformer, transformer
from forerun.measure.onnx_rows import nodes_of, optimised
from forerun.measure.passes import Passes, passes_path
from forerun.measure.points import (
    KINDS,
    Kind,
    as_rows,
    candidates,
    gradients,
    points,
    representatives,
    telling,
)
from forerun.measure.tables import read_tables
from forerun.measure.take import nominal, raised, take, work
from forerun.measure.timing import NOISY, Pass, of_repeats, one_pass, quietest, undisturbed
from forerun.report.measured import add_section

CPU = "xeon-8480plus"


@pytest.fixture
def own_data(tmp_path, monkeypatch):
    """A data folder of the test's own."""
    monkeypatch.setenv("FORERUN_DATA_DIR", str(tmp_path / "data"))
    hardware.device.cache_clear()
    yield tmp_path / "data"
    hardware.device.cache_clear()


class FakeBench:
    """Times by the physics of families with coefficients that are known; no clock is asked."""

    device, runtime, dtype, versions = CPU, "onnxruntime 9.9.9", "fp32", "made up"
    kinds = (Kind("gemm", 90), Kind("norm", 20))

    def __init__(self, stop_after=None, noise=None, **coefs):
        self.coefs, self.stop_after, self.noise = coefs, stop_after, noise
        self.asked = []

    def prepare(self, row):
        self.asked.append(row)
        if self.stop_after is not None and len(self.asked) > self.stop_after:
            raise KeyboardInterrupt
        time_s = float(seconds([row], **self.coefs)[0])
        factor = next(self.noise) if self.noise else 1.0
        return lambda: time_s * factor


def seconds(rows, **coefs):
    """What the physics says of rows of one family, with some coefficients given."""
    x = as_rows([{**row, "device": CPU, "runtime": FakeBench.runtime} for row in rows])
    module = family(str(family_of_op(rows[0]["op"])))
    x = x.filled(module.DEFAULTS)
    s = sheet(x)
    c = choose.starting(x, s, module)
    known = {name: value for name, value in coefs.items() if name in c}
    return module.physics(x, s, {**c, **known})


# ------------------------------------------------------------------------------ which shapes


def test_any_beginning_of_the_points_is_the_choice_of_so_many():
    device = catalog.device(CPU)
    for kind in KINDS:
        many = representatives(kind, device, "fp32", 40)
        assert representatives(kind, device, "fp32", 12) == many[:12]
        assert len({json.dumps(row, sort_keys=True) for row in many}) == len(many)


def test_points_span_launches_memory_cache_and_arithmetic():
    device = catalog.device(CPU)
    rows = representatives(Kind("gemm", 96), device, "fp32", 96)
    x = as_rows([{**row, "device": CPU} for row in rows]).filled(gemm.DEFAULTS)
    s = sheet(x)
    counts = gemm.counts(x)
    compute, memory = counts.flop / s.flop_per_s, counts.hbm_bytes / s.hbm_bytes_per_s
    work = np.maximum(compute, memory)
    bound = {
        "launch": work < s.launch_s / 4,
        "memory": (memory > 2 * compute) & (memory > s.launch_s),
        "compute": (compute > 2 * memory) & (compute > 10 * s.launch_s),
        "cached": counts.hbm_bytes < s.l2_bytes / 10,
    }
    assert all(np.count_nonzero(mine) >= 5 for mine in bound.values()), bound


def test_chosen_points_tell_coefficients_more_than_points_at_random():
    device = catalog.device(CPU)
    drawn = list(candidates(Kind("gemm", 1), "fp32"))

    def told(rows):
        x = as_rows([{**row, "device": CPU} for row in rows]).filled(gemm.DEFAULTS)
        s = sheet(x)
        g = gradients(lambda c: gemm.physics(x, s, c), choose.starting(x, s, gemm))
        return np.linalg.slogdet(0.1 * np.eye(g.shape[1]) + g.T @ g)[1]

    chosen = told(representatives(Kind("gemm", 1), device, "fp32", 20))
    rng = np.random.default_rng(0)
    at_random = [told([drawn[i] for i in rng.choice(len(drawn), 20)]) for _ in range(20)]
    assert chosen > max(at_random)


def test_kinds_take_turns_so_that_a_stop_leaves_some_of_each():
    rows = points(KINDS, catalog.device(CPU), dtype="fp32")
    assert {(row["op"], row.get("impl", "")) for row in rows[:30]} == {
        (kind.op, kind.impl) for kind in KINDS
    }
    share = points(KINDS, catalog.device(CPU), dtype="fp32", share=0.25)
    assert 0.2 < len(share) / len(rows) < 0.3


def test_telling_takes_no_point_twice_and_stops_when_there_are_no_more():
    slopes = np.array([[1.0], [0.5], [0.1]])
    assert sorted(telling(slopes, {"a": np.arange(3.0)}, 10)) == [0, 1, 2]


# ------------------------------------------------------------------------------ times


def test_a_time_is_the_median_of_the_quietest_pass():
    timed = quietest([of_repeats([3.0, 4.0, 5.0]), of_repeats([2.0, 2.0, 2.5])])
    assert timed.time_s == 2.0
    assert timed.repeats == 6
    assert timed.spread == 1.0  # the passes are a factor 2 apart
    assert timed.is_noisy


def test_passes_that_agree_are_not_noisy():
    assert not quietest([Pass(1.0, 0.02, 9), Pass(1.05, 0.3, 9)]).is_noisy
    assert quietest([Pass(1.0, NOISY + 0.01, 9)]).is_noisy


def test_repeats_without_their_processor_time_are_left_out():
    # wall time of each repeat, and the processor time it got: two were kept waiting
    wall = iter([1.0, 1.0, 1.0, 9.0, 1.0, 9.0, 1.0])
    given = {1.0: 1.0, 9.0: 1.0}
    now = {"wall": 0.0, "used": 0.0}

    def repeat():
        took = next(wall)
        now["wall"] += took
        now["used"] += given[took]
        return took

    found = one_pass(
        repeat, pass_s=0.0, least=5, clock=lambda: now["wall"], used=lambda: now["used"]
    )
    assert (found.time_s, found.repeats, found.disturbed) == (1.0, 3, 2)


def test_disturbed_is_judged_beside_the_best_so_that_waiting_threads_are_fine():
    assert undisturbed([1.9, 1.95, 0.9]) == [True, True, False]
    assert undisturbed([0.4, 0.4]) == [True, True]


# ------------------------------------------------------------------------------ stop and go on


def measure(bench, table, *, share=0.2, **settings):
    # a bench that is made up needs no time: one repeat's worth
    settings = {"rounds": 2, "pass_s": 0.0, **settings}
    return take(bench, Passes.of(table), table, threads=1, share=share, **settings)


def test_what_is_measured_is_read_as_a_table_of_ones_own(tmp_path):
    table = tmp_path / "deep" / "m.csv"
    taken = measure(FakeBench(), table)
    assert taken.done
    assert taken.points == taken.wanted == 22
    (found,) = read_tables(table)
    assert found.rows.n == taken.points
    first = Passes.of(table).timed()[0]
    assert set(found.rows.words("runtime")) == {FakeBench.runtime}
    np.testing.assert_allclose(found.time_s[0], first[1].time_s, rtol=1e-8)
    header = table.read_text().partition("\n")[0].split(",")
    said = {"time_s", "repeats", "spread", "noisy", "date", "machine", "versions", "threads"}
    assert said <= set(header)


def told(table):
    """A table without what depends on the clock of the test."""
    with table.open() as file:
        return [{k: v for k, v in row.items() if k not in ("repeats", "disturbed")}
                for row in csv.DictReader(file)]  # fmt: skip


@pytest.mark.parametrize("stop_after", [0, 1, 7, 23, 40])
def test_an_interrupt_loses_nothing_and_the_same_command_goes_on(tmp_path, stop_after):
    whole, stopped = tmp_path / "whole.csv", tmp_path / "stopped.csv"
    measure(FakeBench(), whole)
    first = FakeBench(stop_after=stop_after)
    with pytest.raises(KeyboardInterrupt):
        measure(first, stopped)
    kept = passes_path(stopped).read_text().splitlines() if stop_after else []
    assert len(kept) == stop_after
    if stop_after:
        (table,) = read_tables(stopped)
        assert table.rows.n == min(stop_after, 22)
    second = FakeBench()
    taken = measure(second, stopped)
    assert taken.done
    assert len(second.asked) == 44 - stop_after  # nothing was measured twice
    assert told(stopped) == told(whole)


def test_a_pass_that_was_cut_off_is_taken_anew(tmp_path):
    table = tmp_path / "m.csv"
    measure(FakeBench(), table)
    path = passes_path(table)
    path.write_text(path.read_text()[:-25])
    found = Passes.of(table)
    assert found.cut == 1
    assert sum(len(v) for v in found.found.values()) == 43
    again = FakeBench()
    measure(again, table)
    assert len(again.asked) == 1
    assert len(path.read_text().splitlines()) == 44


def test_a_file_cut_between_a_line_and_its_end_is_not_glued_to_the_next(tmp_path):
    table = tmp_path / "m.csv"
    measure(FakeBench(), table, rounds=1)
    path = passes_path(table)
    path.write_text(path.read_text()[:-1])
    measure(FakeBench(), table, rounds=2)
    assert Passes.of(table).cut == 0
    assert len(path.read_text().splitlines()) == 44


def test_a_file_of_something_else_is_refused_with_its_lines(tmp_path):
    table = tmp_path / "m.csv"
    passes_path(table).write_text('{"row": 1}\nnot JSON\n{"row": {}}\n')
    with pytest.raises(SpecError, match="is not a pass") as caught:
        Passes.of(table)
    assert len(caught.value.problems) == 3


@pytest.mark.parametrize(("name", "value"), [
    ("time_s", "fast"), ("time_s", -1.0), ("time_s", float("nan")), ("time_s", float("inf")),
    ("repeats", None), ("row", 7), ("row", {"op": "gemm"}), ("about", 7),
])  # fmt: skip
def test_a_pass_that_no_clock_gave_is_refused_with_its_line(tmp_path, name, value):
    table = tmp_path / "m.csv"
    passes = Passes.of(table)
    passes.add({"op": "add", "device": CPU, "n_tokens": 1, "width": 8}, Pass(1e-6, 0.0, 5), {})
    line = json.loads(passes_path(table).read_text())
    (line if name in line else line["pass"])[name] = value
    with passes_path(table).open("a") as file:
        file.write(json.dumps(line) + "\n")
    with pytest.raises(SpecError, match="is not a pass that was measured") as caught:
        Passes.of(table)
    assert caught.value.problems[0].where == f"{passes_path(table)}:2"


def test_when_the_time_is_over_the_most_telling_points_are_there(tmp_path):
    ticks = itertools.count()
    table = tmp_path / "m.csv"
    taken = measure(FakeBench(), table, minutes=10 / 60, clock=lambda: float(next(ticks)))
    assert not taken.done
    assert 0 < taken.points < taken.wanted
    wanted = points(FakeBench.kinds, catalog.device(CPU), dtype="fp32", share=0.2)
    kept = [row for row, _, _ in Passes.of(table).timed()]
    for row, expected in zip(kept, wanted[: taken.points], strict=True):
        assert {k: row[k] for k in expected} == expected


def test_points_whose_passes_disagree_get_more_passes(tmp_path):
    rows = [{"op": "add", "n_tokens": n, "width": 8} for n in (1, 2)]
    passes = Passes(tmp_path / "p.jsonl")
    for row, times in zip(rows, ((1.0, 1.0), (1.0, 2.0)), strict=True):
        for t in times:
            passes.add(row, Pass(t, 0.0, 5), {})
    following = work(rows, passes, rounds=2)
    assert next(following) is rows[1]
    passes.add(rows[1], Pass(1.01, 0.0, 5), {})
    assert list(following) == []  # now two of its passes agree


# ------------------------------------------------------------------------------ what it is worth


def test_a_fit_of_known_times_gives_them_back_at_other_shapes(tmp_path):
    table = tmp_path / "m.csv"
    known = {"compute": 0.6, "stream": 0.5, "launch_s": 3e-6, "cached": 3.0}
    bench = FakeBench(**known)
    measure(bench, table, rounds=1, share=0.6)  # 54 products: no trees, coefficients alone
    data = next(d for d in gathered(read_tables(table)) if d.name == "gemm")
    (group,) = operators.groups(data.x, data.s)
    own, _ = fit_own(data, group, date="2026-11-21")
    asked = list(candidates(Kind("gemm", 1), "fp32"))[300:400]
    true = seconds(asked, **known)
    x = as_rows([{**row, "device": CPU, "runtime": bench.runtime} for row in asked])
    x = x.filled(gemm.DEFAULTS)
    rest = type(data)("gemm", x, sheet(x), true, np.zeros(x.n, int), data.tables)
    ape = np.abs(predicted(rest, own, None) / true - 1)
    assert np.median(ape) < 0.02
    assert np.quantile(ape, 0.9) < 0.08
    assert dict(zip(own.names, own.coefs[0], strict=True))["compute"] == pytest.approx(0.6, rel=0.1)


# ------------------------------------------------------------------------------ this machine


def test_a_measured_sheet_is_found_like_a_device_of_the_catalog(own_data):
    here = machine.Machine("a-host", "A CPU", 4, 2.0**34, 2.0**25)
    made = machine.sheet_of(here, 2, 1.5e11, 2.5e10, by="products")
    assert machine.known_sheet(made.name) is None
    machine.keep(made)
    found = catalog.device("CPU-a-host-2t")
    assert found.peak_flop_per_s["fp32"] == pytest.approx(1.5e11)
    assert found.hbm_bytes_per_s == pytest.approx(2.5e10)
    assert "measured here" in found.source_of("peak_flop_per_s")
    assert "estimate" in found.source_of("tdp_w")
    assert made.name not in catalog.devices()
    assert catalog.price(made.name) is None


def test_a_name_that_is_a_path_finds_no_file_outside_the_folder(own_data):
    (own_data / "devices").mkdir(parents=True)
    (own_data / "secret.yaml").write_text("name: x\n")
    for name in ("../secret", "/etc/passwd", "..", "cpu-nowhere-2t"):
        with pytest.raises(SpecError, match="not in the catalog"):
            catalog.device(name)


def test_a_sheet_is_raised_by_what_the_machine_shows_and_only_by_that(own_data, tmp_path):
    here = machine.Machine("h", "A CPU", 4, 2.0**34, None)
    device = machine.sheet_of(here, 1, 1e11, 2e10, by="products")
    machine.keep(device)
    passes = Passes(tmp_path / "p.jsonl")
    large = {"op": "gemm", "dtype": "fp32", "m": 1000, "n": 1000, "k": 1000, "device": device.name}
    passes.add({**large, "runtime": "r 1"}, Pass(0.01, 0.0, 5), {})  # 2e11 flop a second
    # 2,000 flop in a nanosecond is a clock's mistake, not a rate
    passes.add({**large, "m": 1, "n": 1, "runtime": "r 1"}, Pass(1e-9, 0.0, 5), {})
    assert raised(device, passes).peak_flop_per_s["fp32"] == pytest.approx(2e11)
    hardware.device.cache_clear()
    assert catalog.device(device.name).peak_flop_per_s["fp32"] == pytest.approx(2e11)
    assert raised(catalog.device(CPU), passes) is catalog.device(CPU)


def test_a_raised_sheet_does_not_change_which_points_are_asked(own_data):
    here = machine.Machine("h", "A CPU", 4, 2.0**34, 2.0**25)
    chosen = [
        points(KINDS, nominal(machine.sheet_of(here, 2, peak, rate, by="products")), dtype="fp32")
        for peak, rate in ((1e11, 2e10), (1.3e11, 1.5e10))
    ]
    assert chosen[0] == chosen[1]
    assert nominal(catalog.device(CPU)) is catalog.device(CPU)


@pytest.mark.parametrize(("factor", "words"), [(0.5, "times the peak"), (1e-3, "off by 1,000")])
def test_times_that_contradict_the_sheet_of_this_machine_are_refused(own_data, tmp_path, factor,
                                                                     words):  # fmt: skip
    here = machine.Machine("h", "A CPU", 4, 2.0**34, None)
    device = machine.sheet_of(here, 1, 1e11, 2e10, by="products")
    machine.keep(device)
    passes = Passes(tmp_path / "p.jsonl")
    for m in (500, 1000, 2000):
        row = {"op": "gemm", "dtype": "fp32", "m": m, "n": 1000, "k": 1000, "device": device.name}
        passes.add(row, Pass(factor * 2e6 * m / 1e11, 0.0, 5), {})
    table = tmp_path / "t.csv"
    passes.write(table)
    with pytest.raises(SpecError, match=words):
        read_tables(table)


def test_the_last_level_of_the_caches_is_read(tmp_path):
    for i, (level, size) in enumerate(((1, "32K"), (2, "1024K"), (3, "32M"))):
        (tmp_path / f"index{i}").mkdir()
        (tmp_path / f"index{i}" / "level").write_text(f"{level}\n")
        (tmp_path / f"index{i}" / "size").write_text(f"{size}\n")
    assert machine.last_cache_bytes(tmp_path) == 32 * 2**20
    assert machine.last_cache_bytes(tmp_path / "none") is None


def test_a_backend_that_is_not_here_says_what_to_install(monkeypatch):
    assert {"numpy_cpu", "onnxruntime_cpu", "torch", "cupy"} <= set(backends())
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for name in ("onnxruntime_cpu", "torch", "cupy"):
        with pytest.raises(MissingDependency, match="not installed\n  try: pip install") as caught:
            ready(name, 1)
        assert caught.value.exit_code == 5
    with pytest.raises(MissingDependency, match="onnx and onnxruntime and scipy and lightgbm are"):
        onnx_loop.needed()


def test_an_unknown_backend_is_told_the_nearest_name():
    with pytest.raises(SpecError, match="did you mean onnxruntime_cpu"):
        ready("onnxruntime", 1)


def test_numpy_refuses_threads_that_it_does_not_have(monkeypatch):
    for name in threads.VARIABLES:
        monkeypatch.setenv(name, "3")
    with pytest.raises(SpecError, match="are pinned to 3, and 1 are to be measured"):
        ready("numpy_cpu", 1)
    bench = ready("numpy_cpu", 3)
    for op in ({"op": "gemm", "m": 3, "n": 8, "k": 5}, {"op": "add", "n_tokens": 3, "width": 8}):
        assert bench.prepare(op)() > 0


# ------------------------------------------------------------------------------ onnxruntime


@pytest.fixture
def onnxruntime():
    pytest.importorskip("onnx")
    return pytest.importorskip("onnxruntime")


SMALL = Transformer(2, 12, 64, 4, 128, 2)


def test_the_graph_that_runs_has_the_operators_of_the_model(onnxruntime):
    rows = [node.row for node in nodes_of(optimised(transformer(SMALL), 1)) if node.row]
    flop = sum(2 * r["m"] * r["n"] * r["k"] for r in rows if r["op"] == "gemm")
    tokens, D, F = 24, 64, 128
    assert flop == 2 * 2 * tokens * (4 * D * D + 2 * D * F)  # 2 layers, a multiply-add is 2
    attention = [r for r in rows if r["op"] == "attention_prefill"]
    assert [(r["batch"], r["isl"], r["n_heads"], r["head_dim"]) for r in attention] == (
        [(2, 12, 4, 16)] * 2
    )
    norms = [r for r in rows if r["op"] == "norm"]
    adds = [r for r in rows if r["op"] == "add"]
    assert len(norms) == 5  # two a layer and the last
    assert len(adds) + sum(r.get("impl") == "skip" for r in norms) == 4  # residuals, some fused
    assert all(r["n_tokens"] == tokens for r in (*norms, *adds))


def test_a_node_of_an_unknown_kind_is_named(onnxruntime):
    from onnx import TensorProto, helper

    port = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [2, 3]) for n in ("x", "z")]
    nodes = [helper.make_node("Sinh", ["x"], ["y"]), helper.make_node("Add", ["x", "x"], ["z"])]
    made = helper.make_model(helper.make_graph(nodes, "g", port[:1], port[1:]))
    with pytest.raises(SpecError, match="not read: Sinh"):
        nodes_of(made.SerializeToString())


@pytest.mark.parametrize(("name", "package"), [
    ("onnxruntime_cpu", "onnxruntime"), ("torch", "torch"), ("cupy", "cupy"),
])  # fmt: skip
def test_a_library_runs_every_kind_that_is_asked(name, package):
    pytest.importorskip(package)
    if why := backend(name).missing():
        pytest.skip(why)
    bench = ready(name, 1)
    for kind in bench.kinds:
        row = next(candidates(kind, "fp32"))
        small = {k: min(v, 24) if isinstance(v, int) else v for k, v in row.items()}
        assert 1e-9 < bench.prepare(small)() < 1.0


def test_a_model_is_predicted_from_operators_and_run(onnxruntime, own_data, tmp_path, monkeypatch):
    pytest.importorskip("scipy")
    pytest.importorskip("lightgbm")
    monkeypatch.setattr(points_module, "MOST_S", 2e-4)  # small operators: nothing is asserted
    monkeypatch.setattr(points_module, "MOST_BYTES", 2.0**21)
    bench = ready("onnxruntime_cpu", 1)
    table = tmp_path / "m.csv"
    taken = take(
        bench, Passes.of(table), table, threads=1, share=0.12, rounds=1, pass_s=0.001, minutes=1
    )
    (read,) = read_tables(table)
    found = onnx_loop.loop(
        read, device=taken.device.name, runtime=bench.runtime, threads=1, start_s=bench.start_s,
        models=(SMALL, Transformer(1, 40, 64, 4, 128, 2)), reference=Transformer(1, 9, 32, 2, 64),
        rounds=1,
    )  # fmt: skip
    assert len(found.models) == 2
    assert found.n_points == taken.points
    with pytest.raises(SpecError, match="has no row of h100-sxm with vllm 1"):
        onnx_loop.loop(read, device="h100-sxm", runtime="vllm 1", threads=1, start_s=0.0)
    for line in (*found.models, *found.nodes):
        assert 0 < line.low_s < line.high_s
        assert 0 < line.predicted_s < 1.0
        assert 0 < line.measured_s < 1.0
    assert {line.op for line in found.nodes} == {
        "gemm", "attention_prefill", "norm", "activation", "add"
    }  # fmt: skip
    page = tmp_path / "report.html"
    page.write_text("<main><h2>How far to trust this</h2></main>")
    for _ in range(2):  # a second comparison takes the place of the first
        add_section(page, found)
        assert page.read_text().count("Predicted against measured") == 1
        assert page.read_text().index(found.models[0].name) < page.read_text().index("How far")
    page.write_text("<main></main>")
    with pytest.raises(SpecError, match="is no report of Forerun"):
        add_section(page, found)


# ------------------------------------------------------------------------------ the command


def call(tmp_path, *words):
    env = {k: v for k, v in os.environ.items() if not k.startswith("FORERUN_")}
    env |= {"FORERUN_DATA_DIR": str(tmp_path / "data")}
    return subprocess.run(
        [sys.executable, "-c", "from forerun.cli import main; main()", "measure", *words],
        capture_output=True, text=True, cwd=tmp_path, env=env, timeout=120, check=False,
    )  # fmt: skip


def test_the_command_measures_and_goes_on(tmp_path):
    words = ("--backend", "numpy_cpu", "--threads", "1", "--minutes", "0.01", "--json")
    for said in ("points on cpu-", "goes on with"):
        done = call(tmp_path, *words, "-o", "m.csv")
        assert done.returncode == 0, done.stderr
        assert said in done.stderr
        measured = json.loads(done.stdout)["measured"][0]
        assert measured["points"] > 0
        assert not measured["done"]
    assert "numpy" in (tmp_path / "m.csv").read_text()
    assert list((tmp_path / "data" / "devices").glob("cpu-*-1t.yaml"))


def test_several_libraries_share_one_table_and_fresh_forgets_the_last_one(tmp_path, onnxruntime):
    table, passes = tmp_path / "m.csv", tmp_path / "m.passes.jsonl"
    passes.write_text("of another time\n")
    words = ("--threads", "1", "--minutes", "0.003", "-o", "m.csv", "-q")
    assert call(tmp_path, "--backend", "numpy_cpu", *words).returncode == 2  # it is not read
    both = "numpy_cpu,onnxruntime_cpu"
    done = call(tmp_path, "--backend", both, "--fresh", *words)
    assert done.returncode == 0, done.stderr
    with table.open() as file:
        runtimes = {row["runtime"].split()[0] for row in csv.DictReader(file)}
    assert runtimes == {"numpy", "onnxruntime"}


def test_an_interrupt_ends_the_command_with_what_was_measured(tmp_path):
    env = {**os.environ, "FORERUN_DATA_DIR": str(tmp_path / "data")}
    words = ("measure", "--backend", "numpy_cpu", "--threads", "1", "-o", "m.csv")
    # a shell that starts tests in the background has taught them to ignore ^C
    process = subprocess.Popen(
        [sys.executable, "-c", "from forerun.cli import main; main()", *words], cwd=tmp_path,
        env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    end = time.monotonic() + 60
    while time.monotonic() < end and process.poll() is None:
        if (tmp_path / "m.passes.jsonl").exists():
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, told = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    assert "stopped; what was measured is in m.csv" in told
    assert "Traceback" not in told
    with (tmp_path / "m.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len((tmp_path / "m.passes.jsonl").read_text().splitlines()) > 0


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--backend", "onnx"), "is not known"),
        (("--backend", "numpy_cpu", "--check"), "--check runs a model on onnxruntime"),
        (("--backend", "numpy_cpu", "-o", "m.xlsx"), "is no name for a table of measurements"),
        (("--minutes", "-1"), "is not in the range"),
        (("--into", "nowhere/report.html"), "no folder nowhere"),
    ],
)
def test_mistakes_are_told_in_a_sentence(tmp_path, words, sentence):
    done = call(tmp_path, *words, "--threads", "1")
    assert done.returncode == 2
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr
