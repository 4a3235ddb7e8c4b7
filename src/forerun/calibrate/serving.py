"""Profiles of engines fitted to published runs, and how well they predict runs not used.

Runs are split by configuration into two halves; each half is predicted by a profile fitted to the
other, which gives errors.  The profile that ships is fitted to both, its interval holds 80 % of
those errors.  Intervals are scored with what ships but for the errors of the run's configuration.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from forerun import units
from forerun.calibrate import profile_fit
from forerun.calibrate.least import End
from forerun.calibrate.profile_fit import Fit, chosen
from forerun.calibrate.scored_runs import (
    EXACT,
    Scored,
    bounded,
    configurations,
    errors,
    score,
    spreads,
    together,
)
from forerun.cost.engine_profile import EngineProfile, engines, file_name, of_runtime, profiles
from forerun.cost.sheet import device_of
from forerun.errors import ForerunError
from forerun.measure.runs import Runs
from forerun.measure.threads import pin
from forerun.serving.question import runtime_of

PIECE = 50  # runs that a process predicts before it takes on something else


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
    bases = [
        base.model_copy(update={"spread": EXACT, "devices": _devices(part)})
        for base, part in zip(bases, parts, strict=True)
    ]
    tasks = [
        (b, p, flag) for b, p in zip(bases, parts, strict=True) for flag in (False, True, None)
    ]
    done = _at_once(tasks, workers) if workers > 1 else [_one(*task) for task in tasks]
    scored = [together([d[1] for d in done[j : j + 2] if d[1]]) for j in range(0, len(done), 3)]
    everyone = together(scored)
    of = np.repeat(np.arange(len(scored)), [s.runs.n for s in scored])
    wholes = [
        _stated(done[3 * j + 2][0], s, spreads(everyone, of == j)) for j, s in enumerate(scored)
    ]
    return handing_over(list(zip(wholes, scored, strict=True))), bounded(everyone, of)


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
    starts = range(len(profile_fit.STARTS))
    longest_first = sorted(range(len(tasks)), key=lambda j: -_requests(tasks[j][1]))
    descents = deque(_Step(_descent, (*tasks[j], k), j, k) for j in longest_first for k in starts)
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
                    if len(ends[j]) == len(starts):
                        all_ends = [ends[j][i] for i in starts]
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
    return Fit(_learned(runs, flag), base).descended(k)


def _picked(
    base: EngineProfile, runs: Runs, flag: bool | None, ends: Sequence[End]
) -> EngineProfile:
    """The profile of the half that is not `flag`, from where its descents ended."""
    return Fit(_learned(runs, flag), base).profile(ends)


def _one(base: EngineProfile, runs: Runs, flag: bool | None) -> Done:
    """The profile of the half that is not `flag`, and its predictions of the other; of None, the
    profile of both halves alone."""
    fit = Fit(_learned(runs, flag), base)
    learned = fit.profile([fit.descended(k) for k in range(len(profile_fit.STARTS))])
    return learned, None if flag is None else score(_rest(runs, flag), learned)


def _requests(runs: Runs) -> float:
    """How many requests a fit to these runs simulates, in proportion."""
    return float(np.nansum(runs.table.number("concurrency")[0][chosen(runs)]))


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


def _stated(
    whole: EngineProfile, scored: Scored, spread: dict[str, tuple[float, float]]
) -> EngineProfile:
    """The profile of all runs, with the errors that the halves' profiles had on each other's."""
    runs = scored.runs
    return whole.model_copy(
        update={
            "spread": spread, "error": errors(scored), "rows": int((runs.note == "").sum()),
            "origin": runs.origin, "licence": runs.licence,
            "date": datetime.date.today().isoformat(),
        }
    )  # fmt: skip


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


def _devices(runs: Runs) -> tuple[str, ...]:
    """Names of the devices that the runs were on, of those that the catalog has."""
    found = set()
    for name in np.unique(runs.table.text("device")[runs.note == ""].astype(str)):
        with contextlib.suppress(ForerunError):  # its runs are refused
            found.add(device_of(name)[0].name)
    return tuple(sorted(found))


def halves(runs: Runs) -> np.ndarray:
    """Which half each run is of, bool [N]; of several configurations, each half has one at
    least."""
    digests = np.array([hashlib.sha256(key.encode()).digest()[0] for key in configurations(runs)])
    first = digests < 128
    return first if first.any() and not first.all() else digests < np.median(np.unique(digests))


def save(found: EngineProfile, folder: Path) -> Path:
    """Write a profile as a file of `cost/profiles`; returns its path."""
    import io

    from ruamel.yaml import YAML

    data = found.model_dump(mode="json", exclude_defaults=True)
    data["batch"] = found.batch.name
    data["spread"] = {name: list(pair) for name, pair in found.spread.items()}
    for name in EngineProfile.times():
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
