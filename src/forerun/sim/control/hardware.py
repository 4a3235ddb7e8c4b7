"""Which replicas are rented and in what state, and what that orders of the core.

A unit goes off -> cold -> up -> draining -> off.  Faults take it down (or away) from any of these
and give it back; then it starts cold, as far as it is wanted.  Every stretch in a state is kept: it
is what money, idle power and availability are counted by.

Legend: u unit, p pool.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from forerun.sim.control import peek
from forerun.sim.control.cold import Cold
from forerun.sim.control.dials import Dials
from forerun.sim.control.fleet import Unit, look, pools_of, takes_as, units_of
from forerun.sim.core.signatures import OUTSTANDING
from forerun.sim.log import COLD, DOWN, DRAINING, GONE, OFF, SPAN, UP, WANTED
from forerun.sim.serve import PS, Server

#: why a replica went away that had not been given back
ENDS = ("crash", "loss", "upgrade")
EVERYBODY = 1 << 30  # more than a replica runs


@dataclass
class Hardware:
    """The units of a server.  `wanted` replicas of each pool are kept rented.

    A pool of models that take turns is its first row (`pools_of`).  A replica of it that starts
    cold begins with the model that it is needed for (`_needed`).
    """

    server: Server
    colds: Sequence[Cold]  # by row
    wanted: list[int]
    moves: Sequence[bool]  # by pool: what is stopped gives its decoding requests away
    pays_while_down: Sequence[bool]  # by pool: owned or reserved, so a failed replica is paid for
    units: tuple[Unit, ...] = ()
    n_starts: int = 0
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(ENDS, 0))
    n_planned: int = 0  # entries of the calendar so far
    _later: list = field(default_factory=list)  # heap of (time, sequence, what)
    _spans: list = field(default_factory=list)

    def __post_init__(self) -> None:
        self.units = units_of(self.server)
        self.dials = Dials(self.server)
        n = len(self.units)
        self.state = np.full(n, UP)
        self.since_s = np.zeros(n)
        self.wanted_since_s = [0.0] * len(self.wanted)
        self.turn = np.zeros(n, dtype=np.int64)  # of starts; one that was overtaken is void
        self.held_down = np.zeros(n, dtype=np.int64)  # by how many faults
        self.leaving = np.zeros(n, dtype=bool)  # notice was given
        self.pool = np.array([unit.pool for unit in self.units])
        self.number = np.array([unit.number for unit in self.units])
        self.row = np.array([unit.row for unit in self.units])  # that it began as when it started
        pool_of = pools_of(self.server.pools)
        self.rows = [  # that replicas of a pool begin as
            [q for q, served in enumerate(self.server.pools) if pool_of[q] == p and not served.dial]
            for p in range(len(self.wanted))
        ]
        off = self.number >= np.array(self.wanted)[self.pool]
        self.state[off] = OFF
        peek.shut(self.server, [i for u in np.flatnonzero(off) for i in self.lanes(int(u))])

    def lanes(self, u: int) -> tuple[int, ...]:
        return self.units[u].lanes

    def of_pool(self, p: int) -> np.ndarray:
        """The units of pool p, by their numbers."""
        mine = np.flatnonzero(self.pool == p)
        return mine[np.argsort(self.number[mine])]

    # -- time ------------------------------------------------------------------------------------

    @property
    def next_s(self) -> float:
        """When something is due."""
        return self._later[0][0] if self._later else np.inf

    def at(self, time_s: float, what: Callable[[float], None]) -> None:
        """Do something at a time to come."""
        heapq.heappush(self._later, (time_s, self.n_planned, what))
        self.n_planned += 1

    def catch_up(self, now_s: float) -> None:
        """Do what is due by now, and let go of those that have ended their last request."""
        while self._later and self._later[0][0] <= now_s:
            time_s, _, what = heapq.heappop(self._later)
            what(time_s)
        for u in np.flatnonzero((self.state == DRAINING) & ~self.leaving):
            if self.moves[self.pool[u]]:  # prompts that were under way may decode by now
                self._order(now_s, "move", int(u), EVERYBODY)
            self._release_if_empty(int(u), now_s)

    # -- what others ask for ---------------------------------------------------------------------

    def want(self, p: int, n: int, now_s: float) -> None:
        """Keep n replicas of pool p from now on."""
        self._keep_wanted(p, now_s)
        self.wanted[p] = n
        self.fill(p, now_s)

    def fill(self, p: int, now_s: float) -> None:
        """Start or stop replicas of pool p until as many as wanted are up or starting.

        Started first: those that drain, then the lowest number.  Stopped first: those that are not
        up yet, then the one with the fewest requests, of equal ones the highest number.
        """
        mine = self.of_pool(p)
        on = mine[np.isin(self.state[mine], (COLD, UP)) & ~self.leaving[mine]]
        if len(on) < self.wanted[p]:
            able = mine[(self.held_down[mine] == 0) & ~self.leaving[mine]]
            spare = [*able[self.state[able] == DRAINING], *able[self.state[able] == OFF]]
            for u in spare[: self.wanted[p] - len(on)]:
                self.start(int(u), now_s)
        elif len(on) > self.wanted[p]:
            load = [peek.load(self.server, OUTSTANDING, self.lanes(int(u))) for u in on]
            order = sorted(zip(self.state[on] == UP, load, -self.number[on], on, strict=True))
            for *_, u in order[: len(on) - self.wanted[p]]:
                self.stop(int(u), now_s)

    def start(self, u: int, now_s: float) -> None:
        """Rent unit u; one that drains goes on at once, any other starts cold."""
        if self.state[u] == DRAINING:
            self._enter(u, UP, now_s)
            self._order(now_s, "open", u)
            return
        self.row[u] = self._needed(u)
        time_s = self.cold_s(u)
        self.n_starts += 1
        self._enter(u, COLD, now_s)
        turn = int(self.turn[u])
        if time_s > 0:
            self.at(now_s + time_s, lambda at: self._ready(u, turn, at))
        else:
            self._ready(u, turn, now_s)

    def stop(self, u: int, now_s: float) -> None:
        """Unit u takes no more requests and is given back when it has none."""
        if self.state[u] == UP:
            self._enter(u, DRAINING, now_s)
            self._order(now_s, "close", u)
            if self.moves[self.pool[u]]:
                self._order(now_s, "move", u, EVERYBODY)
            self._release_if_empty(u, now_s)
        elif self.state[u] == COLD:
            self._enter(u, OFF, now_s)

    def fail(
        self, units: Sequence[int], now_s: float, *, why: str = "crash", lose: bool = False
    ) -> None:
        """Units are gone, all at once, each until `mend` is called as often.  why : one of ENDS."""
        struck = [u for u in units if self.state[u] in (COLD, UP, DRAINING)]
        for i in [i for u in struck for i in self.lanes(u)][1:]:
            self.server.command(now_s, "close", i)  # the first ones' requests do not go to the next
        for u in struck:
            # a partner on the same devices goes with it
            for i in self.lanes(u)[: self.server.pools[self.row[u]].pool.pp]:
                self.server.command(now_s, "fail", i, int(lose))
        for u in units:
            self.held_down[u] += 1
            if u in struck:
                self.counts[why] += 1
                away = GONE if why == "loss" or not self.pays_while_down[self.pool[u]] else DOWN
                given_up = self.state[u] == DRAINING and not self.leaving[u]
                self._enter(u, OFF if given_up else away, now_s)
            self.leaving[u] = False
        for p in dict.fromkeys(int(self.pool[u]) for u in units):
            self.fill(p, now_s)

    def mend(self, u: int, now_s: float) -> None:
        """One of the faults that keep unit u down is over."""
        self.held_down[u] -= 1
        if self.held_down[u] > 0:
            return
        if self.state[u] in (DOWN, GONE):
            self._enter(u, OFF, now_s)
        self.fill(int(self.pool[u]), now_s)

    def notice(self, u: int, now_s: float, *, move: bool) -> None:
        """Unit u will be taken away: it takes no more requests; another one is started for it."""
        if self.state[u] not in (COLD, UP):
            return
        self.leaving[u] = True
        if self.state[u] == UP:
            self._enter(u, DRAINING, now_s)
            self._order(now_s, "close", u)
        self.fill(int(self.pool[u]), now_s)
        if move:
            for i in self.lanes(u):
                self.server.command(now_s, "move", i, EVERYBODY)

    def cold_s(self, u: int) -> float:
        """What the last start of unit u took, or takes."""
        return self.colds[self.row[u]].time_s

    def is_idle(self, u: int) -> bool:
        """Whether unit u has nothing left to do."""
        return peek.empty_since_s(self.server, self.lanes(u)) is not None

    def _needed(self, u: int) -> int:
        """The row that unit u begins as: of the model with most requests for each replica that has
        it or begins with it; of equal ones, of the one that fewest have, then of its own first.

        Counted are requests that wait in front or are with a replica of its pool.
        Source: D'Hondt's rule of dividing seats.
        """
        p = int(self.pool[u])
        rows = self.rows[p]
        if len(rows) == 1:
            return rows[0]
        now = look(self.server, self.units, self.state)
        mine = self.of_pool(p)
        lanes = [i for v in mine for i in self.lanes(int(v))]
        asked = peek.asked(self.server, lanes) + now.held_for(takes_as(self.server.pools[p]))
        pools = self.server.pools
        have = np.zeros(len(asked))
        for v in mine[np.isin(self.state[mine], (COLD, UP)) & ~self.leaving[mine]]:
            runs = int(self.server._state.replicas["next_pool"][self.units[v].lanes[0]])
            have[pools[self.row[v] if self.state[v] == COLD else runs].model] += 1

        def need(q: int) -> tuple[float, float, bool]:
            m = pools[q].model
            return asked[m] / (1 + have[m]), -have[m], q == self.units[u].row

        return max(rows, key=need)

    # -- inside ----------------------------------------------------------------------------------

    def _ready(self, u: int, turn: int, now_s: float) -> None:
        if self.turn[u] == turn and self.state[u] == COLD:
            self._enter(u, DRAINING if self.leaving[u] else UP, now_s)
            if not self.leaving[u]:
                for i in self.lanes(u):
                    turns = len(self.rows[self.pool[u]]) > 1
                    row = self.row[u] if turns else self.dials.home(i)
                    self.server.command(now_s, "open", i, 1 + self.dials.row(i, int(row)))

    def _release_if_empty(self, u: int, now_s: float) -> None:
        ended_s = peek.empty_since_s(self.server, self.lanes(u))
        if ended_s is not None:
            self._enter(u, OFF, min(max(ended_s, self.since_s[u]), now_s))
            self.fill(int(self.pool[u]), now_s)

    def _enter(self, u: int, state: int, now_s: float) -> None:
        self._keep(u, now_s)
        self.state[u], self.since_s[u] = state, now_s
        self.turn[u] += 1

    def _keep(self, u: int, now_s: float) -> None:
        if self.state[u] != OFF and now_s > self.since_s[u]:
            for i in self.lanes(u):
                span = (i, int(self.state[u]), self.since_s[u], now_s)
                self._spans.append(span)

    def _keep_wanted(self, p: int, now_s: float) -> None:
        """Note how many replicas of pool p were wanted until now, as the first ones of it."""
        since, self.wanted_since_s[p] = self.wanted_since_s[p], now_s
        if now_s > since:
            for u in self.of_pool(p)[: self.wanted[p]]:
                self._spans += [(i, WANTED, since, now_s) for i in self.lanes(int(u))]

    def set_dial(self, u: int, dial: str, value: Any, now_s: float) -> None:
        """Set a dial of unit u; None is as in its pool."""
        for i in self.lanes(u):
            self.dials.turn(i, dial, value, now_s)

    def _order(self, now_s: float, verb: str, u: int, value: int = 0) -> None:
        for i in self.lanes(u):
            self.server.command(now_s, verb, i, value)

    def spans(self, end_s: float) -> np.ndarray:
        """Every stretch of time that a replica spent in a state but off: dtype SPAN, by start."""
        for p in range(len(self.wanted)):
            self._keep_wanted(p, end_s)
        open_now = self.spans_open(end_s)
        rows = [row for row in (*self._spans, *open_now) if row[2] < end_s]
        out = np.zeros(len(rows), dtype=SPAN)
        for k, (i, state, from_s, to_s) in enumerate(rows):
            out[k] = (i, state, round(from_s * PS), round(min(to_s, end_s) * PS))
        return out[np.lexsort((out["replica"], out["from_ps"]))]

    def spans_kept(self, skip: int) -> list[tuple[int, int, float, float]]:
        """Stretches that have ended, but the first `skip`: (replica, state, from second, to)."""
        return self._spans[skip:]

    def spans_open(self, end_s: float) -> list[tuple[int, int, float, float]]:
        """The stretches that go on, up to a time."""
        return [
            (i, int(self.state[u]), self.since_s[u], end_s)
            for u in np.flatnonzero(self.state != OFF)
            for i in self.lanes(int(u))
        ]
