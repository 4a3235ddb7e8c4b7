"""The file a measurement goes on from: one line a pass, written when the pass is done.

`X.csv` has its passes in `X.passes.jsonl`.  A process that is stopped at any moment loses the pass
it was in: lines are complete or, the last one, left out.  The table is made from them anew.
"""

from __future__ import annotations

import bisect
import datetime
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from forerun.cost.rows import NUMBERS, TEXTS
from forerun.errors import Problem, SpecError
from forerun.measure import pace
from forerun.measure.points import Row
from forerun.measure.timing import Pass, Timed, quietest
from forerun.spec.columns import write_columns

#: what a table says of each time besides the columns of `forerun predict ops`
ABOUT = (
    "repeats", "disturbed", "passes", "spread", "noisy", "date", "threads", "machine", "versions",
)  # fmt: skip


@dataclass
class Passes:
    """Passes by operator, and what is known of where they were taken."""

    path: Path
    found: dict[str, list[Pass]] = field(default_factory=dict)
    about: dict[str, dict[str, Any]] = field(default_factory=dict)  # of the last pass
    probes: dict[str, list[float]] = field(default_factory=dict)  # by device, in ascending order
    cut: int = 0  # lines left out because they are not whole

    @classmethod
    def of(cls, table: Path) -> Passes:
        """The passes that belong to a table, none where it has not been begun.

        Raises SpecError for a file that is none of ours.
        """
        made = cls(passes_path(table))
        if made.path.exists():
            made._read()
        return made

    def _read(self) -> None:
        try:
            text = self.path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise SpecError.one(str(self.path), f"cannot be read: {error}", "--fresh") from None
        lines = text.splitlines()
        torn = len(lines) - 1 if text and not text.endswith("\n") else None
        bad = []
        for i, line in enumerate(lines):
            try:
                got = json.loads(line)
                taken = _checked(got["row"], Pass(**got["pass"]))
                self._remember(got["row"], taken, got["about"])
            except (ValueError, KeyError, TypeError, AttributeError):
                bad.append(i)
        if any(i != torn for i in bad):
            raise SpecError(*(
                Problem(f"{self.path}:{i + 1}", "is not a pass that was measured",
                        "delete the line, or begin anew with --fresh") for i in bad[:20]
            ))  # fmt: skip
        self.cut = len(bad)
        if torn is not None:  # what follows must not be glued to it
            whole = "".join(line + "\n" for line in lines[: len(lines) - len(bad)])
            self.path.write_text(whole, encoding="utf-8")

    def _remember(self, row: Row, taken: Pass, about: Mapping[str, Any]) -> None:
        key = key_of(row)
        self.found.setdefault(key, []).append(taken)
        self.about[key] = dict(about)
        if taken.probe_s > 0:
            bisect.insort(self.probes.setdefault(row["device"], []), taken.probe_s)

    def add(self, row: Row, taken: Pass, about: Mapping[str, Any]) -> None:
        """Keeps a pass, in the file first."""
        about = {"date": datetime.date.today().isoformat(), **about}
        line = json.dumps({"row": row, "pass": asdict(taken), "about": about})
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(line + "\n")
        except OSError as error:
            what = f"cannot be written: {(error.strerror or str(error)).lower()}"
            raise SpecError.one(str(self.path), what, "-o another path") from None
        self._remember(row, taken, about)

    def of_row(self, row: Row) -> list[Pass]:
        """The passes of one operator."""
        return self.found.get(key_of(row), [])

    def quietest(self, row: Row) -> Timed:
        """What the passes of one operator say together, one at least."""
        return quietest(self.of_row(row), self._full_s(row))

    def at_full_pace(self, row: Row) -> int:
        """How many passes of an operator found the machine at full pace."""
        full_s = self._full_s(row)
        return sum(pace.pace_of(p.probe_s, full_s) <= pace.SLOW for p in self.of_row(row))

    def _full_s(self, row: Row) -> float:
        return pace.full(self.probes.get(row["device"], ()))

    def timed(self) -> list[tuple[Row, Timed, dict[str, Any]]]:
        """Every operator with what its passes say together."""
        rows = [(json.loads(key), about) for key, about in self.about.items()]
        return [(row, self.quietest(row), about) for row, about in rows]

    def write(self, table: Path) -> int:
        """Writes the table, whole or not at all; returns its rows."""
        known = self.timed()
        names = [n for n in (*TEXTS, *NUMBERS) if any(n in row for row, _, _ in known)]
        columns: dict[str, list[Any]] = {n: [row.get(n) for row, _, _ in known] for n in names}
        columns["time_s"] = [t.time_s for _, t, _ in known]
        said = [
            {"repeats": t.repeats, "disturbed": t.disturbed, "passes": t.passes,
             "spread": round(t.spread, 4), "noisy": int(t.is_noisy), **about}
            for _, t, about in known
        ]  # fmt: skip
        columns |= {name: [row.get(name) for row in said] for name in ABOUT}
        write_columns(table, columns)
        return len(known)


def _checked(row: Any, taken: Pass) -> Pass:
    """The pass.  Raises ValueError for what no measurement writes."""
    told = (taken.time_s, taken.spread, taken.repeats, taken.disturbed, taken.probe_s)
    good = all(isinstance(v, int | float) and 0 <= v < float("inf") for v in told)
    if not good or not isinstance(row, dict) or not {"op", "device"} <= set(row):
        raise ValueError(told)
    return taken


def passes_path(table: Path) -> Path:
    """Where the passes of a table stand."""
    return table.with_name(table.name.removesuffix(".csv") + ".passes.jsonl")


def key_of(row: Row) -> str:
    """An operator, device and runtime as a text that is the same in every run."""
    return json.dumps(row, sort_keys=True)
