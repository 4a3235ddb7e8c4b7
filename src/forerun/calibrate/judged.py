"""Error tables: predictions against measured rows that no fit has seen, beside two baselines."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from forerun.calibrate.baselines import nearest_scaled_s, roofline_s
from forerun.calibrate.data import Data, thinned
from forerun.calibrate.intervals import regimes
from forerun.calibrate.operators import FIFTHS, Scored
from forerun.calibrate.split import held_out, parts_of
from forerun.cost.calibration import REGIMES
from forerun.errors import Problem, SpecError, nearest

#: what an error table may be split by
BY = ("op", "device", "runtime", "dtype", "regime")
ALL = "all"


@dataclass(frozen=True)
class Line:
    """Absolute percentage errors of one slice of rows, as fractions."""

    seen: bool  # other shapes of the device and runtime were measured
    slice: tuple[str, ...]  # values of what the table is split by
    n: int
    median: float
    p90: float
    covered: float  # share of rows inside their 80 % interval
    roofline: float  # median of the data-sheet roofline on the same rows
    roofline_p90: float
    nearest: float  # and of the nearest measured row, scaled by the ratio of data sheets
    nearest_p90: float


@dataclass(frozen=True, eq=False)
class Judged:
    """Held-out rows of one family with the errors of three predictions, float64 [N]."""

    scored: Scored
    ape: np.ndarray
    inside: np.ndarray
    roofline: np.ndarray
    nearest: np.ndarray
    regime: np.ndarray


def judge(data: Data, scored: Scored) -> Judged:
    """The errors of a fit and of both baselines on rows that none of them has seen."""
    rest = scored.data
    if not scored.seen:
        data = data.take(_thinned(data, np.arange(data.x.n)))
    counts = rest.module.counts(rest.x)
    measured = rest.time_s
    nearest = np.empty(rest.x.n)
    device = rest.s.device.astype(str)
    for name in np.unique(device):
        for mine, known in _kept_apart(data, rest, np.flatnonzero(device == name), scored.seen):
            nearest[mine] = nearest_scaled_s(data.take(known), rest.take(mine))
    return Judged(
        scored,
        ape=np.abs(scored.predicted_s / measured - 1),
        inside=(scored.low_s <= measured) & (measured <= scored.high_s),
        roofline=np.abs(roofline_s(rest.x, rest.s, counts) / measured - 1),
        nearest=np.abs(nearest / measured - 1),
        regime=regimes(rest, measured),
    )


def _kept_apart(
    data: Data, rest: Data, mine: np.ndarray, seen: bool
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(rows asked about, rows the nearest-row baseline may use): as much as the fit did."""
    if not seen:
        yield mine, np.flatnonzero(data.machine != rest.machine[mine[0]])
        return
    at, asked = np.flatnonzero(data.s.device == rest.s.device[mine[0]]), rest.x.take(mine)
    known = data.x.take(at)
    if held_out(asked).all():
        yield mine, _thinned(data, at[~held_out(known)])
    else:  # a device of few rows: each part of them was predicted from the others
        part, other = parts_of(asked, FIFTHS), parts_of(known, FIFTHS)
        for k in np.unique(part):
            yield mine[part == k], _thinned(data, at[other != k])


def _thinned(data: Data, known: np.ndarray) -> np.ndarray:
    part = data.take(known)
    return known[thinned(part)] if part.x.n else known


def lines(judged: Iterable[Judged], by: Sequence[str] = ("op",)) -> list[Line]:
    """The error table, one line a slice and one over all, measured devices first."""
    found: list[Line] = []
    everything = list(judged)
    for seen in (True, False):
        part = [j for j in everything if j.scored.seen is seen]
        if not part:
            continue
        columns = [np.concatenate([_column(j, name) for j in part]) for name in by]
        keys = np.array(["\t".join(row) for row in zip(*columns, strict=True)], dtype=str)
        values = {
            name: np.concatenate([getattr(j, name) for j in part])
            for name in ("ape", "inside", "roofline", "nearest")
        }
        for key in [*np.unique(keys), ALL]:
            mine = np.ones(len(keys), bool) if key == ALL else keys == key
            v = {name: value[mine] for name, value in values.items()}
            found.append(
                Line(
                    seen,
                    tuple(key.split("\t")) if key != ALL else (ALL,) * len(by),
                    int(mine.sum()),
                    *_two(v["ape"]),
                    float(v["inside"].mean()),
                    *_two(v["roofline"]),
                    *_two(v["nearest"]),
                )
            )
    return found


def _two(ape: np.ndarray) -> tuple[float, float]:
    known = ape[np.isfinite(ape)]
    if not len(known):
        return float("nan"), float("nan")
    return float(np.median(known)), float(np.quantile(known, 0.9))


def _column(judged: Judged, name: str) -> np.ndarray:
    rest = judged.scored.data
    if name == "device":
        return rest.s.device.astype(str)
    if name == "regime":
        return np.array(REGIMES)[judged.regime]
    return rest.x.words(name).astype(str)


def splits(by: str, known: Sequence[str] = BY) -> list[tuple[str, ...]]:
    """ "op+device,regime" as [("op", "device"), ("regime",)].

    Raises SpecError for names that are not known.
    """
    found = [tuple(n.strip() for n in part.split("+")) for part in by.split(",") if part.strip()]
    if not found:
        raise SpecError.one("--by", "names nothing", f"one of {', '.join(known)}")
    strange = sorted({name for names in found for name in names} - set(known))
    if strange:
        what = "splits no table"
        raise SpecError(*(Problem(f"--by {name}", what, nearest(name, known)) for name in strange))
    return found


def text(table: Sequence[Line], by: Sequence[str]) -> str:
    """The error table as Markdown."""
    head = [*by, "device is", "rows", "median", "p90", "in interval", "roofline", "nearest"]
    rows = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for line in table:
        cells = [
            *line.slice, "measured" if line.seen else "unseen", f"{line.n:,}",
            f"{line.median:.1%}", f"{line.p90:.1%}", f"{line.covered:.0%}",
            _both(line.roofline, line.roofline_p90), _both(line.nearest, line.nearest_p90),
        ]  # fmt: skip
        rows.append("| " + " | ".join(cells) + " |")
    return "\n".join(rows)


def _both(median: float, p90: float) -> str:
    return f"{median:.0%} / {p90:.0%}" if np.isfinite(median) else "-"
