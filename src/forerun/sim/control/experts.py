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


def has_course(pools: Sequence[Served]) -> bool:
    """Whether some pool's experts are loaded otherwise later on."""
    return any(served.levels[1:] for served in pools)


def with_levels(
    pools: Sequence[Served], others: Iterable[tuple[int, Sequence[Served]]]
) -> list[Served]:
    """The pools, then the rows that some of them run at other levels of load.

    others : a pool and further rows of it; where it has a course, in the order of their levels, its
             own left out.
    """
    out = list(pools)
    for p, rows in others:
        if out[p].course is None:
            out += rows  # they are no levels
            continue
        out[p] = replace(out[p], levels=out[p].course.rows(p, len(out)))
        level_of = {row: level for level, row in enumerate(out[p].levels)}
        first = len(out)
        out += [
            replace(row, like=p, dial=(DIAL, level_of[k]), levels=(), course=None)
            for k, row in enumerate(rows, first)
        ]
    return out


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
