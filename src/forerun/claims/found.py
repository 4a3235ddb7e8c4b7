"""What a measure gives back, and what it is told about how to run."""

from __future__ import annotations

import csv
import gzip
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Point:
    """One number under one set of circumstances."""

    label: str  # "lengths x 0.9"
    value: float | None  # None where it is not defined (a ratio to nothing)
    detail: str = ""


@dataclass(frozen=True)
class Found:
    """Our number for a claim.

    parts    : what the number was chosen or added up from: one row a case, batch or trace.
    band     : the same number with load, lengths or goals moved a little.
    ablation : the number without the mechanism, which must not be above `ablation_limit`.
    ratios_hold : for absolute numbers, whether they are right up to one common factor.
    broken   : sentences for side conditions of the claim that do not hold.
    stand_ins : published inputs that are not here, for which others stood in: the number is then
        not the claim's.
    columns, rows : a table for a human.
    """

    value: float | None
    parts: tuple[Point, ...] = ()
    band: tuple[Point, ...] = ()
    ablation: Point | None = None
    ablation_limit: float | None = None
    ratios_hold: bool | None = None
    broken: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    stand_ins: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()

    @property
    def ablation_holds(self) -> bool | None:
        """Whether taking the mechanism away took the gain away; None without an ablation."""
        if self.ablation is None or self.ablation_limit is None:
            return None
        return self.ablation.value is not None and self.ablation.value <= self.ablation_limit


@dataclass(frozen=True)
class How:
    """How to run: `data` is the folder of published measurements, `quick` takes fewer requests and
    no band, `seed` is of every random draw, `step` is called as parts are done."""

    data: Path | None = None
    quick: bool = False
    seed: int = 0
    step: Callable[[str], None] = field(default=lambda _: None)

    def path(self, name: str) -> Path | None:
        """The file of the measurements folder, None where it is not."""
        found = self.data / name if self.data else None
        return found if found is not None and found.is_file() else None


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV, gzipped or not."""
    raw = path.read_bytes()
    text = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode()
    return list(csv.DictReader(text.splitlines()))
