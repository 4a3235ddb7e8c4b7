"""What replicas have drawn, as a meter would have it: the mean over a window that lies back.

Energy above idle is that of the steps that the log has so far and of those under way, each even
over its step; idle draw that of the time in which a replica was powered.  A reading is the same
whether steps are leapt over or taken one by one; it is rounded to RESOLUTION_W, so that the order
of sums never shows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from forerun.sim.amounts import energy_by
from forerun.sim.control.fleet import over_units
from forerun.sim.control.hardware import Hardware
from forerun.sim.core import compile as compiler
from forerun.sim.core.rows_log import LEAP
from forerun.sim.leaps import end_ps
from forerun.sim.log import POWERED
from forerun.sim.serve import PS, Server

RESOLUTION_W = 0.1


@dataclass(frozen=True, eq=False)
class Reading:
    """Means of each unit over a window, float64 [units] each."""

    total_w: np.ndarray
    prompts_w: np.ndarray  # of it above idle, in steps that compute some prompt
    prompts: np.ndarray  # share of the time in such steps


class Meter:
    """Reads the power of every unit of a fleet."""

    def __init__(self, hardware: Hardware) -> None:
        self.hardware, self.server = hardware, hardware.server
        self.tables = [served.table for served in self.server.pools]
        self.rows = np.zeros(0, dtype=LEAP)  # that a window to come may touch
        self.n_seen = 0
        self.spans: list[tuple[int, int, float, float]] = []
        self.n_spans = 0

    def read(self, from_s: float, to_s: float) -> Reading:
        """The mean over a window that has passed; windows are asked for in order of their start."""
        n_lanes = len(self.server.pool_of_replica)
        total, prompts, spent = (np.zeros(n_lanes) for _ in range(3))
        begin, end = round(max(from_s, 0.0) * PS), round(to_s * PS)
        if end > begin:
            self._take(begin)
            leaps = np.concatenate([self.rows, under_way(self.server)])
            leaps = leaps[leaps["start_ps"] < end]
            joule = self._joule(leaps, end) - self._joule(leaps, begin)
            np.add.at(total, leaps["replica"], joule)
            some = leaps["n_chunks"] > 0
            np.add.at(prompts, leaps["replica"][some], joule[some])
            long = np.minimum(end_ps(leaps), end) - np.maximum(leaps["start_ps"], begin)
            np.add.at(spent, leaps["replica"][some], np.maximum(long[some], 0) / PS)
            total += self._idle_j(begin, end)
        # a window that began before the run was all idle then
        width = to_s - from_s
        ahead = min(max(-from_s, 0.0), width)
        total += self._idle_w() * ahead
        units = self.hardware.units
        watts, above, share = (
            over_units(np.add, each / width, units) for each in (total, prompts, spent)
        )
        lanes = over_units(np.add, np.ones(n_lanes), units)
        return Reading(_shown(watts), _shown(above), np.round(share / lanes, 6))

    def _joule(self, leaps: np.ndarray, t_ps: int) -> np.ndarray:
        tuning = [served.pool.engine.tuning for served in self.server.pools]
        return energy_by(leaps, self.tables, t_ps, tuning)

    def _take(self, begin_ps: int) -> None:
        """Keep the rows that were written since, forget those that ended before the window."""
        server = self.server
        written = [part.leaps for part in server._kept]
        written.append(np.asarray(server._state.leaps[: server._clock.n_leaps]))
        new, skip = [self.rows], self.n_seen
        for part in written:
            new.append(part[skip:])
            skip = max(0, skip - len(part))
        self.n_seen = sum(len(part) for part in written)
        rows = np.concatenate(new)
        self.rows = rows[end_ps(rows) > begin_ps]

    def _idle_w(self) -> np.ndarray:
        """Of each replica of the core; with pipeline stages they share the devices."""
        each = np.array([table.idle_w / table.stages for table in self.tables])
        return each[self.server.pool_of_replica]

    def _idle_j(self, begin_ps: int, end_ps: int) -> np.ndarray:
        """Idle energy of a window, by replica of the core."""
        begin, end = begin_ps / PS, end_ps / PS
        new = self.hardware.spans_kept(self.n_spans)
        self.n_spans += len(new)
        self.spans = [span for span in (*self.spans, *new) if span[3] > begin]
        out = np.zeros(len(self.server.pool_of_replica))
        for i, state, from_s, to_s in (*self.spans, *self.hardware.spans_open(end)):
            if state in POWERED:
                out[i] += max(0.0, min(to_s, end) - max(from_s, begin))
        return out * self._idle_w()


def _shown(watts: np.ndarray) -> np.ndarray:
    return np.round(watts / RESOLUTION_W) * RESOLUTION_W


def under_way(server: Server) -> np.ndarray:
    """The steps that replicas are in, as rows of LEAP that end when they are planned to."""
    compiler.entry("under_way")(server._state)
    rows = np.asarray(server._state.in_steps)
    return rows[rows["n_steps"] > 0]
