"""Error tables of serving runs: both latencies, and whether configurations are ranked rightly."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from forerun.calibrate.scored_runs import Scored

#: what a table of runs may be split by
BY = ("mode", "device", "runtime", "model")
ALL = "all"
#: runs that belong together when configurations are ranked
GROUP = ("model", "device", "runtime", "mode", "isl", "osl")
LEAST = 5  # runs of a group whose ranks say something


@dataclass(frozen=True)
class Line:
    """Absolute percentage errors of one slice of runs, as fractions.

    rank : mean over groups of Spearman's correlation of predicted and measured; NaN without groups.
    """

    slice: tuple[str, ...]
    n: int
    answered: int
    ttft_median: float
    ttft_p90: float
    ttft_covered: float  # share of runs inside their 80 % interval
    ttft_rank: float
    tpot_median: float
    tpot_p90: float
    tpot_covered: float
    tpot_rank: float


def lines(scored: Scored, by: Sequence[str] = ("mode", "runtime")) -> list[Line]:
    """One line a slice and one over all; runs with a note stand in slices of their own."""
    table = scored.runs.table
    columns = [table.text(name).astype(str) for name in by]
    keys = np.array(["\t".join(row) for row in zip(*columns, strict=True)], dtype=str)
    noted = scored.runs.note != ""
    out = []
    for key in [*np.unique(keys[~noted]), ALL]:
        mine = ~noted & ((keys == key) | (key == ALL))
        out.append(_line(scored, mine, tuple(key.split("\t")) if key != ALL else (ALL,) * len(by)))
    for note in np.unique(scored.runs.note[noted].astype(str)):
        mine = scored.runs.note == note
        out.append(_line(scored, mine, (f"({note})", *[""] * (len(by) - 1))))
    return out


def _line(scored: Scored, mine: np.ndarray, name: tuple[str, ...]) -> Line:
    use = mine & scored.answered
    runs = scored.runs
    figures = []
    for j, (said, seen) in enumerate(((scored.ttft_s, runs.ttft_s), (scored.tpot_s, runs.tpot_s))):
        ape = np.abs(said[use] / seen[use] - 1)
        inside = (scored.low[j][use] <= seen[use]) & (seen[use] <= scored.high[j][use])
        figures += [
            *_two(ape), float(inside.mean()) if len(ape) else float("nan"),
            _rank(scored, use, said, seen),
        ]  # fmt: skip
    return Line(name, int(mine.sum()), int(use.sum()), *figures)


def _two(ape: np.ndarray) -> tuple[float, float]:
    if not len(ape):
        return float("nan"), float("nan")
    return float(np.median(ape)), float(np.quantile(ape, 0.9))


def _rank(scored: Scored, use: np.ndarray, said: np.ndarray, seen: np.ndarray) -> float:
    from scipy.stats import spearmanr

    table = scored.runs.table
    columns = [table.text(name).astype(str) for name in GROUP]
    keys = np.array(["\t".join(row) for row in zip(*columns, strict=True)], dtype=str)
    found = []
    for key in np.unique(keys[use]):
        at = np.flatnonzero(use & (keys == key))
        if len(at) >= LEAST and np.ptp(seen[at]) > 0 and np.ptp(said[at]) > 0:
            found.append(spearmanr(said[at], seen[at]).statistic)
    return float(np.mean(found)) if found else float("nan")


def text(table: Iterable[Line], by: Sequence[str]) -> str:
    """The error table as Markdown."""
    head = [*by, "runs", "answered", "TTFT median", "p90", "in interval", "rank", "TPOT median",
            "p90", "in interval", "rank"]  # fmt: skip
    rows = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for line in table:
        figures = [
            f"{line.ttft_median:.0%}", f"{line.ttft_p90:.0%}", f"{line.ttft_covered:.0%}",
            f"{line.ttft_rank:.2f}", f"{line.tpot_median:.1%}", f"{line.tpot_p90:.0%}",
            f"{line.tpot_covered:.0%}", f"{line.tpot_rank:.2f}",
        ]  # fmt: skip
        cells = [*line.slice, f"{line.n:,}", f"{line.answered:,}", *figures]
        rows.append("| " + " | ".join("-" if c in ("nan%", "nan") else c for c in cells) + " |")
    return "\n".join(rows)
