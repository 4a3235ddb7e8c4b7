"""ML.ENERGY benchmark v3, `public/data/tasks`: vLLM 0.11.1 at a steady batch, NVML energy.

`avg_power_watts` is of all GPUs together; energy per token = power / output tokens a second holds
to the last digit.  `tensor_parallel` is 1 where `expert_parallel` is not: attention of those runs
is spread over the same devices.  Prompt lengths are not in the rows (`ISL`).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from forerun.cost.sheet import device_of
from forerun.measure.energy import Runs, files_of
from forerun.measure.tables._table import frame_of, mapped, needed, numbers, texts

ORIGIN = "ml-energy/leaderboard @0cd52da, public/data/tasks (ML.ENERGY Benchmark v3)"
LICENCE = "unstated"
RUNTIME = "vllm 0.11.1"
#: mean prompt, tokens.  Two are from `total_input_tokens` of published results of the benchmark,
#: as an audit of their heads by others quotes it: 44,473 in 198 prompts, and 1,306,650, whose task
#: it does not tell: in 1,024 prompts of code it fits (time 28 to 13 % off), of chats it does not.
#: That of chats is an estimate of what is computed: prefixes are cached, and each turn of a
#: conversation is sent with all turns before it.  At 350 the time of a step is nearest by the loss
#: of its fit, whichever model is left out; at 750 dense models in batches above 200 are predicted
#: 37 % too slow.  Tasks with images or video are left out: what their encoders compute is not in
#: the rows either
ISL = {"gpqa": 225.0, "lm-arena-chat": 350.0, "sourcegraph-fim": 1276.0}
DTYPES = {"bfloat16": "bf16", "fp8": "fp8", "mxfp4": "mxfp4"}
COLUMNS = (
    "task", "model_id", "gpu_model", "num_gpus", "expert_parallel", "weight_precision",
    "avg_batch_size", "avg_output_len", "output_throughput_tokens_per_sec", "avg_power_watts",
)  # fmt: skip


def recognises(path: Path) -> bool:
    """A folder with tables whose power is `avg_power_watts`."""
    return path.is_dir() and any(
        "avg_power_watts" in frame_of(p).columns for p in files_of(path, "*.csv*")
    )


def read(path: Path) -> Runs:
    """Text tasks of a file, or of every file in a folder.  Raises SpecError where columns lack."""
    import polars

    frames = []
    for file in files_of(path, "*.csv*"):
        frame = frame_of(file)
        needed(frame, COLUMNS, file)
        frames.append(frame.select(COLUMNS).cast({"weight_precision": polars.String}))
    frame = polars.concat(frames, how="vertical_relaxed")
    n_rows = frame.height
    frame = frame.filter(frame["task"].is_in(list(ISL)))
    gpus, n = texts(frame, "gpu_model"), numbers(frame, "num_gpus")
    batch = numbers(frame, "avg_batch_size")
    ok = (batch > 0) & (numbers(frame, "avg_power_watts") > 0)
    found = Runs(
        model=texts(frame, "model_id"),
        device=np.array([device_of(gpu)[0].name for gpu in gpus], dtype=object),
        dtype=mapped(texts(frame, "weight_precision"), DTYPES, str(path)),
        runtime=np.full(frame.height, RUNTIME, dtype=object),
        n_devices=n.astype(int),
        ep=numbers(frame, "expert_parallel").astype(int),
        batch=batch,
        isl=np.array([ISL[task] for task in texts(frame, "task")]),
        osl=numbers(frame, "avg_output_len"),
        step_s=batch / numbers(frame, "output_throughput_tokens_per_sec"),
        power_w=numbers(frame, "avg_power_watts") / n,
        origin=ORIGIN,
        licence=LICENCE,
        estimated=("prompt lengths of the chat task",),
        n_dropped={
            "of tasks with images, video or unknown prompts": n_rows - frame.height,
            "without a batch or a power": int((~ok).sum()),
        },
    )
    return found.take(ok)
