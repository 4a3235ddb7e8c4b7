"""Batch prediction of serving: rows a second on one core, alone batches and closed loops."""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import product

import numpy as np

from forerun.api._serving import predict_serving
from forerun.spec.columns import Columns

LAYOUTS = (("llama-3.1-8b", 1), ("qwen3-32b", 2), ("gpt-oss-120b", 4), ("llama-3.1-70b", 4))
DEVICES = ("h100-sxm", "l40s")
ISL, OSL, BATCH = (128, 256, 512, 1024, 2000, 2048, 4096), (64, 128, 256, 512), (1, 2, 4, 8)


def questions(load: str) -> Columns:
    """A sweep of lengths and batches on eight layouts; `load` is max_batch or concurrency."""
    rows = [
        (model, device, str(tp), "vllm", str(isl), str(osl), str(batch))
        for (model, tp), device, isl, osl, batch in product(LAYOUTS, DEVICES, ISL, OSL, BATCH)
    ]
    names = ("model", "device", "tp", "runtime", "isl", "osl", load)
    cells = {name: np.array([row[j] for row in rows], dtype=object) for j, name in enumerate(names)}
    return Columns(names, cells, len(rows))


def rows_per_s(load: str) -> float:
    """Rows answered a second, layouts priced before, best of three."""
    table = questions(load)
    best = float("inf")
    for _ in range(4):  # the first compiles, loads and prices
        start = time.perf_counter()
        out = predict_serving(table)
        best = min(best, time.perf_counter() - start)
    assert not any(out["refused"])
    return table.n / best


def figures() -> Iterator[tuple[str, float, str, str, None]]:
    """What `python -m benchmarks` prints of this file."""
    yield "predict_serving_static_rows_per_s", rows_per_s("max_batch"), "row/s", "", None
    yield "predict_serving_loop_rows_per_s", rows_per_s("concurrency"), "row/s", "", None


if __name__ == "__main__":
    for name, value, unit, _, _ in figures():
        print(f"{name}: {value:,.0f} {unit}")
