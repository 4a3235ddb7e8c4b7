"""Splitwise, `perf_model.csv`: power of prompts and of decoding on servers of eight A100 or H100.

`average_power` and `peak_power` are shares of TDP, a mean over the server's devices that run; the
first is the mean while decoding, the second the highest sample, which the prompt causes.  A zero
means not metered (160 of 420 rows); three layouts with prompts of 8,192 tokens state means of 69 to
73 W, less than a busy device can draw, and are left out.  Times are ms.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from forerun import catalog
from forerun.cost.sheet import device_of
from forerun.measure.energy import files_of
from forerun.measure.tables._table import frame_of, needed, numbers, texts

ORIGIN = "Mutinifni/splitwise-sim @8f99e7d, data/perf_model.csv (Patel et al., ISCA 2024)"
LICENCE = "MIT"
LEAST = 0.2  # of TDP, of a device that decodes


@dataclass(frozen=True, eq=False)
class Phases:
    """One row a layout, lengths and batch, the median of its repeats."""

    model: np.ndarray  # str [N], catalog names
    device: np.ndarray  # str [N], catalog names
    tp: np.ndarray  # int [N]
    batch: np.ndarray  # int [N]
    isl: np.ndarray  # int [N]
    osl: np.ndarray  # int [N]
    prompt_s: np.ndarray  # float64 [N]
    step_s: np.ndarray  # float64 [N], of decoding
    decode_w: np.ndarray  # float64 [N], mean of one device
    peak_w: np.ndarray  # float64 [N], highest sample of one device


def read(path: Path) -> Phases:
    """Every metered configuration of a file, or of perf_*.csv in a folder.

    Raises SpecError where a file lacks columns.
    """
    import polars

    keys = ("model", "hardware", "tensor_parallel", "batch_size", "prompt_size", "token_size")
    values = ("prompt_time", "token_time", "average_power", "peak_power")
    frames = []
    for file in files_of(path, "perf_*.csv*"):
        frame = frame_of(file)
        needed(frame, (*keys, *values), file)
        frames.append(frame.select(*keys, *values))
    frame = polars.concat(frames, how="vertical_relaxed")
    frame = frame.filter(frame["average_power"] > LEAST)
    frame = frame.group_by(keys).agg(polars.col(values).median()).sort(keys)
    device = [device_of(name)[0].name for name in texts(frame, "hardware")]
    tdp_w = np.array([catalog.device(name).tdp_w for name in device])
    model = [name.replace("llama2", "llama-2") for name in texts(frame, "model")]
    n, B, S, T = (numbers(frame, name).astype(int) for name in keys[2:])
    return Phases(
        model=np.array(model, dtype=object),
        device=np.array(device, dtype=object), tp=n, batch=B, isl=S, osl=T,
        prompt_s=numbers(frame, "prompt_time") / 1e3, step_s=numbers(frame, "token_time") / 1e3,
        decode_w=numbers(frame, "average_power") * tdp_w,
        peak_w=numbers(frame, "peak_power") * tdp_w,
    )  # fmt: skip
