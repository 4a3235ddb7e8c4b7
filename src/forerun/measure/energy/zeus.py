"""Zeus (NSDI 2023) traces: epochs of six small networks under power caps, power_<gpu>.csv.

Rows are single measurements (epochs of a few seconds repeat to some per cent).  Time is s an epoch,
power W, mean of one GPU over the epoch, data loading included.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from forerun.measure.energy import CapRuns, files_of
from forerun.measure.tables._table import frame_of, needed, numbers, texts

ORIGIN = "ml-energy/zeus @75a8b93, zeus_nsdi23/trace (You et al., NSDI 2023)"
LICENCE = "Apache-2.0"
#: the highest cap, 250 W, is the PCIe cards' own limit
DEVICES = {"v100": "v100-pcie-32gb", "p100": "p100-pcie-16gb"}
JOB = ("dataset", "network", "batch_size", "optimizer")


def recognises(path: Path) -> bool:
    """A folder with power_<gpu>.csv."""
    return path.is_dir() and any(path.glob("power_*.csv*"))


def read(path: Path) -> CapRuns:
    """A file power_<gpu>.csv, or all of a folder.  Raises SpecError where one lacks columns."""
    parts: dict[str, list[np.ndarray]] = {
        k: [] for k in ("device", "job", "model", "cap_w", "time_s", "power_w")
    }
    for file in files_of(path, "power_*.csv*"):
        frame = frame_of(file)
        needed(frame, (*JOB, "power_limit", "time_per_epoch", "average_power"), file)
        short = file.name.split("_")[1].split(".")[0].lower()
        columns = [texts(frame, name) for name in JOB]
        parts["device"].append(np.full(frame.height, DEVICES.get(short, short), dtype=object))
        job = [" ".join((short, *cells)) for cells in zip(*columns, strict=True)]
        parts["job"].append(np.array(job, dtype=object))
        parts["model"].append(columns[1])
        parts["cap_w"].append(numbers(frame, "power_limit"))
        parts["time_s"].append(numbers(frame, "time_per_epoch"))
        parts["power_w"].append(numbers(frame, "average_power"))
    joined = {k: np.concatenate(v) for k, v in parts.items()}
    return CapRuns(**joined, origin=ORIGIN, licence=LICENCE)
