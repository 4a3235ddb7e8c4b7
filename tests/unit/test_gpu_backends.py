"""What the GPU backends ask of their libraries, on libraries that are made up and keep the rules.

The fakes have the interfaces that PyTorch and CuPy document: events take the time in the order in
which the device passes them, and give it, in ms, only after somebody waited.
"""

import sys
import types
from contextlib import contextmanager
from importlib.machinery import ModuleSpec

import pytest

from forerun import catalog
from forerun.errors import SpecError
from forerun.measure.backends import _gpu, backend, ready
from forerun.measure.passes import Passes
from forerun.measure.points import Kind, candidates
from forerun.measure.tables import read_tables
from forerun.measure.take import take

KERNEL_MS = 0.25


class Gpu:
    """One queue of launches; kernels take KERNEL_MS each when somebody waits."""

    def __init__(self, error=None, after=0):
        self.log, self.queue, self.now_ms = [], [], 0.0
        self.error, self.after = error, after

    def launch(self, name, *operands):
        if self.error is not None and len(self.named("launch")) >= self.after:
            raise self.error
        self.log.append(("launch", name, tuple(map(id, operands))))
        self.queue.append(None)

    def wait(self):
        for event in self.queue:
            if event is None:
                self.now_ms += KERNEL_MS
            else:
                event.at_ms = self.now_ms
        self.queue = []

    def named(self, what):
        return [entry for entry in self.log if entry[0] == what]


class Event:
    def __init__(self, gpu):
        self.gpu, self.at_ms = gpu, None

    def record(self):
        self.at_ms = None
        self.gpu.log.append(("record", id(self)))
        self.gpu.queue.append(self)

    def synchronize(self):
        self.gpu.log.append(("wait", id(self)))
        self.gpu.wait()

    def elapsed_time(self, end):
        if self.at_ms is None or end.at_ms is None:
            raise RuntimeError("device not ready")
        self.gpu.log.append(("elapsed",))
        return end.at_ms - self.at_ms


class Array:
    def __init__(self, *shape):
        self.shape = shape

    def astype(self, dtype):
        return self

    def __add__(self, other):
        self.gpu.launch("add", self, other)


def fake_torch(gpu, name="NVIDIA H100 80GB HBM3", *, hip=None):
    """A module with what the backend asks of torch."""
    torch = types.ModuleType("torch")
    torch.__spec__, torch.__version__ = ModuleSpec("torch", None), "2.9.0+cu128"
    torch.bfloat16, torch.float16, torch.float32 = "bf16", "fp16", "fp32"
    torch.made, torch.options = [], []

    def randn(*shape, device, dtype):
        array = Array(*shape)
        array.gpu = gpu
        torch.made.append((shape, device, dtype))
        return array

    @contextmanager
    def inference_mode():
        gpu.log.append(("inference",))
        yield

    def called(kernel):
        def call(*operands, **options):
            torch.options.append((kernel, options))
            gpu.launch(kernel, *(o for o in operands if isinstance(o, Array)))

        return call

    functional = types.SimpleNamespace(**{
        kernel: called(kernel) for kernel in
        ("linear", "scaled_dot_product_attention", "layer_norm", "gelu", "softmax")
    })  # fmt: skip
    torch.randn, torch.inference_mode = randn, inference_mode
    torch.nn = types.SimpleNamespace(functional=functional)
    torch.version = types.SimpleNamespace(cuda=None if hip else "12.8", hip=hip)
    torch.set_num_threads = lambda n: gpu.log.append(("threads", n))
    torch.cuda = types.SimpleNamespace(
        is_available=lambda: bool(name), get_device_name=lambda i: name,
        Event=lambda enable_timing: Event(gpu) if enable_timing else None,
    )  # fmt: skip
    return torch


def fake_cupy(gpu, name=b"NVIDIA H100 80GB HBM3", count=1):
    """A module with what the backend asks of cupy."""
    cupy = types.ModuleType("cupy")
    cupy.__spec__, cupy.__version__ = ModuleSpec("cupy", None), "13.6.0"
    cupy.float32, cupy.float16 = "fp32", "fp16"
    cupy.random = types.SimpleNamespace(standard_normal=lambda shape, dtype: Array(*shape))
    cupy.matmul = lambda x, w, out: gpu.launch("matmul", x, w, out)
    cupy.add = lambda x, w, out: gpu.launch("add", x, w, out)

    class CUDARuntimeError(RuntimeError):
        pass

    def devices():
        if count is None:
            raise CUDARuntimeError("cudaErrorNoDevice: no CUDA-capable device is detected")
        return count

    runtime = types.SimpleNamespace(
        getDeviceCount=devices, CUDARuntimeError=CUDARuntimeError,
        getDeviceProperties=lambda i: {"name": name}, runtimeGetVersion=lambda: 12080,
    )  # fmt: skip
    cupy.cuda = types.SimpleNamespace(
        runtime=runtime, Event=lambda: Event(gpu),
        get_elapsed_time=lambda start, end: start.elapsed_time(end),
    )  # fmt: skip
    return cupy


FAKES = {"torch": fake_torch, "cupy": fake_cupy}


@pytest.fixture
def here(monkeypatch):
    """Puts a made-up library where the backend imports it."""

    def put(name, gpu, *args, **options):
        made = FAKES[name](gpu, *args, **options)
        monkeypatch.setitem(sys.modules, name, made)
        return made

    return put


GEMM = {"op": "gemm", "m": 8, "n": 4096, "k": 1024}


@pytest.mark.parametrize("name", FAKES)
def test_a_time_is_what_the_device_took_between_two_events(here, name):
    gpu = Gpu()
    here(name, gpu)
    bench = ready(name, 1)
    assert bench.device == "h100-sxm"
    for kind in bench.kinds:
        repeat = bench.prepare(next(candidates(kind, bench.dtype)))
        for _ in range(3):
            assert repeat() == pytest.approx(KERNEL_MS * 1e-3)


@pytest.mark.parametrize("name", FAKES)
def test_events_stand_around_the_launches_and_are_read_after_waiting(here, name):
    gpu = Gpu()
    here(name, gpu)
    repeat = ready(name, 1).prepare(GEMM)
    gpu.log.clear()
    repeat()
    steps = [entry[0] for entry in gpu.log if entry[0] != "inference"]
    n = steps.count("launch")
    assert n >= _gpu.LAUNCHES
    assert steps == ["record", *["launch"] * n, "record", "wait", "elapsed"]
    assert gpu.log[-2][1] == gpu.named("record")[1][1]  # for the last event, not the first


@pytest.mark.parametrize("name", FAKES)
def test_weights_take_turns_until_no_cache_holds_them(here, name):
    """8 MiB of weights: seven sets are 56 MiB, and 1.2 of an H100's 50 MiB are 60."""
    gpu = Gpu()
    here(name, gpu)
    ready(name, 1).prepare(GEMM)()
    launches = gpu.named("launch")
    weights = [operands[1] for *_, operands in launches]
    assert len(set(weights)) == 8
    assert len(weights) == 16  # each as often as the others
    assert weights[:8] == weights[8:]
    assert len({operands[0] for *_, operands in launches}) == 1  # one input, as a model has it


def test_sets_of_weights_are_bounded_for_tiny_and_huge_ones():
    device = catalog.device("h100-sxm")
    assert _gpu.n_weights(1.0, device) == _gpu.MOST_SETS
    assert _gpu.n_weights(2.0**34, device) == _gpu.SETS
    for size in (2.0**20, 3.0 * 2**20, 2.0**23):
        n = _gpu.n_weights(size, device)
        assert n * size >= 1.2 * device.l2_bytes
        assert (n - 1) * size < 1.2 * device.l2_bytes


@pytest.mark.parametrize(("gpu_name", "dtype"), [
    ("NVIDIA H200", "bf16"), ("Tesla V100-SXM2-16GB", "fp16"), ("Tesla T4", "fp16"),
])  # fmt: skip
def test_a_device_without_bf16_runs_fp16(here, gpu_name, dtype):
    made = here("torch", Gpu(), gpu_name)
    bench = ready("torch", 1)
    bench.prepare(GEMM)
    assert bench.dtype == dtype
    assert {entry[1:] for entry in made.made} == {("cuda", dtype)}


@pytest.mark.parametrize(("gpu_name", "causal"), [("NVIDIA H200", True), ("", False)])
def test_attention_is_causal_on_a_gpu_and_of_encoders_on_a_processor(here, gpu_name, causal):
    made = here("torch", Gpu(), gpu_name)
    bench = ready("torch", 1)
    (kind,) = (kind for kind in bench.kinds if kind.op == "attention_prefill")
    row = next(candidates(kind, bench.dtype))
    bench.prepare(row)()
    assert bool(row["causal"]) is causal
    assert {o["is_causal"] for name, o in made.options if "attention" in name} == {causal}


def test_without_a_gpu_torch_times_the_processor_by_the_clock(here):
    gpu = Gpu()
    made = here("torch", gpu, "")
    bench = ready("torch", 3)
    assert (bench.device, bench.dtype) == ("", "fp32")
    assert gpu.log == [("threads", 3)]
    assert 0 < bench.prepare(GEMM)() < 0.1
    assert not gpu.named("record")
    assert {entry[1:] for entry in made.made} == {("cpu", "fp32")}


def test_amd_devices_are_told_by_their_own_versions(here):
    here("torch", Gpu(), "AMD Instinct MI300X", hip="6.4")
    bench = ready("torch", 1)
    assert (bench.device, bench.runtime) == ("mi300x", "torch 2.9.0")
    assert bench.versions == "torch 2.9.0+cu128, HIP 6.4"


@pytest.mark.parametrize(("name", "gpu_name"), [
    ("torch", "NVIDIA H100 80GB HBM3 MIG 1g.10gb"), ("cupy", b"NVIDIA Nothing 9000"),
])  # fmt: skip
def test_a_part_of_a_device_or_an_unknown_one_is_not_taken_for_another(here, name, gpu_name):
    here(name, Gpu(), gpu_name)
    with pytest.raises(SpecError, match="is not in the catalog"):
        ready(name, 1)


@pytest.mark.parametrize("count", [0, None])
def test_cupy_without_a_gpu_says_so(here, count):
    here("cupy", Gpu(), count=count)
    assert backend("cupy").missing() == "cupy finds no NVIDIA GPU; a machine with one"


def test_cupy_that_cannot_be_loaded_says_why(monkeypatch, tmp_path):
    (tmp_path / "cupy.py").write_text("raise ImportError('libnvrtc.so.12: cannot open\\nmore')\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "cupy", raising=False)
    assert backend("cupy").missing() == (
        "cupy cannot be loaded: libnvrtc.so.12: cannot open; the CUDA it is for"
    )


FAILURES = {
    "torch": (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB.\nmore"),
              RuntimeError("CUDA error: no kernel image is available\nmore")),
    "cupy": (MemoryError("Out of memory allocating 2,147,483,648 bytes"),
             RuntimeError("CUBLAS_STATUS_NOT_SUPPORTED")),
}  # fmt: skip


@pytest.mark.parametrize("name", FAKES)
def test_what_a_library_cannot_do_is_a_sentence(here, name):
    for error, said in zip(FAILURES[name], ("ran out of the GPU's memory", "fails here"),
                           strict=True):  # fmt: skip
        here(name, Gpu(error))
        repeat = ready(name, 1).prepare(GEMM)
        with pytest.raises(SpecError) as caught:
            repeat()
        (problem,) = caught.value.problems
        assert said in problem.what
        assert problem.where.endswith(": gemm")
        assert "more" not in problem.what
        assert problem.fix


@pytest.mark.parametrize("name", FAKES)
def test_what_was_measured_before_the_memory_was_full_is_kept(here, tmp_path, name):
    here(name, Gpu(FAILURES[name][0], after=1_000))
    bench, table = ready(name, 1), tmp_path / "gpu.csv"
    bench.kinds = (Kind("gemm", 12),)
    with pytest.raises(SpecError, match="ran out of the GPU's memory"):
        take(bench, Passes.of(table), table, threads=1, minutes=1, pass_s=0.0)
    kept = Passes.of(table)
    assert 0 < len(kept.found) < 12
    assert len(table.read_text().splitlines()) == 1 + len(kept.found)


def test_what_torch_measures_on_a_gpu_is_read_as_a_table(here, tmp_path, monkeypatch):
    """A row of it with a time that is the device's own is good; the made-up 0.25 ms may not be."""
    here("torch", Gpu(), "Tesla T4")
    bench, table = ready("torch", 1), tmp_path / "t4.csv"
    bench.kinds = (Kind("add", 6),)
    taken = take(bench, Passes.of(table), table, threads=1, minutes=1, rounds=1, pass_s=0.0)
    assert (taken.device.name, taken.runtime, taken.done) == ("t4", "torch 2.9.0", True)
    text = table.read_text()
    assert ",fp16," in text
    (read,) = read_tables(table)
    assert set(read.rows.words("device")) == {"t4"}
