"""CuPy on the first NVIDIA GPU: matrix products as cuBLAS runs them, in fp16."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

from forerun import catalog
from forerun.measure.backends import not_installed
from forerun.measure.points import Kind

LAUNCHES = 10
SETS = 4  # of operands that take turns


def missing() -> str:
    if why := not_installed("cupy", fix="pip install cupy-cuda12x"):
        return why
    import cupy

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
        self.device = catalog.device(name).name
        self.runtime, self.dtype = f"cupy {cupy.__version__}", "fp16"
        self.versions = f"CUDA {cupy.cuda.runtime.runtimeGetVersion()}"
        self.kinds = (Kind("gemm", 96), Kind("add", 20))

    def prepare(self, row: Mapping[str, Any]) -> Callable[[], float]:
        cp = self.cupy

        def values(*shape: int) -> Any:
            return cp.random.standard_normal(shape, dtype=cp.float32).astype(cp.float16)

        runs: list[Callable[[], Any]] = []
        for _ in range(SETS):
            if row["op"] == "gemm":
                m, n, k = (int(row[name]) for name in ("m", "n", "k"))
                x, w, y = values(m, k), values(k, n), values(m, n)
                runs.append(functools.partial(cp.matmul, x, w, out=y))
            else:
                shape = int(row["n_tokens"]), int(row["width"])
                x, w, y = values(*shape), values(*shape), values(*shape)
                runs.append(functools.partial(cp.add, x, w, out=y))

        def repeat() -> float:
            start, end = cp.cuda.Event(), cp.cuda.Event()
            start.record()
            for i in range(LAUNCHES):
                runs[i % SETS]()
            end.record()
            end.synchronize()
            return 1e-3 * cp.cuda.get_elapsed_time(start, end) / LAUNCHES

        return repeat


def bench(threads: int) -> CupyBench:
    del threads  # of the host: a GPU has its own
    return CupyBench()
