"""onnxruntime on the processor: each operator as a node, in a graph with copies of itself.

    time = (run of a graph of copies - run of a graph of nothing) / copies

Every copy has weights of its own.  Weights of all copies exceed the last-level cache where that
takes no more than COPIES: weights of a model come from memory each time.  Activations are near: all
copies read the same ones and write to a few buffers in turn, which are ours, so that no run
allocates.  Only the other term of a sum is each copy's own, ACTIVATION_BYTES together: as much as a
layer touches between a residual and its use.  The number of threads is fixed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from forerun.measure.backends import not_installed
from forerun.measure.machine import last_cache_bytes
from forerun.measure.onnx_model import Sided, side_by_side, values, views
from forerun.measure.points import KINDS

#: most flop of one run, bytes it touches about (weights: this over the last-level cache;
#: activations of a model are never far away), and most copies
RUN_FLOP, OVER, ACTIVATION_BYTES, COPIES = 2e9, 1.2, 2.0**23, 256
#: buffers that results go to in turn, as those of a model do: it reuses what it has just read
OUTPUTS = 4
VIEWS = 64  # of a chain that shows what a view costs


def missing() -> str:
    return not_installed("onnx", "onnxruntime", fix="pip install 'forerun[onnx]'")


def session(model: bytes, threads: int, **options: Any) -> Any:
    """A session on `threads` cores, one node after the other; options of `SessionOptions`."""
    import onnxruntime

    wanted = onnxruntime.SessionOptions()
    wanted.intra_op_num_threads, wanted.inter_op_num_threads = threads, 1
    wanted.log_severity_level = 3
    for name, value in options.items():
        setattr(wanted, name, value)
    return onnxruntime.InferenceSession(model, wanted, providers=["CPUExecutionProvider"])


def bound(made: Any, sided: Sided) -> Callable[[], None]:
    """Runs a session on fixed buffers: one for each input, OUTPUTS in turn for the outputs."""
    binding = made.io_binding()
    into = {name: values(shape) for name, shape in sided.inputs.items()}
    out: list[np.ndarray] = []
    for name, array in into.items():
        binding.bind_input(name, "cpu", 0, np.float32, list(array.shape), array.ctypes.data)
    for i, (name, shape) in enumerate(sided.outputs.items()):
        if i < OUTPUTS:
            out.append(values(shape))
        at = out[i % OUTPUTS].ctypes.data
        binding.bind_output(name, "cpu", 0, np.float32, shape, at)

    def run(_keep: Any = (into, out)) -> None:
        made.run_with_iobinding(binding)

    return run


class OnnxruntimeBench:
    """Nodes of onnxruntime's own kernels, fp32."""

    def __init__(self, threads: int) -> None:
        import onnxruntime

        self.device, self.dtype, self.kinds = "", "fp32", KINDS
        self.threads, self.cache_bytes = threads, last_cache_bytes()
        self.runtime = f"onnxruntime {onnxruntime.__version__}"
        self.versions = f"numpy {np.__version__}"
        least: dict[str, Any] = {"op": "add", "n_tokens": 1, "width": 1}
        self.start_s = _median_s(self._run(side_by_side(least, 1)))
        without, having = (_median_s(self._run(views(VIEWS, w))) for w in (False, True))
        self.view_s = max((having - without) / VIEWS, 0.0)

    def prepare(self, row: Mapping[str, Any]) -> Callable[[], float]:
        copies = copies_of(row, self.cache_bytes)
        run = self._run(side_by_side(row, copies))
        start_s = self.start_s
        return lambda: max((_seconds(run) - start_s) / copies, 1e-9)

    def _run(self, sided: Sided) -> Callable[[], None]:
        return bound(session(sided.model, self.threads), sided)


def copies_of(row: Mapping[str, Any], cache_bytes: float | None) -> int:
    """Copies of a node in one graph: many small ones, two of the large, one of the largest."""
    from forerun.cost.families import family, family_of_op
    from forerun.measure.points import as_rows

    module = family(str(family_of_op(str(row["op"]))))
    counts = module.counts(as_rows([dict(row)]).filled(module.DEFAULTS))
    weight = float(np.broadcast_to(counts.weight_bytes, 1)[0])
    touched, wanted = float(counts.hbm_bytes[0]), ACTIVATION_BYTES
    if weight:
        touched, wanted = weight, OVER * min(cache_bytes or 2.0**25, 2.0**26)
    copies = min(wanted / touched, RUN_FLOP / max(float(counts.flop[0]), 1.0))
    return int(np.clip(round(copies), 1 if touched > wanted / 2 else 2, COPIES))


def _seconds(run: Callable[[], None]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def _median_s(run: Callable[[], None]) -> float:
    for _ in range(50):
        run()
    return float(np.median([_seconds(run) for _ in range(200)]))


def bench(threads: int) -> OnnxruntimeBench:
    return OnnxruntimeBench(threads)
