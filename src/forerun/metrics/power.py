"""Power over time: of each pool and of the row that feeds them, in bins of the meter's window.

A bin's mean is the energy of the steps in it (each even over its step) and idle draw of the time in
which replicas were powered, over its width; so the bins add up to the energy of the run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from forerun import units
from forerun.metrics import rental, work
from forerun.metrics.figure import Figure, text
from forerun.metrics.latency import PS
from forerun.metrics.window import View
from forerun.sim.amounts import energy_by
from forerun.sim.leaps import amount_by, end_ps, span_ps
from forerun.sim.log import Log
from forerun.sim.power.course import J_PER_KWH, budget_w, carbon
from forerun.spec.power import RowPower


@dataclass(frozen=True)
class OfPool:
    """One pool: means over time, over the bins' highest percent, and over its steps; watt."""

    pool: str
    mean_w: float
    p99_w: float
    peak_w: float
    prompts_w: float | None  # of a replica in steps that compute prompts; None without such steps
    decode_w: float | None  # in steps that only decode
    slowed_s: float  # that steps took longer than at full clock, all replicas together
    at_level_s: tuple[tuple[float, float], ...]  # (level, seconds) that the pool was told


@dataclass(frozen=True, eq=False)
class Trace:
    """edges_ps int64 [N + 1]; power_w float64 [pools, N], mean of each bin."""

    edges_ps: np.ndarray
    power_w: np.ndarray


def trace(part: View, width_s: float) -> Trace | None:
    """Mean power of each pool of the log in bins of a width; None when the log kept no steps."""
    if part.leaps is None or part.duration_s <= 0:
        return None
    n = max(1, int(np.ceil(part.duration_s / width_s - 1e-9)))
    edges = part.start_ps + np.rint(np.arange(n + 1) * (width_s / PS)).astype(np.int64)
    edges[-1] = part.end_ps
    joule = dynamic_j(part.leaps, part.log, edges) + _idle_j(part, edges)
    return Trace(edges, joule / np.maximum(np.diff(edges) * PS, 1e-12))


def dynamic_j(leaps: np.ndarray, log: Log, edges: np.ndarray) -> np.ndarray:
    """Energy above idle of each pool between edges: float64 [pools, bins]."""
    ends = end_ps(leaps)
    before = min(int(edges[0]), int(leaps["start_ps"].min(initial=edges[0]))) - 1
    after = max(int(edges[-1]), int(ends.max(initial=edges[-1]))) + 1
    edges = np.concatenate([[before], edges, [after]])  # what lies outside falls into two more bins
    n_bins = len(edges) - 1
    pool = log.pool_of_replica[leaps["replica"]]
    out = np.zeros((_n_pools(log), n_bins))
    first = np.clip(np.searchsorted(edges, leaps["start_ps"], side="right") - 1, 0, n_bins - 1)
    last = np.clip(np.searchsorted(edges, ends, side="left") - 1, first, n_bins - 1)
    np.add.at(out, (pool, last), work.by_leap(leaps, log, "energy_j"))
    crossed = last - first  # edges inside the leap
    of = np.repeat(np.arange(len(leaps)), crossed)
    rank = np.arange(len(of)) - np.repeat(np.cumsum(crossed) - crossed, crossed)
    edge = first[of] + 1 + rank
    by = energy_by(leaps[of], log.tables, edges[edge], log.meta.get("tuning", ()))
    np.add.at(out, (pool[of], edge - 1), by)
    np.add.at(out, (pool[of], edge), -by)
    return out[:, 1:-1]


def _n_pools(log: Log) -> int:
    return int(log.pool_of_replica.max(initial=-1)) + 1


def _idle_j(part: View, edges: np.ndarray) -> np.ndarray:
    """Idle energy of each pool between edges: float64 [pools, bins]."""
    log, idle_w = part.log, work.of_replica(part.log, "idle_w")
    out = np.zeros((_n_pools(log), len(edges) - 1))
    for p in range(len(out)):
        mine = np.flatnonzero(log.pool_of_replica == p)
        if log.spans is None:
            out[p] = idle_w[mine].sum() * np.diff(edges) * PS
            continue
        spans = log.spans[np.isin(log.spans["state"], rental.POWERED)]
        spans = spans[np.isin(spans["replica"], mine)]
        joule = (spans["to_ps"] - spans["from_ps"]) * PS * idle_w[spans["replica"]]
        out[p] = np.diff(amount_by(edges, spans["from_ps"], spans["to_ps"], joule))
    return out


UNITS = {
    "row_mean_w": "W", "row_p99_w": "W", "row_peak_w": "W", "over_budget_s": "s",
    "over_budget_longest_s": "s", "over_budget_w": "W", "slowed_s": "s",
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Found:
    """A row's figures and those of its pools; all None or empty where nothing says power."""

    values: Mapping[str, float | None]
    pools: tuple[OfPool, ...]
    gco2e: float | None  # by the carbon of the time, without a site's share

    @property
    def figures(self) -> dict[str, Any]:
        return {k: Figure(self.values.get(k), unit, "steps x cost table")
                for k, unit in UNITS.items()}  # fmt: skip


def power(part: View) -> Found:
    """The power of a run whose deployment says something of power."""
    told = part.log.meta.get("power")
    if told is None:
        return Found({}, (), None)
    row: RowPower = told["row"]
    found = trace(part, row.window_s)
    if found is None:
        return Found({}, (), None)
    pools = tuple(
        _of_pool(part, found, p, name, told) for p, name in told["pools"].items()
    )  # fmt: skip
    total = found.power_w[list(told["fed"])].sum(axis=0) + row.other_w
    width = np.diff(found.edges_ps) * PS
    values: dict[str, float | None] = {
        "row_mean_w": float(np.average(total, weights=width)),
        "row_p99_w": _quantile(total, width, 0.99),
        "row_peak_w": float(total.max()),
        "slowed_s": sum(one.slowed_s for one in pools),
    }
    budget = budget_w(row, _middle_s(found.edges_ps))
    if np.isfinite(budget).all():
        over = total > budget * (1 + 1e-9)
        values["over_budget_s"] = float(width[over].sum())
        values["over_budget_longest_s"] = _longest(over, width)
        values["over_budget_w"] = float(np.max(total - budget, initial=0.0, where=over))
    return Found(values, pools, _gco2e(part, row, found))


def _gco2e(part: View, row: RowPower, found: Trace) -> float | None:
    """Energy of every replica times the carbon of the time; bins are cut where that changes."""
    grid = carbon(row)
    if grid is None or part.leaps is None:
        return None
    cuts = np.rint(grid.changes_s(part.end_ps * PS) / PS).astype(np.int64)
    cuts = cuts[(cuts > part.start_ps) & (cuts < part.end_ps)]
    edges = np.concatenate([[part.start_ps], cuts, [part.end_ps]])
    joule = dynamic_j(part.leaps, part.log, edges) + _idle_j(part, edges)
    return float((joule.sum(axis=0) * grid.at(_middle_s(edges))).sum() / J_PER_KWH)


def _middle_s(edges: np.ndarray) -> np.ndarray:
    """Seconds of the middle of each bin."""
    return (edges[:-1] + edges[1:]) / 2 * PS


def _quantile(values: np.ndarray, width: np.ndarray, q: float) -> float:
    """The value that is not passed in a share q of the time."""
    order = np.argsort(values)
    at = np.searchsorted(np.cumsum(width[order]), q * width.sum() * (1 - 1e-12))
    return float(values[order][min(at, len(values) - 1)])


def _longest(over: np.ndarray, width: np.ndarray) -> float:
    """Seconds of the longest stretch of bins above the budget."""
    longest = now = 0.0
    for above, seconds in zip(over.tolist(), width.tolist(), strict=True):
        now = now + seconds if above else 0.0
        longest = max(longest, now)
    return longest


def _of_pool(part: View, found: Trace, p: int, name: str, told: Mapping[str, Any]) -> OfPool:
    log, leaps = part.log, part.leaps
    assert leaps is not None
    mine = log.pool_of_replica == p
    total = found.power_w[p]
    width = np.diff(found.edges_ps) * PS
    rows = leaps[mine[leaps["replica"]]]
    return OfPool(
        pool=name,
        mean_w=float(np.average(total, weights=width)),
        p99_w=_quantile(total, width, 0.99),
        peak_w=float(total.max()),
        prompts_w=_in_steps(rows[rows["n_chunks"] > 0], log, p),
        decode_w=_in_steps(rows[rows["n_chunks"] == 0], log, p),
        slowed_s=_slowed_s(rows, log),
        at_level_s=tuple(_at_level(told, name, part)),
    )


def _in_steps(rows: np.ndarray, log: Log, p: int) -> float | None:
    """Mean watts of a replica, with its idle draw, over the time of some steps."""
    seconds = float(span_ps(rows).sum()) * PS
    if seconds <= 0:
        return None
    table = log.tables[p]
    above = float(work.by_leap(rows, log, "energy_j").sum()) / seconds
    return table.idle_w + table.stages * above


def _slowed_s(rows: np.ndarray, log: Log) -> float:
    """What steps took longer than at full clock, by their tables."""
    out = 0.0
    for p in np.unique(rows["pool"]):
        table = log.tables[p]
        if table.free is not None:
            mine = rows[rows["pool"] == p]
            out += float((work.time_s(mine, table) - work.time_s(mine, table.free)).sum())
    return out


def _at_level(told: Mapping[str, Any], name: str, part: View) -> list[tuple[float, float]]:
    """Seconds that a pool was told each level, in the window."""
    row: RowPower = told["row"]
    if row.policy.name == "watch" or name not in told["fed_names"]:
        return []
    changes = [(0.0, row.levels[0])]
    changes += [(c["time_s"], c["level"]) for c in told["changes"] if c["pool"] == name]
    ends = [*(at for at, _ in changes[1:]), part.end_ps * PS]
    spent = dict.fromkeys(row.levels, 0.0)
    for (at, level), until in zip(changes, ends, strict=True):
        spent[level] += max(0.0, min(until, part.end_ps * PS) - max(at, part.start_ps * PS))
    return [(level, seconds) for level, seconds in spent.items() if seconds > 0]


# -- in sentences ----------------------------------------------------------------------------------


def sentences(found: tuple[OfPool, ...], figures: Any, log: Log) -> list[str]:
    """What the row drew, how long above its budget, and what that cost in time."""
    told = log.meta.get("power")
    if told is None or not found:
        return []
    row: RowPower = told["row"]
    return [
        _row_words(figures, row),
        *(_pool_words(one, one.pool in told["fed_names"]) for one in found),
    ]


def _pool_words(one: OfPool, fed: bool) -> str:
    """What a pool drew, by phase, at which levels it was, and what that took.

    fed : by the row.
    """
    mean, p99, peak = (text(watts, "W") for watts in (one.mean_w, one.p99_w, one.peak_w))
    out = f"{'Of it' if fed else 'Beside it'} {one.pool} drew {mean}, {p99} and {peak}"
    steps = (
        (one.prompts_w, "in steps with prompts"),
        (one.decode_w, "in steps that only decode"),
    )
    phases = [f"{text(watts, 'W')} {what}" for watts, what in steps if watts is not None]
    if phases:
        out += f", a replica {' and '.join(phases)}"
    if len(one.at_level_s) > 1:
        levels = [f"{text(seconds, 's')} at {level:g}" for level, seconds in one.at_level_s]
        out += f"; it was told {', '.join(levels)} of the clock"
    if one.slowed_s > 0:
        out += f"; its steps took {text(one.slowed_s, 's')} longer than at full clock"
    return out + "."


def _row_words(figures: Any, row: RowPower) -> str:
    mean, p99, peak = (
        text(getattr(figures, name).value, "W") for name in ("row_mean_w", "row_p99_w",
                                                             "row_peak_w")
    )  # fmt: skip
    window = units.show(row.window_s, "time")
    out = f"The row drew {mean} on average, {p99} at the 99th percentile, {peak} at most"
    out += f" over {window}"
    over = figures.over_budget_s.value
    if over is None:
        return out + "."
    if over == 0:
        return out + ", and never more than its budget."
    longest = figures.over_budget_longest_s.value
    out += (
        f"; it was above its budget for {text(over, 's')}, {text(longest, 's')} at a time, by up "
        f"to {text(figures.over_budget_w.value, 'W')}."
    )
    if row.trip_s is not None and longest > row.trip_s:
        out += f" A breaker that takes this for {text(row.trip_s, 's')} would have tripped."
    return out
