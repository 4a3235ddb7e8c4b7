"""Input and output lengths together, as quantiles: of isl, and of osl in classes of isl."""

from __future__ import annotations

import numpy as np

from forerun.spec.base import Spec

_P_ISL = (
    0, 0.002, 0.005, 0.01, 0.02, *(round(0.05 * k, 2) for k in range(1, 19)),
    0.92, 0.94, 0.96, 0.975, 0.985, 0.99, 0.995, 0.998, 1,
)  # fmt: skip
_P_OSL = (
    0, 0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.965, 0.98, 0.99,
    0.995, 1,
)  # fmt: skip
N_CLASSES = 12


class LengthTable(Spec):
    """isl at probabilities p_isl; osl at p_osl for each of several equally frequent classes of isl.

    Between knots the distribution is uniform.  Ends are the smallest and largest ever seen.
    """

    p_isl: tuple[float, ...]
    isl: tuple[int, ...]
    p_osl: tuple[float, ...]
    osl: tuple[tuple[int, ...], ...]


def fit_lengths(isl: np.ndarray, osl: np.ndarray) -> LengthTable:
    """The table of a sample."""
    rank = np.argsort(np.argsort(isl, kind="stable"), kind="stable")
    n_classes = max(1, min(N_CLASSES, len(isl) // 50))
    which = rank * n_classes // len(isl)
    return LengthTable(
        p_isl=_P_ISL,
        isl=_knots(isl, _P_ISL),
        p_osl=_P_OSL,
        osl=tuple(_knots(osl[which == k], _P_OSL) for k in range(n_classes)),
    )


def _knots(sample: np.ndarray, p: tuple[float, ...]) -> tuple[int, ...]:
    values = np.quantile(sample, p, method="inverted_cdf").astype(np.float64)
    # The last stretch reaches to one extreme request: uniform up to it would be too heavy a tail,
    # so its end is set where the stretch's mean is the sample's (and the maximum is not drawn).
    tail = sample[sample >= values[-2]]
    top = 2 * tail.mean() - values[-2]
    values[-1] = max(values[-2], min(values[-1], top))
    return tuple(round(float(v)) for v in values)


def draw_lengths(
    table: LengthTable, rng: np.random.Generator, n: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(isl, osl, class of isl), int64 [n] each."""
    u, v = rng.random((n, 2)).T
    isl = np.interp(u, table.p_isl, table.isl)
    which = np.minimum((u * len(table.osl)).astype(np.int64), len(table.osl) - 1)
    osl = np.empty(n)
    for k, knots in enumerate(table.osl):
        rows = which == k
        osl[rows] = np.interp(v[rows], table.p_osl, knots)
    return _whole(isl), _whole(osl), which


def _whole(x: np.ndarray) -> np.ndarray:
    return np.maximum(np.floor(x + 0.5), 1).astype(np.int64)
