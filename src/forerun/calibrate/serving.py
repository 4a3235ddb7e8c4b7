"""Fit an engine's profile to published runs: host terms and factors, from both latencies.

The rules of the scheduler are the engine's and stay.  What moves, each with a prior:

    host terms, API server, hand-over                                     >= 0, as SD says
    tokens, decode, prefill                                               x/ exp(FACTOR_SD)

Runs are split by configuration into two halves; each half is predicted by a profile fitted to the
other, which gives errors and intervals.  The profile that ships is fitted to both.
"""

from __future__ import annotations

import datetime
import hashlib
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from forerun import units
from forerun.calibrate.least import End, Problem
from forerun.cost.engine_profile import EngineProfile, engines, file_name, of_runtime, profiles
from forerun.cost.engine_terms import FACTORS
from forerun.errors import ForerunError
from forerun.measure.runs import Runs, joined
from forerun.measure.threads import pin
from forerun.serving.answer import answer, mean, outcome, stations_of
from forerun.serving.loop import simulated
from forerun.serving.question import Question, question, runtime_of
from forerun.serving.station import Station
from forerun.sim.log import Log
from forerun.sim.setup import Served

#: deviations of the priors of the profile's times; nothing is where they are centred
SD = {
    "host_step_s": 1e-3, "host_seq_s": 2e-5, "host_kernel_s": 20e-6,
    "transfer_s": 0.15, "api_request_s": 10e-3, "api_token_s": 30e-6,
}  # fmt: skip
FACTOR_SD = 0.1
FEW = 10  # runs below which no interval is stated
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
PIECE = 50  # runs that a process predicts before it takes on something else
#: where a fit sets out from: nothing, and something of what runs tell apart least
STARTS: tuple[dict[str, float], ...] = (
    {}, {"host_kernel_s": 20e-6, "api_request_s": 5e-3, "api_token_s": 30e-6, "transfer_s": 0.1},
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Scored:
    """Runs with predictions of a profile that was not fitted to them; NaN where refused."""

    runs: Runs
    ttft_s: np.ndarray  # float64 [N]
    tpot_s: np.ndarray
    low: np.ndarray  # float64 [2, N], of both
    high: np.ndarray
    refused: np.ndarray  # str [N]

    @property
    def answered(self) -> np.ndarray:
        return self.refused == ""


#: a profile before the fit, its runs, and which half of them the fit does not see
Task = tuple[EngineProfile, Runs, bool | None]
#: the profile fitted to one half, and its predictions of the other; None where it saw both
Done = tuple[EngineProfile, Scored | None]


def fit(runs: Runs, *, workers: int = 1) -> tuple[list[EngineProfile], Scored]:
    """A profile for each with a file of rules, and all runs predicted from other halves."""
    known = [of_runtime(runtime_of(runs.row(i))) for i in range(runs.n)]
    mine = np.array([found.name if found else "" for found in known])
    bases = [b for name in engines() for b in profiles(name) if (mine == b.name).any()]
    parts = [runs.take(mine == base.name) for base in bases]
    tasks = [
        (b, p, flag) for b, p in zip(bases, parts, strict=True) for flag in (False, True, None)
    ]
    done = _at_once(tasks, workers) if workers > 1 else [_one(*task) for task in tasks]
    found = [_joined(p, *done[3 * j : 3 * j + 3]) for j, p in enumerate(parts)]
    return handing_over(found), together([s for _, s in found])


def _at_once(tasks: Sequence[Task], workers: int) -> list[Done]:
    """`_one` of each task by several processes.

    What waits longest comes first: a profile is picked as soon as the descents of its fit have
    ended; runs are predicted, few at a time, while nothing else is to be done.
    """
    ends: list[dict[int, End]] = [{} for _ in tasks]
    picked: dict[int, EngineProfile] = {}
    scored: list[dict[int, Scored]] = [{} for _ in tasks]
    picks: deque[_Step] = deque()
    scores: deque[_Step] = deque()
    longest_first = sorted(range(len(tasks)), key=lambda j: -_requests(tasks[j][1]))
    descents = deque(
        _Step(_descent, (*tasks[j], k), j, k) for j in longest_first for k in range(len(STARTS))
    )
    running: dict[Future[Any], _Step] = {}
    n = min(workers, len(descents))
    with ProcessPoolExecutor(n, get_context("spawn"), pin, (1,)) as pool:
        while picks or descents or scores or running:
            while len(running) < n and (line := picks or descents or scores):
                step = line.popleft()
                running[pool.submit(step.work, *step.given)] = step
            for ended in wait(running, return_when=FIRST_COMPLETED).done:
                (work, _, j, k), found = running.pop(ended), ended.result()
                base, runs, flag = tasks[j]
                if work is _descent:
                    ends[j][k] = found
                    if len(ends[j]) == len(STARTS):
                        all_ends = [ends[j][i] for i in range(len(STARTS))]
                        picks.append(_Step(_picked, (base, runs, flag, all_ends), j, 0))
                elif work is _picked:
                    picked[j] = found
                    rest = [] if flag is None else _pieces(_rest(runs, flag))
                    scores += [_Step(score, (part, found), j, i) for i, part in enumerate(rest)]
                else:
                    scored[j][k] = found
    return [
        (picked[j], together([parts[i] for i in range(len(parts))]) if parts else None)
        for j, parts in enumerate(scored)
    ]


class _Step(NamedTuple):
    """What one process does without asking another: a function, of task j the k-th of its kind."""

    work: Callable[..., Any]
    given: tuple[Any, ...]
    j: int
    k: int


def _descent(base: EngineProfile, runs: Runs, flag: bool | None, k: int) -> End:
    """Where the fit to the half that is not `flag` leads from start k."""
    return _Fit(_learned(runs, flag), base).descended(k)


def _picked(
    base: EngineProfile, runs: Runs, flag: bool | None, ends: Sequence[End]
) -> EngineProfile:
    """The profile of the half that is not `flag`, from where its descents ended."""
    return _Fit(_learned(runs, flag), base).profile(ends)


def _one(base: EngineProfile, runs: Runs, flag: bool | None) -> Done:
    """The profile of the half that is not `flag`, and its predictions of the other; of None, the
    profile of both halves alone."""
    fit = _Fit(_learned(runs, flag), base)
    learned = fit.profile([fit.descended(k) for k in range(len(STARTS))])
    return learned, None if flag is None else score(_rest(runs, flag), learned)


def _requests(runs: Runs) -> float:
    """How many requests a fit to these runs simulates, in proportion."""
    return float(np.nansum(runs.table.number("concurrency")[0][_chosen(runs)]))


def _rest(runs: Runs, flag: bool) -> Runs:
    """The runs of a half."""
    return runs.take(halves(runs) == flag)


def _pieces(runs: Runs) -> list[Runs]:
    """The runs in pieces that one process predicts in a few seconds; neighbours share prices."""
    parts = np.array_split(np.arange(runs.n), max(1, runs.n // PIECE))
    return [runs.take(part) for part in parts]


def _learned(runs: Runs, flag: bool | None) -> Runs:
    """The runs that a fit may see: of the half that is not `flag`, of both if that is None."""
    usable = runs.note == ""
    return runs.take(usable if flag is None else usable & (halves(runs) != flag))


def _joined(runs: Runs, *done: Done) -> tuple[EngineProfile, Scored]:
    """The profile of all runs with the errors that the halves' profiles had on each other's."""
    both = together([scored for _, scored in done if scored is not None])
    spread, error = _errors(both)
    whole = done[-1][0].model_copy(
        update={
            "spread": spread, "error": error, "rows": int((runs.note == "").sum()),
            "origin": runs.origin, "licence": runs.licence,
            "date": datetime.date.today().isoformat(),
        }
    )  # fmt: skip
    return whole, both


def handing_over(found: Sequence[tuple[EngineProfile, Scored]]) -> list[EngineProfile]:
    """The profiles; what no run of pools apart told the hand-over of has that of its engine's
    other versions, where they were told it.  A run that is refused tells nothing."""
    told = [
        ((s.runs.table.text("mode") == "disagg") & (s.runs.note == "") & s.answered).any()
        for _, s in found
    ]
    known = {p.engine: p.transfer_s for (p, _), by in zip(found, told, strict=True) if by}
    return [
        p if by else p.model_copy(update={"transfer_s": known.get(p.engine, p.transfer_s)})
        for (p, _), by in zip(found, told, strict=True)
    ]


def halves(runs: Runs) -> np.ndarray:
    """Which half each run is of, bool [N]: by model, layout and lengths, so that runs of one
    configuration under different loads stay together.  Of several configurations, each half has
    one at least."""
    names = [n for n in runs.table.names if n not in ("row_id", "concurrency", "rate_per_s")]
    keys = ["|".join(runs.table.cells[n][i] for n in names) for i in range(runs.n)]
    digests = np.array([hashlib.sha256(key.encode()).digest()[0] for key in keys])
    first = digests < 128
    return first if first.any() and not first.all() else digests < np.median(np.unique(digests))


@dataclass(frozen=True, eq=False)
class _Run:
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


class _Fit:
    """Host terms and factors fitted to runs, with the rules of a base."""

    def __init__(self, runs: Runs, base: EngineProfile) -> None:
        self.base = base
        found = [_run(runs.row(i), base, runs.ttft_s[i], runs.tpot_s[i]) for i in _chosen(runs)]
        self._runs = [run for run in found if run]
        self._apart = [run.q.is_split for run in self._runs]
        self._known: dict[tuple[int, str], tuple[float, float]] = {}
        low = np.array([0.0] * len(TIMES) + [-np.inf] * len(FACTORS))
        free = np.ones(len(NAMES), dtype=bool)
        free[NAMES.index("transfer_s")] = any(self._apart)
        self._problem = Problem(self._residuals, low, np.full(len(NAMES), np.inf), free)

    def descended(self, k: int) -> End:
        """Where the fit leads from start k."""
        start = [STARTS[k].get(name, 0.0) / SD.get(name, 1.0) for name in NAMES]
        return self._problem.descended(np.array(start))

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
    told = np.where(z[: len(TIMES)] > LEAST, z[: len(TIMES)], 0.0)
    values = {n: float(f"{x * SD[n]:.4g}") for n, x in zip(TIMES, told, strict=True)}
    factors = np.exp(FACTOR_SD * z[len(TIMES) :])
    values |= {n: float(f"{f:.4g}") for n, f in zip(FACTORS, factors, strict=True)}
    return base.model_copy(update=values)


def _softened(r: np.ndarray) -> np.ndarray:
    """Squares up to CLIP, straight beyond (Huber), as residuals."""
    size = np.abs(r)
    far = size > CLIP
    return np.where(far, np.sign(r) * np.sqrt(np.maximum(2 * CLIP * size - CLIP**2, 0)), r)


def _run(row: Mapping[str, str], base: EngineProfile, ttft_s: float, tpot_s: float) -> _Run | None:
    """A run that can be answered, and soon, and has both latencies; else None."""
    try:
        q = question(row, base)
        if q.n_requests > LONGEST:
            return None
        run = _Run(q, stations_of(q), ttft_s, tpot_s)
        return run if np.isfinite(run.off(base)).all() else None
    except ForerunError:
        return None


def _chosen(runs: Runs) -> np.ndarray:
    """MOST_RUNS of the runs, the same every time: of each model as evenly as there are."""
    models = runs.table.text("model")
    turn = np.empty(runs.n)
    for model in np.unique(models.astype(str)):
        mine = np.flatnonzero(models == model)
        order = np.random.default_rng(0).permutation(len(mine))
        turn[mine] = order / max(1, len(mine)) ** 0.5
    return np.sort(np.argsort(turn, kind="stable")[:MOST_RUNS])


def score(runs: Runs, known: EngineProfile | None = None) -> Scored:
    """Every run predicted, by one profile or by those that ship."""
    got = np.full((2, 3, runs.n), np.nan)
    refused = np.full(runs.n, "", dtype=object)
    for i in range(runs.n):
        try:
            a = answer(question(runs.row(i), known), energy=False)
        except ForerunError as error:
            refused[i] = str(error.problems[0])
            continue
        for j, name in enumerate(("ttft_s", "tpot_s")):
            got[j, :, i] = a.seconds[name], a.low[name], a.high[name]
    return Scored(runs, got[0, 0], got[1, 0], got[:, 1], got[:, 2], refused)


def together(parts: Sequence[Scored]) -> Scored:
    """Runs of several engines as one."""
    runs = joined([p.runs for p in parts])
    return Scored(
        runs,
        ttft_s=np.concatenate([p.ttft_s for p in parts]),
        tpot_s=np.concatenate([p.tpot_s for p in parts]),
        low=np.concatenate([p.low for p in parts], axis=1),
        high=np.concatenate([p.high for p in parts], axis=1),
        refused=np.concatenate([p.refused for p in parts]),
    )


def _errors(scored: Scored) -> tuple[dict[str, tuple[float, float]], dict[str, float]]:
    """(factors that hold 80 % of the runs, median and p90 errors), by figure; of pools apart under
    "split <figure>"."""
    use = scored.answered & (scored.runs.note == "")
    apart = scored.runs.table.text("mode") == "disagg"
    spread: dict[str, tuple[float, float]] = {}
    error: dict[str, float] = {}
    for prefix, mine in (("", use & ~apart), ("split ", use & apart)):
        for name in ("ttft_s", "tpot_s"):
            off = np.log(getattr(scored.runs, name)[mine] / getattr(scored, name)[mine])
            if len(off) < FEW:
                continue
            low, high = np.exp(np.quantile(off, [0.1, 0.9]))
            spread[prefix + name] = (round(float(low), 3), round(float(high), 3))
            ape = np.abs(np.expm1(-off))
            error[f"{prefix}{name} median"] = round(float(np.median(ape)), 3)
            error[f"{prefix}{name} p90"] = round(float(np.quantile(ape, 0.9)), 3)
        if prefix + "tpot_s" in spread:
            spread[prefix + "e2el_s"] = spread[prefix + "tpot_s"]
    return spread, error


def save(found: EngineProfile, folder: Path) -> Path:
    """Write a profile as a file of `cost/profiles`; returns its path."""
    import io

    from ruamel.yaml import YAML

    data = found.model_dump(mode="json", exclude_defaults=True)
    data["batch"] = found.batch.name
    data["spread"] = {name: list(pair) for name, pair in found.spread.items()}
    for name in TIMES:
        if name in data:
            data[name] = units.show(data[name], "time", digits=4)
    data = {name: data[name] for name in ("engine", "before", "batch") if name in data} | data
    text = io.StringIO()
    writer = YAML()
    writer.width = 100
    writer.dump(data, text)
    path = folder / file_name(found)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text.getvalue(), encoding="utf-8")
    return path
