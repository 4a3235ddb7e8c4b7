"""Kernels measured for LLMCompass (PrincetonUniversity/LLMCompass, `ae/figure5`): half precision,
<operator>_<device>.csv; milliseconds, or 1e9 elements a second.

The file does not say that rates are of elements in 1e9: then an A100 reads and writes 2 bytes each
of 390e9 gelu values a second, 1.56 of its 2.04 TB/s, and no other unit comes near.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from forerun import catalog
from forerun.cost.rows import Rows, rows
from forerun.measure.tables._checks import checked
from forerun.measure.tables._table import Frame, Table, needed, numbers, table_of

ORIGIN = "PrincetonUniversity/LLMCompass, ae/figure5 (ISCA 2024)"
LICENCE = "BSD-3-Clause"
RUNTIME = "torch"
#: the machine of the paper has A100 of 80 GB on NVLink
DEVICES = {"a100": "a100-sxm-80gb"}
OPS = {"softmax": "softmax", "layernorm": "norm", "gelu": "activation"}
#: elements of a row of gelu, which was measured on vectors: any width moves the same bytes
WIDTH = 1024.0


def recognises(path: Path) -> bool:
    """The folder that holds matmul_<device>.csv."""
    return path.is_dir() and bool(next(path.glob("matmul_*.csv*"), None))


def read(path: Path) -> Iterator[Table]:
    """One table a file; whole layers, and devices that the catalog lacks, are passed over."""
    for file in sorted(path.glob("*_*.csv*")):
        kind, _, name = file.name.split(".")[0].partition("_")
        device = DEVICES.get(name.lower(), name.lower())
        if kind not in ("matmul", *OPS) or device not in catalog.devices():
            continue
        frame = table_of(file)
        made, time_s = (_product if kind == "matmul" else _rowwise)(frame, file, kind, device)
        yield checked(
            made, time_s, name=f"llmcompass_kernels/{file.name.split('.')[0]}", origin=ORIGIN,
            licence=LICENCE, file=file, where=frame.place,
        )  # fmt: skip


def _product(frame: Frame, file: Path, kind: str, device: str) -> tuple[Rows, np.ndarray]:
    needed(frame, ("m", "k", "n", "latency_ms"), file)
    made = rows(
        frame.height, op="gemm", device=device, runtime=RUNTIME, dtype="fp16",
        m=numbers(frame, "m"), n=numbers(frame, "n"), k=numbers(frame, "k"),
    )  # fmt: skip
    return made, numbers(frame, "latency_ms") * 1e-3


def _rowwise(frame: Frame, file: Path, kind: str, device: str) -> tuple[Rows, np.ndarray]:
    needed(frame, ("gelem_per_s",), file)
    if kind == "gelu":
        needed(frame, ("elements",), file)
        width = np.full(frame.height, WIDTH)
        n_rows = numbers(frame, "elements") / WIDTH
    else:
        needed(frame, ("rows", "cols"), file)
        n_rows, width = numbers(frame, "rows"), numbers(frame, "cols")
    made = rows(
        frame.height, op=OPS[kind], device=device, runtime=RUNTIME, dtype="fp16", impl=kind,
        n_tokens=n_rows, width=width, read_bytes=2 * width, write_bytes=2 * width,
    )  # fmt: skip
    return made, n_rows * width / numbers(frame, "gelem_per_s") * 1e-9
