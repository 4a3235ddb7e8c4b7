"""Batch prediction of operators: rows a second on one core, CSV in and CSV out."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from forerun.api._ops import predict_ops
from forerun.spec.columns import read_columns, write_columns

N = 20_000  # rows of each op
DEVICES = ("h100-sxm", "l4")  # one that was measured, and one known by its data sheet
SIZES = {
    "gemm": {"m": (1, 16_384), "n": (256, 16_384), "k": (256, 16_384)},
    "attention_prefill": {"isl": (16, 16_384), "past": (1, 32_768)},
    "attention_decode": {"batch": (1, 256), "past": (16, 65_536)},
    "moe": {"n_tokens": (1, 16_384)},
    "all_reduce": {"bytes": (1_024, 2**30)},
}
FIXED = {
    "attention_prefill": {"n_heads": 32, "n_kv_heads": 8, "head_dim": 128},
    "attention_decode": {"n_heads": 32, "n_kv_heads": 8, "head_dim": 128},
    "moe": {"hidden": 4096, "inter": 1536, "topk": 8, "n_experts": 128},
    "all_reduce": {"n_gpus": 8},
}


def questions(n: int) -> dict[str, np.ndarray]:
    """n rows of each op in SIZES, sizes spread over the decades, devices in turn."""
    rng = np.random.default_rng(0)
    names = dict.fromkeys(
        [c for s in SIZES.values() for c in s] + [c for f in FIXED.values() for c in f]
    )
    total = n * len(SIZES)
    out = {name: np.full(total, "", dtype=object) for name in ("row_id", "device", "op", *names)}
    out["row_id"][:] = [str(i) for i in range(total)]
    out["device"][:] = np.resize(DEVICES, total)
    for j, (op, sizes) in enumerate(SIZES.items()):
        mine = slice(j * n, (j + 1) * n)
        out["op"][mine] = op
        for name, (low, high) in sizes.items():
            drawn = np.exp(rng.uniform(np.log(low), np.log(high), n))
            out[name][mine] = [str(int(v)) for v in drawn]
        for name, value in FIXED.get(op, {}).items():
            out[name][mine] = str(value)
    return out


def rows_per_s(n: int) -> float:
    """Rows answered a second, reading and writing included, warm, best of three."""
    with tempfile.TemporaryDirectory() as folder:
        source, to = Path(folder) / "in.csv", Path(folder) / "out.csv"
        write_columns(source, questions(n))
        best = float("inf")
        for _ in range(4):  # the first compiles and loads
            start = time.perf_counter()
            table = read_columns(source)
            answers = predict_ops(table)
            write_columns(to, answers)
            best = min(best, time.perf_counter() - start)
        assert not any(answers["refused"])
    return table.n / best


def figures() -> Iterator[tuple[str, float, str, str, float | None]]:
    """(name, value, unit, peer, the peer's value) of the figure."""
    yield "predict_ops_rows_per_s", rows_per_s(N), "row/s", "", None
