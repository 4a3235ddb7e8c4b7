"""`Runs`: configurations as columns of `forerun predict serving`, with what was measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from forerun.spec.columns import Columns


@dataclass(frozen=True, eq=False)
class Runs:
    """Rows of one source.

    table : the questions.  ttft_s, tpot_s : float64 [N], means over requests.
    note : str [N], what makes a row's measurement unlike the others ("" for most).
    """

    table: Columns
    ttft_s: np.ndarray
    tpot_s: np.ndarray
    note: np.ndarray
    name: str
    origin: str
    licence: str
    n_repeats: int = 0  # rows left out because another is equal

    @property
    def n(self) -> int:
        return self.table.n

    def take(self, which: np.ndarray) -> Runs:
        """Some of the rows."""
        at = np.flatnonzero(which) if which.dtype == bool else which
        cells = {name: values[at] for name, values in self.table.cells.items()}
        return replace(
            self, table=Columns(self.table.names, cells, len(at)), ttft_s=self.ttft_s[at],
            tpot_s=self.tpot_s[at], note=self.note[at],
        )  # fmt: skip

    def row(self, i: int) -> dict[str, str]:
        """One question."""
        return {name: str(values[i]) for name, values in self.table.cells.items()}


def without_repeats(runs: Runs) -> Runs:
    """One row of each set of equal ones, measurements included."""
    names = [name for name in runs.table.names if name != "row_id"]
    keys = [
        (*(runs.table.cells[name][i] for name in names), runs.ttft_s[i], runs.tpot_s[i])
        for i in range(runs.n)
    ]
    first = {key: i for i, key in reversed(list(enumerate(keys)))}
    kept = np.array(sorted(first.values()), dtype=int)
    return replace(runs.take(kept), n_repeats=runs.n - len(kept))


def joined(parts: Sequence[Runs]) -> Runs:
    """Runs of several tables as one; a column that one lacks is empty there."""
    first = parts[0]
    names = tuple(dict.fromkeys(name for part in parts for name in part.table.names))
    cells = {name: np.concatenate([part.table.text(name) for part in parts]) for name in names}
    return replace(
        first,
        table=Columns(names, cells, sum(part.n for part in parts)),
        ttft_s=np.concatenate([part.ttft_s for part in parts]),
        tpot_s=np.concatenate([part.tpot_s for part in parts]),
        note=np.concatenate([part.note for part in parts]),
        name=", ".join(dict.fromkeys(part.name for part in parts)),
        origin="; ".join(dict.fromkeys(part.origin for part in parts)),
        licence="; ".join(dict.fromkeys(part.licence for part in parts)),
        n_repeats=sum(part.n_repeats for part in parts),
    )
