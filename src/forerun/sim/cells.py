"""A fleet too large for one router: replicas in cells, each with a router of its own.

Traffic is split over the cells at random, so drawn Poisson arrivals are independent Poisson streams
of a share of the rate each.  Cells run in worker processes; arrivals are drawn in pieces and log
rows are folded into a collector as they leave the core, so memory does not grow with the number of
requests.  The answer does not depend on how many workers there are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any, Protocol, Self

from forerun import processors
from forerun.errors import Problem, SpecError
from forerun.sim.serve import run
from forerun.sim.settings import LEAST_OUTSTANDING, Batches
from forerun.sim.setup import Served
from forerun.spec.deployment import Policy
from forerun.spec.streams import stream
from forerun.spec.traces.draw import iter_requests
from forerun.spec.workload import Traffic

PIECE = 1 << 18  # requests drawn at a time


class Collector(Protocol):
    """What log rows are folded into; `metrics.sketch.SketchLog` is one."""

    def add(self, rows: Batches) -> Self: ...

    def merge(self, other: Any) -> Self: ...


@dataclass(frozen=True)
class Cell:
    """One cell's share of a run."""

    traffic: Traffic
    pools: tuple[Served, ...]  # of one cell
    route: Policy
    seed: int
    collect: Callable[[], Collector]


def run_cells(
    traffic: Traffic,
    pools: Sequence[Served],
    *,
    n_cells: int,
    collect: Callable[[], Collector],
    route: Policy = LEAST_OUTSTANDING,
    seed: int = 0,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Any:
    """Simulate drawn Poisson traffic on `n_cells` equal cells; returns the merged collector.

    pools : of one cell; the fleet has n_cells times as many replicas.
    collect : makes an empty collector (a class, or a function that can be pickled).
    workers : processes, the number of cores by default.
    progress : called with (cells done, n_cells).
    Raises SpecError for traffic that cannot be split at random without drawing it whole.
    """
    cells = list(split(traffic, pools, n_cells=n_cells, collect=collect, route=route, seed=seed))
    merged = collect()
    workers = min(workers or processors.usable(), n_cells)
    if workers == 1:
        results: Iterator[Collector] = map(run_cell, cells)
        return _merge(merged, results, n_cells, progress)
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        try:
            return _merge(merged, pool.map(run_cell, cells), n_cells, progress)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def split(
    traffic: Traffic,
    pools: Sequence[Served],
    *,
    n_cells: int,
    collect: Callable[[], Collector],
    route: Policy = LEAST_OUTSTANDING,
    seed: int = 0,
) -> Iterator[Cell]:
    """The cells with their shares: requests fall to cells independently and with equal chance."""
    _check(traffic, n_cells)
    rate_per_s, n_requests = traffic.rate_per_s or 0.0, traffic.n_requests or 0
    draw = stream(seed, "cells")
    shares = draw.multinomial(n_requests, [1 / n_cells] * n_cells)
    seeds = draw.integers(0, 2**31, n_cells)
    for share, cell_seed in zip(shares, seeds, strict=True):
        if share:
            own = {"rate_per_s": rate_per_s / n_cells, "n_requests": int(share)}
            part = traffic.model_copy(update=own)
            yield Cell(part, tuple(pools), route, int(cell_seed), collect)


def _check(traffic: Traffic, n_cells: int) -> None:
    problems = []
    if n_cells < 1:
        problems.append(Problem("n_cells", f"{n_cells} is not at least 1", "1"))
    if (
        traffic.trace is not None
        or traffic.concurrency
        or traffic.arrivals not in (None, "poisson")
    ):
        what = "only drawn Poisson arrivals are split over cells without being made whole first"
        problems.append(Problem("traffic", what, "arrivals: poisson, with isl and osl"))
    if traffic.documents is not None:
        what = "documents are kept by replicas of one router"
        problems.append(Problem("traffic.documents", what, "run one cell, or leave them out"))
    if traffic.media is not None:
        what = "cells take requests as they are drawn, before the model says how long images are"
        problems.append(Problem("traffic.media", what, "run one cell, or leave it out"))
    if traffic.rate_per_s is None or traffic.n_requests is None:
        what = "cells need a rate and a number of requests"
        problems.append(Problem("traffic", what, "rate_per_s: 100 /s, n_requests: 1000000"))
    if problems:
        raise SpecError(*problems)


def run_cell(cell: Cell) -> Collector:
    """One cell from its first arrival to its last token."""
    collected = cell.collect()

    def fold(rows: Batches) -> None:
        nonlocal collected
        collected = collected.add(rows)

    requests = iter_requests(cell.traffic, seed=cell.seed, chunk=PIECE)
    run(requests, cell.pools, route=cell.route, seed=cell.seed, log="requests", sink=fold)
    return collected


def _merge(
    merged: Collector,
    results: Iterator[Collector],
    n_cells: int,
    progress: Callable[[int, int], None] | None,
) -> Collector:
    """Merge in the order of the cells, so that the result does not depend on who was first."""
    for n, result in enumerate(results, 1):
        merged = merged.merge(result)
        if progress is not None:
            progress(n, n_cells)
    return merged
