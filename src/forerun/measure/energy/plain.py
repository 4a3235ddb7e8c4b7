"""Metered runs of one's own: columns of `forerun predict serving`, what was measured, and power.

    model device [dtype] [runtime] [tp] [moe_ep] isl osl concurrency output_tokens_per_s power_w

`concurrency` is the mean number of sequences in a step, `power_w` the mean of all devices together
while the load was steady.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from forerun.cost.sheet import device_of
from forerun.errors import Problem, SpecError
from forerun.measure.energy import Runs
from forerun.spec.columns import Columns, read_columns

NEEDED = ("model", "device", "isl", "osl", "concurrency", "output_tokens_per_s", "power_w")


def recognises(path: Path) -> bool:
    """A CSV or Parquet file with a column power_w."""
    if not path.is_file() or not path.name.endswith((".csv", ".csv.gz", ".parquet")):
        return False
    try:
        return "power_w" in read_columns(path).names
    except SpecError:
        return False


def read(path: Path) -> Runs:
    """The runs of the file.  Raises SpecError with all missing columns and all impossible rows."""
    table = read_columns(path)
    lacking = [name for name in NEEDED if name not in table.cells]
    if lacking:
        have = ", ".join(table.names[:12])
        what = f"lacks the column{'s' * (len(lacking) > 1)} {', '.join(lacking)}"
        raise SpecError.one(str(path), what, f"it has {have}")
    problems: list[Problem] = []
    number = {name: _positive(table, name, path, problems) for name in NEEDED[2:]}
    tp = _count(table, "tp", path, problems)
    ep = _count(table, "moe_ep", path, problems)
    devices: list[str] = []
    for i, name in enumerate(table.words("device")):
        try:
            found = device_of(str(name))[0]
        except SpecError as error:
            problems.append(Problem(f"{path}{table.place(i)}", error.problems[0].what))
            continue
        devices.append(found.name)
        power_w = number["power_w"][i] / tp[i]
        if power_w > 1.1 * found.tdp_w:  # meters see samples above the limit, means hardly
            what = (
                f"power_w is {power_w:.0f} W a device; {found.name} is limited to {found.tdp_w:g}"
            )
            fix = "W of the tp devices of this run, not mW, not those of a whole node"
            problems.append(Problem(f"{path}{table.place(i)}", what, fix))
    if problems:
        raise SpecError(*problems)
    blank = np.full(table.n, "", dtype=object)
    return Runs(
        model=table.words("model"), device=np.array(devices, dtype=object),
        dtype=table.words("dtype") if "dtype" in table.cells else blank,
        runtime=table.words("runtime") if "runtime" in table.cells else blank,
        n_devices=tp, ep=ep, batch=number["concurrency"], isl=number["isl"], osl=number["osl"],
        step_s=number["concurrency"] / number["output_tokens_per_s"],
        power_w=number["power_w"] / tp, origin=f"own table {path.name}", licence="own",
    )  # fmt: skip


def _positive(table: Columns, name: str, path: Path, problems: list[Problem]) -> np.ndarray:
    values, _ = table.number(name)
    for i in np.flatnonzero(~(values > 0) | np.isinf(values)):
        cell = table.cells[name][i]
        problems.append(Problem(f"{path}{table.place(int(i))} {name}", f"{cell!r} is not above 0"))
    return values


def _count(table: Columns, name: str, path: Path, problems: list[Problem]) -> np.ndarray:
    """A column of counts; 1 where there is none."""
    if name not in table.cells:
        return np.ones(table.n, dtype=int)
    values, _ = table.number(name)
    values = np.where(np.isnan(values), 1.0, values)
    for i in np.flatnonzero((values < 1) | (values != np.round(values))):
        what = f"{table.cells[name][i]!r} is not a count"
        problems.append(Problem(f"{path}{table.place(int(i))} {name}", what, "1, 2, 4 ..."))
    return np.maximum(np.nan_to_num(values, nan=1.0), 1).astype(int)
