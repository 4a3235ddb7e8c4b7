"""Fit an engine's profile to published runs: host terms and factors, from both latencies.

The rules of the scheduler are the engine's and stay.  What moves, each with a prior:

    host terms, API server, hand-over                                     >= 0, as SD says
    tokens, decode, prefill                                               x/ exp(FACTOR_SD)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from forerun.calibrate.least import End, Problem
from forerun.cost.engine_profile import EngineProfile
from forerun.cost.engine_terms import FACTORS
from forerun.errors import ForerunError
from forerun.measure.runs import Runs
from forerun.serving.answer import mean, outcome, stations_of
from forerun.serving.loop import simulated
from forerun.serving.question import Question, question
from forerun.serving.station import Station
from forerun.sim.log import Log
from forerun.sim.setup import Served

#: deviations of the priors of the profile's times
SD = {
    "host_step_s": 1e-3, "host_seq_s": 2e-5, "host_kernel_s": 20e-6,
    "transfer_s": 0.15, "api_request_s": 10e-3, "api_token_s": 30e-6,
}  # fmt: skip
#: where those priors are centred; the others at nothing.  KV between pools is never for nothing:
#: requests are announced, copied and polled for
CENTRE = {"transfer_s": 0.15}
FACTOR_SD = 0.1
LEAST = 0.01  # of a deviation; what is smaller is nothing
TIMES = EngineProfile.times()
NAMES = EngineProfile.coefficients()
#: deviations of the logarithms of what is measured: between versions and clusters, not repeats
TTFT_SD, TPOT_SD = 0.35, 0.12
#: residuals beyond this many deviations count with their root: some runs have hidden settings
CLIP = 1.5
MOST_RUNS = 40  # of an engine that a fit simulates again and again
LONGEST = 6_000  # requests of a run that is simulated again and again
KEPT = 2 * len(NAMES)  # simulations of a run: those of a derivative
#: where a fit sets out from: the priors, and something of what runs tell apart least
STARTS: tuple[dict[str, float], ...] = (
    {}, {"host_kernel_s": 20e-6, "api_request_s": 5e-3, "api_token_s": 30e-6, "transfer_s": 0.1},
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Run:
    """A run that a fit simulates: what was asked, of which pools, and what came of it."""

    q: Question
    stations: list[Station]
    ttft_s: float
    tpot_s: float
    logs: dict[tuple[Any, ...], Log] = field(default_factory=dict)  # the latest KEPT

    def off(self, profile: EngineProfile) -> tuple[float, float]:
        """Residuals of both latencies, in deviations."""
        q = self.q.under(profile)
        pairs = zip(self.stations, q.pools, strict=True)
        stations = [station.under(pool, profile) for station, pool in pairs]
        # the API server stands before the engine, whose requests are the same unless it holds
        # them up: while its times move, nothing is simulated again
        steps = (*profile.host().values(), profile.scale())

        def simulate(q: Question, served: Served, *load: Any) -> Log:
            log = self.logs.pop((steps, load), None)
            if log is None:
                log = simulated(q, served, *load)
            self.logs[steps, load] = log
            if len(self.logs) > KEPT:
                del self.logs[next(iter(self.logs))]
            return log

        figures, _, _ = outcome(q, stations, energy=False, simulate=simulate)
        ttft, tpot = (mean(figures[name]) for name in ("ttft_s", "tpot_s"))
        return np.log(self.ttft_s / ttft) / TTFT_SD, np.log(self.tpot_s / tpot) / TPOT_SD


class Fit:
    """Host terms and factors fitted to runs, with the rules of a base."""

    def __init__(self, runs: Runs, base: EngineProfile) -> None:
        self.base = base
        found = [run_of(runs.row(i), base, runs.ttft_s[i], runs.tpot_s[i]) for i in chosen(runs)]
        self._runs = [run for run in found if run]
        self._apart = [run.q.is_split for run in self._runs]
        self._known: dict[tuple[int, str], tuple[float, float]] = {}
        low = np.array([-CENTRE.get(n, 0.0) / SD[n] for n in TIMES] + [-np.inf] * len(FACTORS))
        free = np.ones(len(NAMES), dtype=bool)
        free[NAMES.index("transfer_s")] = any(self._apart)
        self._problem = Problem(self._residuals, low, np.full(len(NAMES), np.inf), free)

    def descended(self, k: int) -> End:
        """Where the fit leads from start k."""
        start = np.zeros(len(NAMES))
        for name, value in STARTS[k].items():
            start[NAMES.index(name)] = (value - CENTRE.get(name, 0.0)) / SD[name]
        return self._problem.descended(start)

    def profile(self, ends: Sequence[End]) -> EngineProfile:
        """The base with what was fitted."""
        found = with_values(self.base, self._problem.solved(ends).z)
        if any(self._apart):
            return found
        # nothing told the hand-over
        return found.model_copy(update={"transfer_s": self.base.transfer_s})

    def _residuals(self, z: np.ndarray) -> np.ndarray:
        tried = with_values(self.base, z)
        # a hand-over takes time between pools that are apart, and nothing otherwise
        whole = tried.model_copy(update={"transfer_s": 0.0})
        names = tried.content_hash(), whole.content_hash()
        out: list[float] = []
        for i, run in enumerate(self._runs):
            used, name = (tried, names[0]) if self._apart[i] else (whole, names[1])
            if (i, name) not in self._known:
                self._known[i, name] = run.off(used)
            out += self._known[i, name]
        return _softened(np.array(out))


def with_values(base: EngineProfile, z: np.ndarray) -> EngineProfile:
    """The profile at coefficients of the fit."""
    values = {}
    for name, x in zip(TIMES, z, strict=False):
        told = CENTRE.get(name, 0.0) + x * SD[name]
        values[name] = float(f"{told:.4g}") if told > LEAST * SD[name] else 0.0
    factors = np.exp(FACTOR_SD * z[len(TIMES) :])
    values |= {n: float(f"{f:.4g}") for n, f in zip(FACTORS, factors, strict=True)}
    return base.model_copy(update=values)


def _softened(r: np.ndarray) -> np.ndarray:
    """Squares up to CLIP, straight beyond (Huber), as residuals."""
    size = np.abs(r)
    far = size > CLIP
    return np.where(far, np.sign(r) * np.sqrt(np.maximum(2 * CLIP * size - CLIP**2, 0)), r)


def run_of(row: Mapping[str, str], base: EngineProfile, ttft_s: float, tpot_s: float) -> Run | None:
    """A run that can be answered, and soon, and has both latencies; else None."""
    try:
        q = question(row, base)
        if q.n_requests > LONGEST:
            return None
        run = Run(q, stations_of(q), ttft_s, tpot_s)
        return run if np.isfinite(run.off(base)).all() else None
    except ForerunError:
        return None


def chosen(runs: Runs) -> np.ndarray:
    """MOST_RUNS of the runs, the same every time: of each model as evenly as there are."""
    models = runs.table.text("model")
    turn = np.empty(runs.n)
    for model in np.unique(models.astype(str)):
        mine = np.flatnonzero(models == model)
        order = np.random.default_rng(0).permutation(len(mine))
        turn[mine] = order / max(1, len(mine)) ** 0.5
    return np.sort(np.argsort(turn, kind="stable")[:MOST_RUNS])
