"""Fit what caps do to time and power (`cost.power_cap`) to jobs that ran under several."""

from __future__ import annotations

import io
from datetime import date
from pathlib import Path

import numpy as np

from forerun import catalog
from forerun.cost.power_cap import PLACE, CapCurve, capped
from forerun.errors import MissingDependency
from forerun.measure.energy import CapRuns

START = (0.5, 8.0, 0.3)  # linear, exponent, burst


def uncapped(runs: CapRuns) -> np.ndarray:
    """For each row, the index of its job's row with the highest cap, int [N]."""
    at: dict[str, int] = {}
    for i, job in enumerate(runs.job):
        if job not in at or runs.cap_w[i] > runs.cap_w[at[job]]:
            at[job] = i
    return np.array([at[job] for job in runs.job])


def predicted(
    runs: CapRuns, free: np.ndarray, by: CapCurve | None
) -> tuple[np.ndarray, np.ndarray]:
    """(seconds, W) of each row from rows `free` of the same jobs, float64 [N] each."""
    time_s, power_w = np.empty(runs.n), np.empty(runs.n)
    for name in set(runs.device):
        mine = runs.device == name
        time_s[mine], power_w[mine] = capped(
            runs.time_s[free][mine], runs.power_w[free][mine], runs.cap_w[mine],
            catalog.device(name), by=by,
        )  # fmt: skip
    return time_s, power_w


def solve(runs: CapRuns, use: np.ndarray) -> CapCurve:
    """The curve of least soft-l1 log error of time and power over rows `use` (bool [N]).

    Each row is predicted from its job's highest cap, which itself tells nothing.  Raises
    MissingDependency without scipy.
    """
    try:
        from scipy.optimize import least_squares
    except ImportError:
        raise MissingDependency.one(
            "power caps", "fitting needs scipy", "pip install 'forerun[learn]'"
        ) from None
    free = uncapped(runs)
    use = use & (free != np.arange(runs.n))
    part = runs.take(use)

    def made(z: np.ndarray) -> CapCurve:
        return CapCurve(
            linear=float(z[0]), exponent=float(z[1]), burst=float(z[2]), origin=runs.origin,
            licence=runs.licence, devices=tuple(sorted(set(part.device))), rows=part.n,
            date=date.today().isoformat(),
        )  # fmt: skip

    def off(z: np.ndarray) -> np.ndarray:
        time_s, power_w = (column[use] for column in predicted(runs, free, made(z)))
        return np.concatenate([np.log(time_s / part.time_s), np.log(power_w / part.power_w)])

    found = least_squares(
        off, np.array(START), bounds=([0, 1, 0], [1, 30, 1]), loss="soft_l1", f_scale=0.05
    )
    return made(found.x)


def errors(runs: CapRuns, groups: np.ndarray) -> np.ndarray:
    """|predicted / measured - 1| of energy, each group by a curve fitted without it, float64 [M].

    Rows at the highest cap, which predict themselves, are not among them.
    """
    free = uncapped(runs)
    asked = free != np.arange(runs.n)
    out = np.full(runs.n, np.nan)
    for group in sorted(set(groups)):
        mine = groups == group
        time_s, power_w = predicted(runs, free, solve(runs, ~mine))
        out[mine] = np.abs(time_s * power_w / runs.energy_j - 1)[mine]
    return out[asked]


def fit(runs: CapRuns) -> CapCurve:
    """The curve of all rows, with the errors of energy on networks, caps and devices left out."""
    error = {}
    for name, groups in (("model", runs.model), ("cap", runs.cap_w), ("device", runs.device)):
        if len(set(groups)) > 1:
            off = errors(runs, groups)
            error[f"{name} median"] = round(float(np.median(off)), 3)
            error[f"{name} p90"] = round(float(np.quantile(off, 0.9)), 3)
    found = solve(runs, np.ones(runs.n, dtype=bool))
    shares = {k: round(getattr(found, k), 3) for k in ("linear", "exponent", "burst")}
    return found.model_copy(update={"error": error, **shares})


def save(found: CapCurve, folder: Path) -> Path:
    """Write the curve into a folder of power curves; returns the path."""
    from ruamel.yaml import YAML

    text, writer = io.StringIO(), YAML()
    writer.width = 100
    writer.dump(found.model_dump(mode="json", exclude_defaults=True), text)
    path = folder / PLACE
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text.getvalue())
    return path
