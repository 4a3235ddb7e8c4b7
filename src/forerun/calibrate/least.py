"""`solve`: least squares with priors and bounds for a few coefficients of a costly function.

Each coefficient z has the prior N(0, 1), so what the residuals do not tell stays at 0.  Derivatives
are central differences with a step well above the noise of a discrete simulation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

Residuals = Callable[[np.ndarray], np.ndarray]

STEP = 0.1  # of a prior's deviation
MOST_ROUNDS = 20
GAIN = 1e-4  # relative, below which the search ends
SMALLEST = 0.2  # of a deviation after the fit, the last steps tried
UNTOLD = 0.7  # deviation after over before, from which a coefficient counts as not told


@dataclass(frozen=True, eq=False)
class Solved:
    """The most likely coefficients, float64 [K], and their deviations after the fit."""

    z: np.ndarray
    sd: np.ndarray  # 1 is the prior's: nothing was learned
    cost: float
    n_evaluated: int


@dataclass(frozen=True, eq=False)
class End:
    """Where the gradient leads from somewhere: coefficients, their cost, half the curvature."""

    z: np.ndarray
    cost: float
    curvature: np.ndarray  # float64 [K, K]


class Problem:
    """argmin of |residuals(z)|^2 + |z|^2 over low <= z <= high; entries that are not free stay 0.

    residuals(z) : float64 [M], in units of their own deviations.  low <= 0 <= high, [K].
    """

    def __init__(
        self, residuals: Residuals, low: np.ndarray, high: np.ndarray, free: np.ndarray
    ) -> None:
        self.low, self.high, self.free = low, high, free
        self._residuals = residuals
        self._known: dict[bytes, np.ndarray] = {}  # at a bound a derivative asks for one again

    def at(self, z: np.ndarray) -> np.ndarray:
        """The residuals there."""
        key = z.tobytes()
        if key not in self._known:
            self._known[key] = self._residuals(z)
        return self._known[key]

    def descended(self, start: np.ndarray | None = None) -> End:
        """From a start, 0 unless given, by Levenberg and Marquardt's damping; coefficients at a
        bound that the gradient holds there are left out of a step."""
        z = np.zeros(len(self.low)) if start is None else np.where(self.free, start, 0.0)
        z = np.clip(z, self.low, self.high)
        return _descended(self.at, z, self.low, self.high, self.free)

    def solved(self, ends: Sequence[End]) -> Solved:
        """The best of the ends, and what is better near it."""
        end = min(ends, key=lambda e: e.cost)
        z, cost = _polished(
            self.at, end.z, end.cost, end.curvature, self.low, self.high, self.free
        )  # fmt: skip
        sd = np.sqrt(np.diag(np.linalg.inv(end.curvature)))
        sd[~self.free] = 1.0
        return Solved(z, sd, cost, len(self._known))


def solve(
    residuals: Residuals,
    low: np.ndarray,
    high: np.ndarray,
    free: np.ndarray,
    starts: Sequence[np.ndarray] = (),
) -> Solved:
    """The `Problem` solved from 0 and from other starts, of which the best end counts."""
    problem = Problem(residuals, low, high, free)
    return problem.solved([problem.descended(start) for start in (None, *starts)])


def _descended(
    at: Residuals, z: np.ndarray, low: np.ndarray, high: np.ndarray, free: np.ndarray
) -> End:
    r = at(z)
    cost, damping = float(r @ r + z @ z), 1e-2
    J = _jacobian(at, z, low, high, free, len(r))
    for _ in range(MOST_ROUNDS):
        gradient = J.T @ r + z
        held = ~free | ((z <= low) & (gradient > 0)) | ((z >= high) & (gradient < 0))
        active = np.flatnonzero(~held)
        if not len(active):
            break
        H = J[:, active].T @ J[:, active] + np.eye(len(active))
        better = False
        while damping < 1e6 and not better:
            step = np.linalg.solve(H + damping * np.diag(np.diag(H)), gradient[active])
            new = z.copy()
            new[active] = np.clip(z[active] - step, low[active], high[active])
            r_new = at(new)
            cost_new = float(r_new @ r_new + new @ new)
            better = cost_new < cost
            damping = damping / 5 if better else damping * 5
        if not better:
            break
        gained, z, r, cost = cost - cost_new, new, r_new, cost_new
        if gained < GAIN * cost:
            break
        J = _jacobian(at, z, low, high, free, len(r))
    return End(z, cost, J.T @ J + np.eye(len(z)))


def _polished(
    at: Residuals, z: np.ndarray, cost: float, H: np.ndarray, low: np.ndarray, high: np.ndarray,
    free: np.ndarray,
) -> tuple[np.ndarray, float]:  # fmt: skip
    """A better point nearby, by trying steps along the axes of the fit's ellipsoid.

    A discrete simulation has steps in it that stop a gradient; steps of a deviation do not mind.
    """
    some = np.flatnonzero(free)
    scale, axes = np.linalg.eigh(H[np.ix_(some, some)])
    size = 1.0
    while size >= SMALLEST:
        before = cost
        for width, axis in zip(scale, axes.T, strict=True):
            for sign in (1.0, -1.0):
                new = z.copy()
                new[some] += sign * size / np.sqrt(width) * axis
                new = np.clip(new, low, high)
                r = at(new)
                cost_new = float(r @ r + new @ new)
                if cost_new < cost:
                    z, cost = new, cost_new
                    break
        if cost >= before * (1 - 1e-2):
            size /= 2
    return z, cost


def _jacobian(
    at: Residuals, z: np.ndarray, low: np.ndarray, high: np.ndarray, free: np.ndarray, m: int
) -> np.ndarray:
    J = np.zeros((m, len(z)))
    for k in np.flatnonzero(free):
        ends = []
        for sign in (-1.0, 1.0):
            end = z.copy()
            end[k] = np.clip(z[k] + sign * STEP, low[k], high[k])
            ends.append((end[k], at(end)))
        (a, ra), (b, rb) = ends
        J[:, k] = (rb - ra) / (b - a) if b > a else 0.0
    return J
