"""What a row may draw, and what a kilowatt hour of its grid emits, by time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from forerun.spec.power import RowPower

J_PER_KWH = 3.6e6


class Course:
    """A value that changes at given times, over and over with a period.

    points : (from second, value), the first from 0.
    """

    def __init__(self, points: Sequence[tuple[float, float]], repeat_s: float | None) -> None:
        self.from_s = np.array([at for at, _ in points])
        self.values = np.array([value for _, value in points])
        self.repeat_s = repeat_s

    def at(self, time_s: Any) -> np.ndarray:
        """The value at times: float64, of their shape."""
        time = np.asarray(time_s, dtype=float)
        if self.repeat_s is not None:
            time = time % self.repeat_s
        return self.values[np.searchsorted(self.from_s, time, side="right") - 1]

    def changes_s(self, until_s: float) -> np.ndarray:
        """The times after 0 at which it changes."""
        if self.repeat_s is None:
            times = self.from_s
        else:
            n = int(until_s / self.repeat_s) + 1
            times = (np.arange(n)[:, None] * self.repeat_s + self.from_s).ravel()
        return times[(times > 0) & (times < until_s)]


def carbon(row: RowPower) -> Course | None:
    """gCO2e a kilowatt hour; None where the row does not say."""
    if not row.carbon:
        return None
    return Course([(c.at_s, c.intensity_gco2e_per_kwh) for c in row.carbon], row.repeat_s)


def budget_w(row: RowPower, time_s: Any) -> np.ndarray:
    """The least of the budgets at times; infinite where there is none."""
    time = np.asarray(time_s, dtype=float)
    out = np.full(time.shape, np.inf if row.budget_w is None else row.budget_w)
    if row.budgets:
        by_time = Course([(b.at_s, b.budget_w) for b in row.budgets], row.repeat_s)
        out = np.minimum(out, by_time.at(time))
    grid = carbon(row)
    if row.gco2e_per_h is not None and grid is not None:
        j_per_s = row.gco2e_per_h / np.maximum(grid.at(time), 1e-9) * J_PER_KWH / 3600
        out = np.minimum(out, j_per_s)
    return out


def least_budget_w(row: RowPower) -> float:
    """The least that the budget ever is; infinite where there is none."""
    times = [0.0, *(b.at_s for b in row.budgets), *(c.at_s for c in row.carbon)]
    return float(budget_w(row, np.array(times)).min())
