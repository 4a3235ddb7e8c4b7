"""numpy on the processor: matrix products as its BLAS runs them, and sums of two arrays.

BLAS takes its number of threads from the environment when numpy is first imported, so it must be
set before: the command does it, a program of one's own exports what `measure.threads` lists.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from forerun.errors import SpecError
from forerun.measure.points import Kind
from forerun.measure.threads import pinned

COPIES = 4  # sets of weights that take turns, as layers of a model do


def missing() -> str:
    return ""


class NumpyBench:
    """np.matmul and np.add into arrays that are there, fp32."""

    def __init__(self, threads: int) -> None:
        told = pinned()
        if told != threads:
            known = "are not pinned" if told is None else f"are pinned to {told}"
            raise SpecError.one(
                "threads of numpy", f"{known}, and {threads} are to be measured",
                f"export OMP_NUM_THREADS={threads} OPENBLAS_NUM_THREADS={threads} "
                f"MKL_NUM_THREADS={threads} before numpy is imported; `forerun measure` does",
            )  # fmt: skip
        self.device, self.dtype, self.versions = "", "fp32", ""
        self.runtime = f"numpy {np.__version__}"
        self.kinds = (Kind("gemm", 64), Kind("add", 20))

    def prepare(self, row: Mapping[str, Any]) -> Callable[[], float]:
        rng = np.random.default_rng(0)

        def values(*shape: int) -> np.ndarray:
            return rng.standard_normal(shape, dtype=np.float32)

        if row["op"] == "gemm":
            m, n, k = (int(row[name]) for name in ("m", "n", "k"))
            x, y = values(m, k), values(m, n)
            weights = [values(k, n) for _ in range(COPIES)]
            return _turns([functools.partial(np.matmul, x, w, out=y) for w in weights])
        shape = int(row["n_tokens"]), int(row["width"])
        a, b, out = values(*shape), values(*shape), values(*shape)
        return _turns([functools.partial(np.add, a, b, out=out)] * COPIES)


def _turns(runs: list[Callable[[], Any]]) -> Callable[[], float]:
    def repeat() -> float:
        start = time.perf_counter()
        for run in runs:
            run()
        return (time.perf_counter() - start) / len(runs)

    return repeat


def bench(threads: int) -> NumpyBench:
    return NumpyBench(threads)
