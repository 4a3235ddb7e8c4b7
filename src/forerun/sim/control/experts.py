"""Experts whose load changes: at the start of a window each replica's dial is turned to the level
that the window is priced at.

Windows in which nothing happens are skipped, but none while a replica is in a step: how far its
leap goes is no event.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from forerun.sim.control import peek
from forerun.sim.control.dials import Dials
from forerun.sim.setup import Served

DIAL = "experts"
#: lanes as which replicas begin: of prompts and of answers, alone, at the shares of the start
HOMES = (0, 2)


def has_course(pools: Sequence[Served]) -> bool:
    """Whether some pool's experts are loaded otherwise later on."""
    return any(served.levels[1:] for served in pools)


def with_levels(
    pools: Sequence[Served], others: Iterable[tuple[int, Sequence[Served]]]
) -> list[Served]:
    """The pools, then the rows that some of them run at other levels of load.

    others : a pool and further rows of it; where it has a course, in the order of their levels, its
             own left out.  Where lanes share its devices, a level has a row of each lane.
    """
    out = list(pools)
    for p, rows in others:
        course = out[p].course
        if course is None:
            out += rows  # they are no levels
            continue
        n = n_lanes(out[p])
        own = [p, *range(len(out), len(out) + n - 1)]
        first = len(out) + n - 1
        out += rows[: n - 1]
        out += rows[n - 1 :]
        for k, q in enumerate(own):
            levels = course.rows(q, first + k, n)
            for level, row in enumerate(levels):
                if row != q:
                    dial = (DIAL, level)
                    out[row] = replace(out[row], like=q, dial=dial, levels=(), course=None)
            runs = out[q].lane in HOMES  # replicas of the pool begin as it
            levels, mine = (levels, course) if runs else ((), None)
            out[q] = replace(out[q], levels=levels, course=mine)
    return out


def n_lanes(served: Served) -> int:
    """Rows of a pool at one level: one, or those of all shares of its devices."""
    return 1 if served.pool.sm_share is None else 4 * len(served.pool.sm_share.shares)


class Experts:
    """The course of every pool that has one."""

    def __init__(self, dials: Dials) -> None:
        self.dials = dials
        pools = dials.server.pools
        self.pools = {p: served for p, served in enumerate(pools) if served.levels[1:]}
        self.looked_s = 0.0

    @property
    def next_s(self) -> float:
        """The start of the next window in which something happens; infinite when nothing will."""
        if not self.pools:
            return np.inf
        following = min(
            (self._window(p, self.looked_s) + 1) * self._length_s(p) for p in self.pools
        )
        if peek.in_a_step(self.dials.server):
            return following
        event_s = peek.next_event_s(self.dials.server)
        if event_s == np.inf:
            return np.inf
        return max(following, *(self._window(p, event_s) * self._length_s(p) for p in self.pools))

    def act(self, now_s: float) -> None:
        """Every replica goes on at the level of its pool's window."""
        self.looked_s = now_s
        if not self.pools:
            return
        for i in range(len(self.dials.shown)):
            p = self.dials.home(i)
            if p in self.pools:
                served = self.pools[p]
                level = served.course.level(self._window(p, now_s))
                value = None if served.levels[level] == p else level
                self.dials.turn(i, DIAL, value, now_s)

    def _length_s(self, p: int) -> float:
        return float(self.pools[p].course.window_s)

    def _window(self, p: int, time_s: float) -> int:
        return int(time_s / self._length_s(p) + 1e-9)
