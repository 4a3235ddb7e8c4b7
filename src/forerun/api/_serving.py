"""Batch prediction of serving: a table of configurations in, the same rows with answers out."""

from __future__ import annotations

from typing import Any

import numpy as np

from forerun.cost.engine_profile import FIGURES
from forerun.errors import ForerunError, Infeasible
from forerun.serving.answer import PERCENTILES, Answer, answer
from forerun.serving.question import question
from forerun.spec.columns import Columns

#: latencies, each with its ends: "ttft_s", "ttft_s_low", ..., "ttft_s_p50", "ttft_s_p50_low", ...
LATENCIES = tuple(
    f"{figure}{part}{end}"
    for figure in FIGURES
    for part in ("", *(f"_{p}" for p in PERCENTILES))
    for end in ("", "_low", "_high")
)
NUMBERS = (
    *LATENCIES, "output_tokens_per_s", "output_tokens_per_s_per_gpu", "energy_j_per_token",
    "usd_per_mtok", "hbm_bytes",
)  # fmt: skip
WORDS = ("fits", "bound", "source", "assumed", "refused")
#: what a batch adds to a table of configurations, in this order
OUT = (*NUMBERS, *WORDS)


def predict_serving(table: Columns) -> dict[str, Any]:
    """The table's columns, then `OUT`.  A column of the table that has an answer's name is kept as
    `given_<name>`.

    Never raises for a row: `refused` says what it lacks, and `fits` is "no" where the model does
    not fit into memory.
    """
    out: dict[str, Any] = {name: np.full(table.n, np.nan) for name in NUMBERS}
    out |= {name: np.full(table.n, "", dtype=object) for name in WORDS}
    known: dict[tuple[str, ...], Answer | ForerunError] = {}
    asked = [name for name in table.names if name != "row_id"]
    for i in range(table.n):
        row = {name: str(table.cells[name][i]) for name in asked}
        key = tuple(row.values())
        if key not in known:
            try:
                known[key] = answer(question(row))
            except ForerunError as error:
                known[key] = error
        _put(out, i, known[key])
    given = {f"given_{n}" if n in OUT else n: table.cells[n] for n in table.names}
    return {**given, **out}


def _put(out: dict[str, Any], i: int, found: Answer | ForerunError) -> None:
    if isinstance(found, ForerunError):
        out["refused"][i] = _sentence(found)
        out["fits"][i] = "no" if isinstance(found, Infeasible) else ""
        return
    for name, value in found.seconds.items():
        out[name][i] = value
        out[f"{name}_low"][i], out[f"{name}_high"][i] = found.low[name], found.high[name]
    for name in NUMBERS[len(LATENCIES) :]:
        value = getattr(found, name)
        out[name][i] = np.nan if value is None else value
    out["fits"][i] = "yes"
    for name in ("bound", "source"):
        out[name][i] = getattr(found, name)
    out["assumed"][i] = "; ".join(found.assumed)


def _sentence(error: ForerunError) -> str:
    """All problems in one line."""
    return "; ".join(
        f"{p.where}: {p.what}" + (f" (try: {p.fix})" if p.fix else "") for p in error.problems
    ).replace("\n", " ")
