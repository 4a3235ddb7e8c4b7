"""Batch prediction of operators: a table of rows in, the same rows with answers out."""

from __future__ import annotations

from typing import Any

import numpy as np

from forerun import catalog
from forerun.cost.calibration import Store
from forerun.cost.energy import power
from forerun.cost.operators import Answers, predict
from forerun.cost.rows import NUMBERS, TEXTS, Rows
from forerun.cost.sheet import sheet
from forerun.spec.columns import Columns

#: columns of names that are the same in capitals
LOWERED = ("op", "dtype", "kv_dtype", "impl")
#: what a batch adds to a table of operators, in this order
OUT = ("time_s", "low_s", "high_s", "flop", "hbm_bytes", "energy_j", "source", "assumed", "refused")


def predict_ops(table: Columns, calibrations: Store | None = None) -> dict[str, Any]:
    """The table's columns, then `OUT`.  A column of the table that has an answer's name is kept as
    `given_<name>`.

    Never raises for a row: `refused` says what it lacks.
    """
    x, wrong = rows_of(table)
    answers = predict(x, calibrations)
    refused = np.where(wrong != "", wrong, answers.refused)
    answered = refused == ""
    time_s = np.where(answered, answers.time_s, np.nan)
    found = {
        "time_s": time_s,
        "low_s": np.where(answered, answers.low_s, np.nan),
        "high_s": np.where(answered, answers.high_s, np.nan),
        "flop": np.where(answered, answers.flop, np.nan),
        "hbm_bytes": np.where(answered, answers.hbm_bytes, np.nan),
        "energy_j": energy_j(x, answers, answered),
        "source": np.where(answered, answers.source, ""),
        "assumed": np.where(answered, _assumed(answers), ""),
        "refused": refused,
    }
    given = {f"given_{n}" if n in OUT else n: table.cells[n] for n in table.names}
    return {**given, **found}


def rows_of(table: Columns) -> tuple[Rows, np.ndarray]:
    """(rows, what is wrong with each or ""): cells that should be numbers and are not."""
    wrong = np.full(table.n, "", dtype=object)
    number = {}
    for name in (n for n in NUMBERS if n in table.cells):
        number[name], bad = table.number(name)
        for i in np.flatnonzero(bad):
            said = f"{name}: {table.cells[name][i]!r} is not a number"
            wrong[i] = f"{wrong[i]}; {said}" if wrong[i] else said
    text = {n: table.words(n, lower=n in LOWERED) for n in TEXTS if n in table.cells}
    return Rows(table.n, number, text), wrong


def energy_j(x: Rows, answers: Answers, answered: np.ndarray) -> np.ndarray:
    """What the device draws while the operator runs, idle share included, float64 [N]."""
    out = np.full(x.n, np.nan)
    at = np.flatnonzero(answered)
    if not len(at):
        return out
    part = x.take(at)
    device, dtype = sheet(part).device, part.words("dtype", "bf16")
    keys = np.array([f"{d}\t{t}" for d, t in zip(device, dtype, strict=True)], dtype=str)
    for key in np.unique(keys):
        name, fmt = key.split("\t")
        mine = at[keys == key]
        watts = power(catalog.device(name))
        time_s = answers.time_s[mine]
        dynamic = watts.dynamic_j(answers.flop[mine], answers.hbm_bytes[mine], 0.0, time_s, fmt)
        out[mine] = dynamic + watts.idle_w * time_s
    return out


def _assumed(answers: Answers) -> np.ndarray:
    beyond = "outside the measured range"
    joined = np.where(answers.assumed == "", beyond, answers.assumed + f"; {beyond}")
    return np.where(answers.outside, joined, answers.assumed)
