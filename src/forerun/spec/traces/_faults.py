"""What is wrong with the rows of a trace: collected whole, listed briefly, counted always."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np

from forerun.errors import Problem, TraceError

LISTED = 20  # faults named one by one; the rest are counted

_FIX = (
    "mend the rows, or pass --skip-bad (skip_bad=True) to leave them out and count them by reason"
)
_FIX_ORDER = "sort=True (or --skip-bad) sorts by arrival and counts the rows that were out of order"


class Faults:
    """Bad rows of one file.  A row counts once, under the first reason found."""

    def __init__(self, path: object, unit: str = "") -> None:
        self.path = path
        self.unit = unit  # "row " where a file has no lines
        self.counts: Counter[str] = Counter()
        self._first: list[tuple[int, str]] = []  # (line, what), the earliest LISTED

    def add(self, reason: str, line: int, what: str) -> None:
        """One bad row."""
        self.counts[reason] += 1
        self._first.append((line, what))
        self._trim()

    def add_where(
        self, reason: str, bad: np.ndarray, lines: np.ndarray, say: Callable[[int], str]
    ) -> None:
        """Every row where bool array `bad` holds; `say(i)` is the sentence for row i."""
        rows = np.flatnonzero(bad)
        if not len(rows):
            return
        self.counts[reason] += len(rows)
        # rows come in file order, so the earliest LISTED of them are enough
        self._first += [(int(lines[i]), say(int(i))) for i in rows[:LISTED]]
        self._trim()

    def _trim(self) -> None:
        if len(self._first) >= 4 * LISTED:
            self._first = sorted(self._first, key=lambda fault: fault[0])[:LISTED]

    def __len__(self) -> int:
        return sum(self.counts.values())

    def error(self, n_rows: int) -> TraceError:
        """The first faults with their lines, then how many there are of each kind."""
        first = sorted(self._first, key=lambda fault: fault[0])[:LISTED]
        listed = [Problem(f"{self.path}:{self.unit}{line}", what) for line, what in first]
        kinds = ", ".join(f"{n} {reason}" for reason, n in sorted(self.counts.items()))
        more = len(self) - len(first)
        what = f"{len(self)} of {n_rows} rows cannot be used ({kinds})"
        if more:
            what += f"; {more} are not listed above"
        fix = _FIX_ORDER if set(self.counts) == {"unsorted"} else _FIX
        return TraceError(*listed, Problem(str(self.path), what, fix))
