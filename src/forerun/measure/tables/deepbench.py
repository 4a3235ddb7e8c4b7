"""Products of baidu-research/DeepBench, `results`: spreadsheets flattened to sheet, row, c0..c15,
with the spreadsheets' own header rows; milliseconds of cuBLAS calls.

Only dense products of GPUs that the catalog has are read: no family has columns for convolutions
and recurrent layers.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from forerun.cost.rows import rows
from forerun.measure.tables._checks import checked
from forerun.measure.tables._table import Table, frame_of, needed, texts

ORIGIN = "baidu-research/DeepBench @da81ba7, results"
LICENCE = "Apache-2.0"
#: from the sheets "Specs": a DGX-1, and a workstation with PCIe alone
DEVICES = {"NV_V100": "v100-sxm2-16gb", "NV_P100": "p100-pcie-16gb"}
#: beginning of the cell "Precision" -> number format; others mix formats that no product here has
DTYPES = {"Float": "fp32", "16 bit inputs, 16 bit multiplication": "fp16"}
HEAD = "Dense Matrix Multiplication"
COLUMNS = ("sheet", "c0", "c1", "c2", "c3", "c4", "c5", "c6", "c8")


def recognises(path: Path) -> bool:
    """The folder that holds train_<device>.csv."""
    return path.is_dir() and any(next(path.glob(f"train_{d}.csv*"), None) for d in DEVICES)


def read(path: Path) -> Iterator[Table]:
    """One table a sheet of products."""
    for name, device in DEVICES.items():
        for file in sorted(path.glob(f"*_{name}.csv*")):
            frame = frame_of(file)
            needed(frame, COLUMNS, file)
            cells = {column: texts(frame, column) for column in COLUMNS}
            runtime = f"cuda {_spec(cells, 'CUDA Version')}".rstrip()
            for sheet in dict.fromkeys(cells["sheet"]):
                mine = {c: cell[cells["sheet"] == sheet] for c, cell in cells.items()}
                found = _products(mine)
                if found is None:
                    continue
                dtype, sizes, transposed, time_ms = found
                made = rows(
                    len(time_ms), op="gemm", device=device, runtime=runtime, dtype=dtype,
                    impl=transposed, m=sizes[0], n=sizes[1], k=sizes[2],
                )  # fmt: skip
                yield checked(
                    made, time_ms * 1e-3, origin=ORIGIN, licence=LICENCE,
                    name=f"deepbench/{file.name.split('.')[0]}/{dtype}",
                )  # fmt: skip


def _spec(cells: dict[str, np.ndarray], name: str) -> str:
    at = np.flatnonzero(cells["c0"] == name)
    return str(cells["c1"][at[0]]) if len(at) else ""


def _products(cells: dict[str, np.ndarray]) -> tuple[str, np.ndarray, np.ndarray, Any] | None:
    """(format, sizes float64 [3, N], which operands are transposed, milliseconds) of a sheet's
    block of products, from its header to the first row that is none; None without one."""
    head = np.flatnonzero(cells["c0"] == HEAD)
    precision = _spec(cells, "Precision")
    dtype = next((d for begin, d in DTYPES.items() if precision.startswith(begin)), None)
    if not len(head) or dtype is None:
        return None
    found = []
    for i in range(int(head[0]) + 1, len(cells["c0"])):
        row = [cells[column][i] for column in ("c2", "c3", "c4", "c8")]
        if cells["c0"][i] or not all(_is_number(cell) for cell in row):
            break
        transposed = f"{cells['c5'][i]}{cells['c6'][i]}".lower()
        found.append((*(float(cell) for cell in row), transposed))
    if not found:
        return None
    m, n, k, time_ms, kinds = zip(*found, strict=True)
    return dtype, np.array([m, n, k]), np.array(kinds, dtype=object), np.array(time_ms)


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
