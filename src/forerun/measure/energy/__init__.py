"""Measured power and energy, one reader a source; each becomes `Runs`, `CapRuns` or values.

Watts are those of one device, whatever the source states, and seconds are seconds.  A reader with

    recognises(path) -> bool
    read(path) -> Runs | CapRuns

is found by `read_all`; the others are for checks alone.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType

import numpy as np

from forerun.errors import Problem, SpecError


@dataclass(frozen=True, eq=False)
class Runs:
    """Steady serving, one row a run.

    A step decodes `batch` sequences, of which `batch / osl` end and as many prompts are computed.
    """

    model: np.ndarray  # str [N], as the source names it
    device: np.ndarray  # str [N], catalog names
    dtype: np.ndarray  # str [N], format of the weights
    runtime: np.ndarray  # str [N], "vllm 0.11.1"
    n_devices: np.ndarray  # int [N], tensor parallel
    ep: np.ndarray  # int [N]
    batch: np.ndarray  # float64 [N], mean sequences in a step
    isl: np.ndarray  # float64 [N], prompt tokens
    osl: np.ndarray  # float64 [N], mean answer
    step_s: np.ndarray  # float64 [N], batch / (output tokens a second)
    power_w: np.ndarray  # float64 [N], mean of one device
    origin: str
    licence: str
    estimated: tuple[str, ...] = ()  # what the source does not state
    n_dropped: Mapping[str, int] = field(default_factory=dict)  # reason -> rows of the source

    @property
    def n(self) -> int:
        return len(self.power_w)

    @property
    def energy_j_per_token(self) -> np.ndarray:
        """Of all devices, a token of the answers, float64 [N]."""
        return self.power_w * self.n_devices * self.step_s / self.batch

    def take(self, at: np.ndarray) -> Runs:
        """Some of the runs, by index or mask."""
        columns = {k: v[at] for k, v in vars(self).items() if isinstance(v, np.ndarray)}
        return replace(self, **columns)


@dataclass(frozen=True, eq=False)
class CapRuns:
    """One job under several power caps, one row a job and cap."""

    device: np.ndarray  # str [N]
    job: np.ndarray  # str [N], equal for rows that differ in the cap alone
    model: np.ndarray  # str [N]
    cap_w: np.ndarray  # float64 [N]
    time_s: np.ndarray  # float64 [N], of an epoch
    power_w: np.ndarray  # float64 [N], mean over it
    origin: str
    licence: str

    @property
    def n(self) -> int:
        return len(self.power_w)

    @property
    def energy_j(self) -> np.ndarray:
        """Of an epoch, float64 [N]."""
        return self.power_w * self.time_s

    def take(self, at: np.ndarray) -> CapRuns:
        """Some of the rows, by index or mask."""
        columns = {k: v[at] for k, v in vars(self).items() if isinstance(v, np.ndarray)}
        return CapRuns(**columns, origin=self.origin, licence=self.licence)


def files_of(path: Path, pattern: str) -> list[Path]:
    """A file as it is, or those of a folder that match."""
    return sorted(path.glob(pattern)) if path.is_dir() else [path]


def joined(parts: list[Runs]) -> Runs:
    """Runs of several sources as one."""
    names = [name for name, value in vars(parts[0]).items() if isinstance(value, np.ndarray)]
    return Runs(
        **{name: np.concatenate([getattr(p, name) for p in parts]) for name in names},
        origin="; ".join(dict.fromkeys(p.origin for p in parts)),
        licence="; ".join(dict.fromkeys(p.licence for p in parts)),
        estimated=tuple(dict.fromkeys(e for p in parts for e in p.estimated)),
        n_dropped=dict(sum((Counter(p.n_dropped) for p in parts), Counter())),
    )


def read_all(paths: Iterable[str | Path]) -> tuple[list[Runs], list[CapRuns]]:
    """(serving runs, capped runs) of files and folders; a folder of several sets is looked into.

    Raises SpecError with the problems of all paths.
    """
    runs: list[Runs] = []
    capped: list[CapRuns] = []
    problems: list[Problem] = []
    for path in map(Path, paths):
        places = [path, *sorted(path.iterdir())] if path.is_dir() else [path]
        found = [(place, reader) for place in places if (reader := _reader(place))]
        if not found:
            what = "holds no metered runs" if path.exists() else "there is no such file or folder"
            problems.append(Problem(str(path), what, "a table with the column power_w"))
        for place, reader in found:
            try:
                one = reader.read(place)
            except SpecError as error:
                problems += error.problems
                continue
            (capped if isinstance(one, CapRuns) else runs).append(one)
    if problems:
        raise SpecError(*problems)
    return runs, capped


def _reader(path: Path) -> ModuleType | None:
    """The reader that knows a path."""
    for info in pkgutil.iter_modules(__path__):
        reader = importlib.import_module(f"{__name__}.{info.name}")
        if hasattr(reader, "recognises") and reader.recognises(path):
            return reader
    return None
