"""End-to-end runs collected by AIConfigurator (systems/silicon_sample.csv), latencies in ms.

`attention_dp_size` counts groups of attention; rows of one worker pool have `batch_size` requests a
worker and rows of several state their worker counts.  Equal rows stand there for several reasons
and count once.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from forerun.measure.runs._runs import Runs, without_repeats
from forerun.spec.columns import Columns, read_columns

ORIGIN = "ai-dynamo/aiconfigurator, systems/silicon_sample.csv"
#: column here -> column of the question
SAME = {
    "id": "row_id", "model_path": "model", "system": "device", "backend": "runtime",
    "backend_version": "runtime_version", "mode": "mode", "isl": "isl", "osl": "osl",
    "gemm_quant_mode": "dtype", "moe_quant_mode": "moe_dtype", "concurrency": "concurrency",
    "tp_size": "tp", "pp_size": "pp", "attention_dp_size": "dp_attention",
    "moe_tp_size": "moe_tp", "moe_ep_size": "moe_ep",
}  # fmt: skip
PHASE = {
    "tp_size": "tp", "pp_size": "pp", "attention_dp_size": "dp", "moe_tp_size": "moe_tp",
    "moe_ep_size": "moe_ep", "num_workers": "replicas", "batch_size": "batch",
}  # fmt: skip
#: TensorRT-LLM runs DeepSeek models with a setting that the rows do not state
HIDDEN = "DeepSeek on TensorRT-LLM: repeats differ 1.45 times, a setting is not stated"
SUSPECT = "an aggregated TensorRT-LLM run without its concurrency"
#: such runs contradict themselves: Qwen3-32B on GB200 takes 8.1 ms a token for one request and
#: 41.9 ms for two at once, when serving one after the other would take 16.2 (and prompts 0.2)
SPLIT = "an aggregated run whose concurrency is not its batch times its attention groups"


def recognises(path: Path) -> bool:
    """The file by its columns."""
    if not path.name.endswith((".csv", ".csv.gz", ".parquet")):
        return False
    try:
        names = set(read_columns(path).names)
    except Exception:
        return False
    return {"silicon_ttft_ms", "silicon_tpot_ms", "model_path"} <= names


def read(path: Path) -> Runs:
    """Every run with both latencies, equal ones once."""
    table = read_columns(path)
    cells = {new: table.text(old) for old, new in SAME.items()}
    for phase in ("prefill", "decode"):
        cells |= {f"{phase}_{new}": table.text(f"{phase}_{old}") for old, new in PHASE.items()}
    lone = table.text("mode") == "agg"
    # without a concurrency, the batch of the only worker is it
    cells["concurrency"] = np.where(
        (cells["concurrency"] == "") & lone, table.text("batch_size"), cells["concurrency"]
    )
    ttft, _ = table.number("silicon_ttft_ms")
    tpot, _ = table.number("silicon_tpot_ms")
    note = np.full(table.n, "", dtype=object)
    trt = cells["runtime"] == "trtllm"
    deepseek = np.array(["deepseek" in m.lower() for m in cells["model"]])
    note[trt & deepseek] = HIDDEN
    note[trt & lone & (table.text("concurrency") == "")] = SUSPECT
    note[lone & (note == "") & _split(table)] = SPLIT
    found = Runs(
        Columns(tuple(cells), cells, table.n), ttft * 1e-3, tpot * 1e-3, note,
        "aiconfigurator_e2e", ORIGIN, "Apache-2.0",
    )  # fmt: skip
    return without_repeats(found.take((ttft > 0) & (tpot > 0)))


def _split(table: Columns) -> np.ndarray:
    """Rows that state a concurrency other than all attention groups' batches, bool [N]: over how
    many workers it was split they do not say."""
    asked, batch, groups = (
        np.nan_to_num(table.number(name)[0], nan=0.0)
        for name in ("concurrency", "batch_size", "attention_dp_size")
    )
    stated = (asked > 0) & (batch > 0)
    return stated & (np.abs(asked - batch * np.maximum(groups, 1.0)) > 0.5)
