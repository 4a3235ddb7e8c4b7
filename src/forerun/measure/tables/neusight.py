"""Operators of PyTorch measured by NeuSight (sitar-lab/NeuSight, `scripts/asplos/data`): fp32,
eager, latencies in ms.  linear: (B, M, N) x (N, K); bmm the same with B products."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from forerun.cost.rows import Rows, rows
from forerun.measure.tables._checks import checked
from forerun.measure.tables._table import Frame, Table, needed, numbers, only, table_of, texts

ORIGIN = "sitar-lab/NeuSight @6945927, scripts/asplos/data (ASPLOS 2025)"
LICENCE = "MIT"
RUNTIME = "torch 2.1"

#: values an element-wise operator reads for each that it writes ("u": one operand is a scalar)
READS = {
    "add": 2.0, "mul": 2.0, "div": 2.0, "addu": 1.0, "mulu": 1.0, "divu": 1.0, "pow": 2.0,
    "powu": 1.0, "gelu": 1.0, "tanh": 1.0, "relu": 1.0,
}  # fmt: skip
PRODUCTS = ("linear", "bmm", "test_linear", "test_bmm")
ROWWISE = ("add", "mul", "gelu", "tanh", "ln", "softmax", "test_elem", "test_ln", "test_softmax")


def recognises(path: Path) -> bool:
    """The folder of its parquet files."""
    return path.is_dir() and (path / "bmm.parquet").exists()


def read(path: Path) -> Iterator[Table]:
    """One table a file; convolutions are passed over, no family has columns for them."""
    for stem in (*PRODUCTS, *ROWWISE):
        file = path / f"{stem}.parquet"
        if not file.exists():
            continue
        frame = table_of(file)
        needed(frame, ("OPName", "Latency", "Device"), file)
        make = _product if stem in PRODUCTS else _rowwise
        yield checked(
            make(frame, file), numbers(frame, "Latency") * 1e-3,
            name=f"neusight_ops/{stem}", origin=ORIGIN, licence=LICENCE, file=file,
            where=frame.place,
        )  # fmt: skip


def _product(frame: Frame, file: Path) -> Rows:
    needed(frame, ("B", "M", "N", "K"), file)
    return rows(
        frame.height, op="gemm", device=texts(frame, "Device"), runtime=RUNTIME, dtype="fp32",
        impl=only(frame, "OPName"), batch=numbers(frame, "B"), m=numbers(frame, "M"),
        k=numbers(frame, "N"), n=numbers(frame, "K"),
    )  # fmt: skip


def _rowwise(frame: Frame, file: Path) -> Rows:
    needed(frame, ("B", "H"), file)
    names = texts(frame, "OPName")
    width = numbers(frame, "H")
    op = {"ln": "norm", "softmax": "softmax"}
    reads = [READS.get(name, 1.0) for name in names]
    return rows(
        frame.height, op=[op.get(name, "elementwise") for name in names],
        device=texts(frame, "Device"), runtime=RUNTIME, dtype="fp32", impl=names,
        n_tokens=numbers(frame, "B"), width=width, read_bytes=4 * width * reads,
        write_bytes=4 * width,
    )  # fmt: skip
