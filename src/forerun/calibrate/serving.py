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
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from forerun import units
from forerun.calibrate.least import End, Problem
from forerun.cost.engine_profile import EngineProfile, engines, file_name, of_runtime, profiles
from forerun.cost.engine_terms import FACTORS
from forerun.errors import ForerunError
from forerun.measure.runs import Runs, joined
from forerun.measure.threads import pin
from forerun.serving.answer import answer
from forerun.serving.question import question, runtime_of

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
    done = _at_once(tasks, workers) if workers > 1 else [_part(*task) for task in tasks]
    found = [_joined(p, *done[3 * j : 3 * j + 3]) for j, p in enumerate(parts)]
    return _handing_over([p for p, _ in found], parts), together([s for _, s in found])


def _at_once(tasks: Sequence[Task], workers: int) -> list[Done]:
    """`_part` of each task by several processes.

    The fits of a profile, to each half and to both and from each start, do not wait for each other:
    the slowest would else keep one process busy long after all others.
    """
    ends: list[dict[int, End]] = [{} for _ in tasks]
    parts: dict[int, Future[Done]] = {}
    n = min(workers, len(tasks) * len(STARTS))
    with ProcessPoolExecutor(n, get_context("spawn"), pin, (1,)) as pool:
        descents = {
            pool.submit(_descent, *task, k): (j, k)
            for j, task in enumerate(tasks)
            for k in range(len(STARTS))
        }
        for descent in as_completed(descents):
            j, k = descents[descent]
            ends[j][k] = descent.result()
            if len(ends[j]) == len(STARTS):
                parts[j] = pool.submit(_part, *tasks[j], [ends[j][i] for i in range(len(STARTS))])
        return [parts[j].result() for j in range(len(tasks))]


def _descent(base: EngineProfile, runs: Runs, flag: bool | None, k: int) -> End:
    """Where the fit to the half that is not `flag` leads from start k."""
    return _Fit(_learned(runs, flag), base).descended(k)


def _part(base: EngineProfile, runs: Runs, flag: bool | None, ends: Sequence[End] = ()) -> Done:
    """The profile of the half that is not `flag`, and its predictions of the other; of None, the
    profile of both halves alone.  ends : of the descents, where they are known"""
    fit = _Fit(_learned(runs, flag), base)
    learned = fit.profile(ends or [fit.descended(k) for k in range(len(STARTS))])
    return learned, None if flag is None else score(runs.take(halves(runs) == flag), learned)


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


def _handing_over(found: list[EngineProfile], parts: Sequence[Runs]) -> list[EngineProfile]:
    """The profiles; what no run of pools apart told the hand-over of has that of its engine's
    other versions, where they were told it."""
    apart = [(part.table.text("mode") == "disagg") & (part.note == "") for part in parts]
    told = {p.engine: p.transfer_s for p, rows in zip(found, apart, strict=True) if rows.any()}
    return [
        p if rows.any() else p.model_copy(update={"transfer_s": told.get(p.engine, p.transfer_s)})
        for p, rows in zip(found, apart, strict=True)
    ]


def halves(runs: Runs) -> np.ndarray:
    """Which half each run is of, bool [N]: by model, layout and lengths, so that runs of one
    configuration under different loads stay together."""
    names = [n for n in runs.table.names if n not in ("row_id", "concurrency", "rate_per_s")]
    keys = ["|".join(runs.table.cells[n][i] for n in names) for i in range(runs.n)]
    digests = [hashlib.sha256(key.encode()).digest()[0] for key in keys]
    return np.array([d < 128 for d in digests], dtype=bool)


class _Fit:
    """Host terms and factors fitted to runs, with the rules of a base."""

    def __init__(self, runs: Runs, base: EngineProfile) -> None:
        self.base = base
        rows = [(runs.row(i), runs.ttft_s[i], runs.tpot_s[i]) for i in _chosen(runs)]
        self._runs = [run for run in rows if _small(run[0], base)]
        self._apart = [row.get("mode") == "disagg" for row, _, _ in self._runs]
        self._known: dict[tuple[int, str], Mapping[str, float]] = {}
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
        out = []
        for i, (row, ttft, tpot) in enumerate(self._runs):
            used, name = (tried, names[0]) if self._apart[i] else (whole, names[1])
            if (i, name) not in self._known:
                self._known[i, name] = answer(question(row, used), energy=False).seconds
            seconds = self._known[i, name]
            out.append(np.log(ttft / seconds["ttft_s"]) / TTFT_SD)
            out.append(np.log(tpot / seconds["tpot_s"]) / TPOT_SD)
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


def _small(row: Mapping[str, str], base: EngineProfile) -> bool:
    """Whether a run can be answered, and soon."""
    try:
        q = question(row, base)
        if q.n_requests > LONGEST:
            return False
        answer(q, energy=False)
    except ForerunError:
        return False
    return True


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
