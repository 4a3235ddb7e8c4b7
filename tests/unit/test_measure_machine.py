"""Measuring this machine: its data sheet, its libraries, the command.

No time of this machine is asserted: a real bench is only asked whether it runs.
"""

import csv
import json
import os
import signal
import subprocess
import sys
import time

import pytest

from forerun import catalog
from forerun.calibrate import onnx_loop
from forerun.catalog import hardware
from forerun.errors import MissingDependency, SpecError
from forerun.measure import machine, threads
from forerun.measure import points as points_module
from forerun.measure.backends import backend, backends, ready
from forerun.measure.onnx_model import Transformer, transformer
from forerun.measure.onnx_rows import nodes_of, optimised
from forerun.measure.pace import Pace
from forerun.measure.passes import Passes
from forerun.measure.points import KINDS, candidates, points
from forerun.measure.tables import read_tables
from forerun.measure.take import nominal, raised, take
from forerun.measure.timing import Pass
from forerun.report.measured import add_section

CPU = "xeon-8480plus"


@pytest.fixture
def own_data(tmp_path, monkeypatch):
    """A data folder of the test's own."""
    monkeypatch.setenv("FORERUN_DATA_DIR", str(tmp_path / "data"))
    hardware.device.cache_clear()
    yield tmp_path / "data"
    hardware.device.cache_clear()


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
    slow = onnx_loop.loop(
        read, device=taken.device.name, runtime=bench.runtime, threads=1, start_s=bench.start_s,
        models=(SMALL,), reference=Transformer(1, 9, 32, 2, 64), rounds=1, pace=Pace([1.0] * 5),
    )  # fmt: skip
    assert slow.faster > 10  # than probes of a second
    assert any("at its full pace with the models only" in word for word in slow.words())
    full = {line.name: line.predicted_s for line in found.nodes}
    for line in slow.nodes:
        assert line.predicted_s * slow.faster == pytest.approx(full[line.name])
    assert slow.nodes
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


@pytest.mark.parametrize("cache_bytes", [2.0**25, 2.0**28])
def test_weights_come_from_memory_and_the_terms_of_sums_from_a_layer_away(cache_bytes):
    from forerun.measure.backends.onnxruntime_cpu import ACTIVATION_BYTES, copies_of

    product = {"op": "gemm", "dtype": "fp32", "m": 16, "n": 384, "k": 384}
    weights = copies_of(product, cache_bytes) * 4 * 384 * 384
    assert min(cache_bytes, 2.0**26) < weights < 1.5 * min(cache_bytes, 2.0**26)
    added = {"op": "add", "dtype": "fp32", "n_tokens": 200, "width": 384}
    terms = copies_of(added, cache_bytes) * 4 * 200 * 384
    assert ACTIVATION_BYTES / 4 < terms <= ACTIVATION_BYTES


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
