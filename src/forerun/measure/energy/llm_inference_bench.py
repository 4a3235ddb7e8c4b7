"""LLM-Inference-Bench, `power.csv`: static batches on one A100 of a node of four, equal lengths.

Two units share the column `avg_power`: rows above 10,000 are milliwatt of one GPU; the others are
watt of a whole node, its three idle GPUs included.  (Six configurations stand there in both units,
for instance Llama-2-7b on vLLM at batch 32: 320.7 W and 484.8 W; their differences are 158 to
180 W, three times an idle A100.)  Only the first kind is read.  `Latency` is of the whole batch, s.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from forerun.measure.energy import Runs
from forerun.measure.tables._table import frame_of, mapped, needed, numbers, texts

ORIGIN = "argonne-lcf/LLM-Inference-Bench (Chitty-Venkata et al., SC-W 2024)"
LICENCE = "BSD-3-Clause"
#: the paper's A100 machine (Polaris) has the 40 GB module (recalled)
DEVICES = {"Nvidia A100 GPU": "a100-sxm-40gb"}
RUNTIMES = {"vLLM": "vllm", "TensorRT-LLM": "trtllm", "Deepspeed-MII": "deepspeed"}
MILLIWATT = 1e4  # above it the number can only be milliwatt


def recognises(path: Path) -> bool:
    """A folder with power.csv."""
    return path.is_dir() and any(path.glob("power.csv*"))


def read(folder: Path) -> Runs:
    """Rows in milliwatt of power.csv.  Raises SpecError where it lacks columns."""
    path = next(iter(sorted(folder.glob("power.csv*"))), folder / "power.csv")
    frame = frame_of(path)
    wanted = ("Hardware", "Num of Hardware", "Framework", "Model", "Input Output Length",
              "Batch Size", "Latency", "avg_power")  # fmt: skip
    needed(frame, wanted, path)
    n_rows = frame.height
    frame = frame.filter(frame["avg_power"] > MILLIWATT)
    batch, length = numbers(frame, "Batch Size"), numbers(frame, "Input Output Length")
    return Runs(
        model=texts(frame, "Model"),
        device=mapped(texts(frame, "Hardware"), DEVICES, str(path)),
        dtype=np.full(frame.height, "fp16", dtype=object),
        runtime=mapped(texts(frame, "Framework"), RUNTIMES, str(path)),
        n_devices=numbers(frame, "Num of Hardware").astype(int),
        ep=np.ones(frame.height, dtype=int),
        batch=batch,
        isl=length,
        osl=length,
        step_s=numbers(frame, "Latency") / length,
        power_w=numbers(frame, "avg_power") / 1e3 / numbers(frame, "Num of Hardware"),
        origin=ORIGIN,
        licence=LICENCE,
        n_dropped={"in watt of a whole node, or without a power": n_rows - frame.height},
    )
