"""Capacity: the highest rate at which a deployment still meets its goals, found by bisection."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from pydantic import Field

from forerun.metrics import latency
from forerun.metrics.gaps import itl
from forerun.sim.log import Log
from forerun.sim.serve import Served, run
from forerun.sim.settings import LEAST_OUTSTANDING
from forerun.spec.base import Spec
from forerun.spec.deployment import Policy
from forerun.spec.requests import Requests
from forerun.spec.streams import stream

LOWEST, HIGHEST = 1e-3, 1e4  # requests a second between which a capacity is looked for


class Goal(Spec):
    """A bound on a percentile of one latency: `{of: itl, at: 0.99, at_most_s: 100 ms}`.

    `itl` counts every gap between tokens of every request once.
    scales : whether a sensitivity band that scales goals scales this one.
    """

    of: Literal["ttft", "tpot", "itl", "e2el", "queue"]
    at: float = Field(gt=0, lt=1)
    at_most_s: float = Field(gt=0)
    scales: bool = True


@dataclass(frozen=True, eq=False)
class Load:
    """Requests without a rate: unit mean gaps and lengths, in order of arrival; [N] each."""

    gaps: np.ndarray
    isl: np.ndarray
    osl: np.ndarray

    def at(self, rate_per_s: float) -> Requests:
        return Requests(
            arrival_s=np.cumsum(self.gaps) / rate_per_s, isl=self.isl, osl=self.osl
        )  # fmt: skip


def draw(
    isl: np.ndarray, osl: np.ndarray, n: int, *, seed: int, cv: float = 1.0, scale: float = 1.0,
    most: int | None = None,
) -> Load:  # fmt: skip
    """n requests with lengths drawn in pairs from the given ones, and gamma gaps of variation cv.

    scale multiplies both lengths; prompts are cut so that a request has at most `most` tokens.
    """
    pick = stream(seed, "lengths").integers(0, len(isl), n)
    isl = np.maximum(1, np.rint(isl[pick] * scale)).astype(np.int64)
    osl = np.maximum(1, np.rint(osl[pick] * scale)).astype(np.int64)
    if most is not None:
        osl = np.minimum(osl, most - 1)
        isl = np.minimum(isl, most - osl)
    shape = 1.0 / cv**2
    return Load(stream(seed, "arrivals").gamma(shape, 1.0 / shape, n), isl, osl)


def missed(log: Log, goals: Sequence[Goal]) -> str | None:
    """The first goal that a run misses, in words; None when it meets all."""
    done = latency.finished(log.requests)
    if not done.all():
        return f"{int((~done).sum())} requests did not finish"
    for goal in goals:
        found = _at(log, goal)
        if found is not None and found > goal.at_most_s:
            return f"p{100 * goal.at:g} {goal.of} {found:.3g} s > {goal.at_most_s:g} s"
    return None


def _at(log: Log, goal: Goal) -> float | None:
    if goal.of == "itl":
        assert log.leaps is not None
        assert log.gaps is not None
        gaps = itl(log.leaps, log.gaps)
        return gaps.quantiles_s([goal.at])[0] if gaps.count else None
    values = getattr(latency, f"{goal.of}_s")(log.requests)
    values = values[~np.isnan(values)]
    return float(np.quantile(values, goal.at)) if len(values) else None


@dataclass(frozen=True)
class Capacity:
    """The rate, and what fails just above it."""

    rate_per_s: float
    binding: str


def capacity(
    pools: Sequence[Served],
    load: Load,
    goals: Sequence[Goal],
    *,
    route: Policy | Callable = LEAST_OUTSTANDING,
    seed: int = 0,
    resolution: float = 0.01,
) -> Capacity:
    """The highest rate that meets every goal, to a relative `resolution`, by bisection.

    Rates double or halve from one request a second until one meets the goals and one does not.
    A capacity below LOWEST is 0.  Assumes that a higher rate never meets goals that a lower one
    misses; near an edge a finite sample may, which is what the sensitivity band is for.
    """

    def fails(rate: float) -> str | None:
        return missed(run(load.at(rate), pools, route=route, seed=seed), goals)

    low, high, why = 1.0, 1.0, fails(1.0)
    binding = why or ""
    if why is None:
        while why is None and high < HIGHEST:
            low, high = high, 2 * high
            why = fails(high)
            binding = why or binding
    else:
        while why is not None and low > LOWEST:
            high, low = low, low / 2
            why = fails(low)
            binding = why or binding
        if why is not None:
            return Capacity(0.0, binding)
    while high > low * (1 + resolution):
        middle = float(np.sqrt(low * high))
        if (why := fails(middle)) is None:
            low = middle
        else:
            high, binding = middle, why
    return Capacity(low, binding)
