"""CuPy on the first NVIDIA GPU: matrix products as cuBLAS runs them, in fp16."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

from forerun import catalog
from forerun.measure.backends import not_installed
from forerun.measure.backends._gpu import SETS, between_events, n_weights, told
from forerun.measure.points import Kind

FP16_BYTES = 2


def missing() -> str:
    if why := not_installed("cupy", fix="pip install cupy-cuda12x"):
        return why
    try:
        import cupy
    except ImportError as error:  # the package is here, a library of CUDA under it is not
        return f"cupy cannot be loaded: {str(error).strip().splitlines()[0]}; the CUDA it is for"
    try:
        n = cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError:
        n = 0
    return "" if n else "cupy finds no NVIDIA GPU; a machine with one"


class CupyBench:
    """cupy.matmul into arrays that are there."""

    def __init__(self) -> None:
        import cupy

        self.cupy = cupy
        name = cupy.cuda.runtime.getDeviceProperties(0)["name"].decode()
        self.sheet = catalog.device(name)
        self.device = self.sheet.name
        self.runtime, self.dtype = f"cupy {cupy.__version__}", "fp16"
        self.versions = f"CUDA {cupy.cuda.runtime.runtimeGetVersion()}"
        self.kinds = (Kind("gemm", 96), Kind("add", 20))

    def prepare(self, row: Mapping[str, Any]) -> Callable[[], float]:
        cuda, where = self.cupy.cuda, f"{self.runtime}: {row['op']}"
        errors = (MemoryError, RuntimeError)  # its own are of these kinds
        with told(where, *errors):
            runs = self._runs(row)

        def repeat() -> float:
            with told(where, *errors):
                return between_events(
                    runs, cuda.Event, cuda.get_elapsed_time, lambda end: end.synchronize()
                )

        return repeat

    def _runs(self, row: Mapping[str, Any]) -> list[Callable[[], Any]]:
        """The operator on several sets of operands, into arrays that are there."""
        cp = self.cupy

        def values(*shape: int) -> Any:
            return cp.random.standard_normal(shape, dtype=cp.float32).astype(cp.float16)

        if row["op"] == "gemm":
            m, n, k = (int(row[name]) for name in ("m", "n", "k"))
            x, y = values(m, k), values(m, n)
            weights = [values(k, n) for _ in range(n_weights(FP16_BYTES * n * k, self.sheet))]
            return [functools.partial(cp.matmul, x, w, out=y) for w in weights]
        shape = int(row["n_tokens"]), int(row["width"])
        sets = [[values(*shape) for _ in range(3)] for _ in range(SETS)]
        return [functools.partial(cp.add, a, b, out=out) for a, b, out in sets]


def bench(threads: int) -> CupyBench:
    del threads  # of the host: a GPU has its own
    return CupyBench()
