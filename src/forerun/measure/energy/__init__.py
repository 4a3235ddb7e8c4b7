"""Measured power and energy, one file a source: `read(folder)` gives `Runs`, `CapRuns` or `Phases`.

Watts are those of one device, whatever the source states, and seconds are seconds.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


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
        return Runs(**columns, origin=self.origin, licence=self.licence, estimated=self.estimated)


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
