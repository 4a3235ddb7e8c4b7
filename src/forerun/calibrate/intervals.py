"""Errors and 80 % intervals from log(measured / predicted) of rows that no fit has seen."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from forerun.calibrate.data import Data
from forerun.cost import operators
from forerun.cost.calibration import REGIMES, Errors

#: share of rows an interval is to hold
HELD = 0.8


def spread_of(
    data: Data, off: np.ndarray, *, weights: np.ndarray | None = None
) -> dict[str, tuple[float, float]]:
    """10 % and 90 % quantiles of log(measured / predicted) by regime; of all rows where a regime
    has too few."""
    regime = regimes(data, data.time_s)
    weights = np.ones(len(off)) if weights is None else weights
    out = {}
    for j, name in enumerate(REGIMES):
        mine = regime == j
        if np.count_nonzero(mine) < 30:
            mine = np.ones(len(off), dtype=bool)
        out[name] = (
            quantile(off[mine], weights[mine], 0.1), quantile(off[mine], weights[mine], 0.9)
        )  # fmt: skip
    return out


def regimes(data: Data, time_s: np.ndarray) -> np.ndarray:
    """Index into REGIMES of rows that take `time_s`, int [N]."""
    busy = operators.is_compute_bound(data.s, data.module.counts(data.x))
    return operators.regime_of(busy, np.log(time_s))


def bounds(
    data: Data, spread: Mapping[str, tuple[float, float]], said: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Both ends of the 80 % interval of predictions, seconds [N]."""
    regime = regimes(data, said)
    table = np.array([spread[name] for name in REGIMES])[regime]
    return said * np.exp(table[:, 0]), said * np.exp(table[:, 1])


def widened(
    spread: Mapping[str, tuple[float, float]], factor: float
) -> dict[str, tuple[float, float]]:
    """Intervals so many times as wide about their middle."""
    out = {}
    for name, (low, high) in spread.items():
        middle, half = (low + high) / 2, factor * (high - low) / 2
        out[name] = (middle - half, middle + half)
    return out


def quantile(values: np.ndarray, weights: np.ndarray, q: float) -> float:
    order = np.argsort(values, kind="stable")
    total = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(total, q * total[-1])])


def median(values: np.ndarray, weights: np.ndarray) -> float:
    return quantile(values, weights, 0.5)


def errors_of(off: np.ndarray, split: str) -> Errors:
    """Absolute percentage errors from log(measured / predicted)."""
    ape = np.abs(np.expm1(-off))
    return Errors(len(off), float(np.median(ape)), float(np.quantile(ape, 0.9)), split)
