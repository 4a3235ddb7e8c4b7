"""Acme (NSDI 2024) Kalos: the distribution of GPU power over a cluster of A100-SXM 80 GB.

`gpu_power_kalos.csv`: series0 is W, series1 the per cent of samples below it.  The lowest quarter
is of devices without work, so it bounds the idle draw; the top shows samples above TDP.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from forerun.measure.tables._table import frame_of, needed, numbers

ORIGIN = "InternLM/AcmeTrace, data/utilization (Hu et al., NSDI 2024)"
LICENCE = "CC-BY-4.0"
DEVICE = "a100-sxm-80gb"


def read(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """(W, share of samples below it, 0 to 1), both ascending float64 [N]."""
    path = next(iter(sorted(folder.glob("gpu_power_kalos.csv*"))), folder / "gpu_power_kalos.csv")
    frame = frame_of(path)
    needed(frame, ("series0", "series1"), path)
    return numbers(frame, "series0"), numbers(frame, "series1") / 100
