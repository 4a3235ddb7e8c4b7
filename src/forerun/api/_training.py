"""Batch prediction of training steps: every row is refused until the training model is there."""

from __future__ import annotations

from typing import Any

import numpy as np

from forerun.spec.columns import Columns

#: what a batch adds to a table of training jobs, in this order
OUT = (
    "iter_time_s", "iter_time_s_low", "iter_time_s_high", "tokens_per_s_per_gpu",
    "tokens_per_s_per_gpu_low", "tokens_per_s_per_gpu_high", "mfu", "memory_bytes",
    "oom_probability", "bubble_share", "exposed_comm_share", "energy_j", "usd", "bound", "source",
    "assumed", "refused",
)  # fmt: skip

REFUSED = "this version of Forerun has no model of training; a later one will answer this row"


def predict_training(table: Columns) -> dict[str, Any]:
    """The table's columns, then `OUT`, all empty but `refused`."""
    given = {f"given_{n}" if n in OUT else n: table.cells[n] for n in table.names}
    empty = np.full(table.n, "", dtype=object)
    return {**given, **dict.fromkeys(OUT, empty), "refused": np.full(table.n, REFUSED, object)}
