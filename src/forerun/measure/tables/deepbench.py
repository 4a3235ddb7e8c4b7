"""Products of baidu-research/DeepBench, `results`: spreadsheets flattened to sheet, row, c0..c15,
with the spreadsheets' own header rows; milliseconds of cuBLAS calls.

Only dense products of GPUs that the catalog has are read: no family has columns for convolutions
and recurrent layers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from forerun.cost.rows import rows
from forerun.measure.tables._checks import checked
from forerun.measure.tables._table import Frame, Table, needed, table_of, texts

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
            frame = table_of(file)
            needed(frame, COLUMNS, file)
            cells = {column: texts(frame, column) for column in COLUMNS}
            runtime = f"cuda {_spec(cells, 'CUDA Version')}".rstrip()
            for sheet in dict.fromkeys(cells["sheet"]):
                at = np.flatnonzero(cells["sheet"] == sheet)
                found = _products({c: cell[at] for c, cell in cells.items()})
                if found is None:
                    continue
                m, n, k = found.sizes
                made = rows(
                    len(found.time_ms), op="gemm", device=device, runtime=runtime,
                    dtype=found.dtype, impl=found.transposed, m=m, n=n, k=k,
                )  # fmt: skip
                yield checked(
                    made, found.time_ms * 1e-3, origin=ORIGIN, licence=LICENCE, file=file,
                    name=f"deepbench/{file.name.split('.')[0]}/{found.dtype}",
                    where=_placed(frame, at[found.at]),
                    passed_over={"with a cell that is no number": found.n_damaged},
                )  # fmt: skip


def _placed(frame: Frame, at: np.ndarray) -> Callable[[int], str]:
    return lambda i: frame.place(int(at[i]))


@dataclass(frozen=True, eq=False)
class Products:
    """A sheet's block of products."""

    dtype: str
    sizes: np.ndarray  # float64 [3, N]: m, n, k
    transposed: np.ndarray  # str [N], which operands
    time_ms: np.ndarray  # float64 [N]
    at: np.ndarray  # int [N], rows of the sheet
    n_damaged: int


def _spec(cells: dict[str, np.ndarray], name: str) -> str:
    at = np.flatnonzero(cells["c0"] == name)
    return str(cells["c1"][at[0]]) if len(at) else ""


def _products(cells: dict[str, np.ndarray]) -> Products | None:
    """The block from its header to that of the next, None without one."""
    head = np.flatnonzero(cells["c0"] == HEAD)
    precision = _spec(cells, "Precision")
    dtype = next((d for begin, d in DTYPES.items() if precision.startswith(begin)), None)
    if not len(head) or dtype is None:
        return None
    found, at, n_damaged = [], [], 0
    for i in range(int(head[0]) + 1, len(cells["c0"])):
        row = [cells[column][i] for column in ("c2", "c3", "c4", "c8")]
        if cells["c0"][i]:
            break
        if not all(_is_number(cell) for cell in row):
            n_damaged += any(row)  # a line of empty cells is none
            continue
        transposed = f"{cells['c5'][i]}{cells['c6'][i]}".lower()
        found.append((*(float(cell) for cell in row), transposed))
        at.append(i)
    if not found:
        return None
    m, n, k, time_ms, kinds = zip(*found, strict=True)
    return Products(
        dtype, np.array([m, n, k]), np.array(kinds, dtype=object), np.array(time_ms),
        np.array(at), n_damaged,
    )  # fmt: skip


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
