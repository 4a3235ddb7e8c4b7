"""`Data`: measured rows of one family with their data sheets, and how many of them a fit uses."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import ModuleType

import numpy as np

from forerun.calibrate.split import marks
from forerun.cost import operators
from forerun.cost.calibration import Origin
from forerun.cost.families import family, family_of_op
from forerun.cost.rows import NUMBERS, Rows, joined
from forerun.cost.sheet import Sheet, sheet
from forerun.measure.tables import Table

#: rows a (device, runtime) adds to the fit over all devices, so that no table drowns the others
MOST_ROWS = 6_000


@dataclass(frozen=True, eq=False)
class Data:
    """Measured rows of one family, their data sheets, and the table each came from."""

    name: str
    x: Rows
    s: Sheet
    time_s: np.ndarray
    table: np.ndarray  # int [N], index into `tables`
    tables: tuple[Origin, ...]

    def take(self, which: np.ndarray) -> Data:
        return replace(
            self, x=self.x.take(which), s=self.s.take(which), time_s=self.time_s[which],
            table=self.table[which],
        )  # fmt: skip

    @property
    def module(self) -> ModuleType:
        return family(self.name)

    @functools.cached_property
    def machine(self) -> np.ndarray:
        """Which physical device each row was measured on, str [N]."""
        names, inverse = np.unique(self.s.device.astype(str), return_inverse=True)
        return np.array([machine_of(str(name)) for name in names], dtype=object)[inverse]

    def origins(self, *, marked: bool = False) -> tuple[Origin, ...]:
        """The tables that the rows came from, with how many; marked: with marks of the rows."""
        found = []
        for j in np.unique(self.table):
            at = np.flatnonzero(self.table == j)
            told = marks(self.x.take(at), self.time_s[at]) if marked else ()
            found.append(replace(self.tables[j], rows=len(at), marks=told))
        return tuple(found)


def machine_of(device: str) -> str:
    """The physical device behind a name: a processor that `forerun measure` took with two threads
    and with four is one, whose rows must not speak for each other when it is left out."""
    return re.sub(r"-\d+t$", "", device) if device.startswith("cpu-") else device


def gathered(tables: Sequence[Table], *, only: str | None = None) -> list[Data]:
    """The rows of all tables by family, with defaults filled in, each family's rows at once.

    Rows of ops that no family answers and of devices that no data sheet describes are left out;
    `unanswered` counts the first, the readers of tables the second.
    """
    parts: dict[str, list[tuple[Rows, np.ndarray, np.ndarray]]] = {}
    for j, table in enumerate(tables):
        ops = table.rows.words("op")
        for op in sorted(set(ops)):
            name = family_of_op(op)
            if name is None or only not in (None, name):
                continue
            at = np.flatnonzero(ops == op)
            x = table.rows.take(at).filled(family(name).DEFAULTS)
            parts.setdefault(name, []).append((x, table.time_s[at], np.full(len(at), j)))
    origins = tuple(Origin(t.name, t.origin, t.licence, t.rows.n) for t in tables)
    found = []
    for name, pieces in sorted(parts.items()):
        x = joined([piece[0] for piece in pieces])
        time_s, table_of = (np.concatenate([piece[k] for piece in pieces]) for k in (1, 2))
        s = sheet(x)
        good = (
            np.array([i not in s.problems for i in range(x.n)])
            if s.problems
            else np.ones(x.n, dtype=bool)
        )
        found.append(Data(name, x.take(good), s.take(good), time_s[good], table_of[good], origins))
    return found


def unanswered(tables: Sequence[Table]) -> dict[str, int]:
    """How many rows are of each op that no family answers."""
    found: dict[str, int] = {}
    for table in tables:
        for op, n in zip(*np.unique(table.rows.words("op").astype(str), return_counts=True),
                         strict=True):  # fmt: skip
            if family_of_op(str(op)) is None:
                found[str(op)] = found.get(str(op), 0) + int(n)
    return found


def thinned(data: Data, *, most: int = MOST_ROWS) -> np.ndarray:
    """Indices of at most `most` rows of each (device, runtime), evenly over its rows."""
    picked = [
        group.at[np.unique(np.linspace(0, len(group.at) - 1, most).astype(int))]
        if len(group.at) > most else group.at
        for group in operators.groups(data.x, data.s)
    ]  # fmt: skip
    return np.sort(np.concatenate(picked))


def balance(data: Data) -> np.ndarray:
    """Weights under which every device counts by the root of its rows."""
    _, inverse, counts = np.unique(
        data.s.device.astype(str), return_inverse=True, return_counts=True
    )
    return (1.0 / np.sqrt(counts))[inverse]


# ---------------------------------------------------------------------------- what is stated


def ranges(x: Rows) -> dict[str, tuple[float, float]]:
    """Least and greatest of every shape column that is given in all rows."""
    found = {}
    for name in NUMBERS:
        value = x.get(name)
        if name not in ("graphs", "causal", "gated") and not np.isnan(value).any():
            found[name] = (float(value.min()), float(value.max()))
    return found
