"""A power controller: every period it reads the meter, asks the policy, and has rows switched.

Between what a policy says and what devices do lies `act_s` (`brake_s` for the lowest level); an
order that a later one has overtaken is void.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from forerun.cost.clocked import most_w
from forerun.errors import PolicyError
from forerun.sim.control.fleet import look, pools_of
from forerun.sim.control.hardware import Hardware
from forerun.sim.power.course import budget_w
from forerun.sim.power.meter import Meter
from forerun.sim.power.rows import DIAL, fed
from forerun.sim.power.view import PoolOfRow, RowView
from forerun.spec.power import RowPower

Rule = Callable[[RowView, RowPower, dict], Sequence[int]]


class PowerControl:
    """One row's policy, and what it told its pools."""

    def __init__(self, hardware: Hardware, spec: RowPower, rule: Rule) -> None:
        self.hardware, self.spec, self.rule = hardware, spec, rule
        self.meter = Meter(hardware)
        self.memory: dict[str, Any] = {}
        self.n_looks = 0
        served = hardware.server.pools
        pool_of = pools_of(served)
        self.numbers = sorted({pool_of[p] for p in fed(spec, served)})
        self.pools = []
        for p in self.numbers:
            said = served[p].pool.power
            at = [self._rows(p, k) for k in range(len(spec.levels))]
            self.pools.append(
                PoolOfRow(
                    name=served[p].pool.name,
                    low=said is not None and said.priority == "low",
                    tables=[served[rows[0]].table for rows in at],
                    mine=hardware.pool == p,
                    most_w=[
                        int((hardware.pool == p).sum())
                        * max(most_w(served[row].table) for row in rows)
                        for rows in at
                    ],
                )
            )
        self.told = [0] * len(self.pools)  # the level that each pool was last told ...
        self.turn = [0] * len(self.pools)  # ... by which order ...
        self.done = [0] * len(self.pools)  # ... and the last order that was carried out
        self.changes: list[tuple[float, int, int]] = []  # (second, pool of the row, level)

    @property
    def next_s(self) -> float:
        """When it looks next."""
        return (self.n_looks + 1) * self.spec.period_s

    def begin(self) -> None:
        """Ask before anything runs: what the policy says then, devices are told already."""
        self._look(0.0, at_once=True)

    def act(self, now_s: float) -> None:
        """Look, ask, order."""
        self.n_looks += 1
        self._look(now_s)

    def _look(self, now_s: float, at_once: bool = False) -> None:
        spec = self.spec
        until = now_s - spec.delay_s
        reading = self.meter.read(until - spec.window_s, until)
        fleet = look(self.hardware.server, self.hardware.units, self.hardware.state)
        view = RowView(
            self.pools, fleet, reading, self.told,
            float(budget_w(spec, now_s)), spec.other_w, spec.levels,
        )  # fmt: skip
        wanted = self._checked(self.rule(view, spec, self.memory), now_s)
        for p, k in enumerate(wanted):
            if k != self.told[p]:
                self._order(p, k, now_s, at_once)

    def _rows(self, p: int, k: int) -> list[int]:
        """The rows of pool p at a level, first the one that no other dial changes."""
        known = enumerate(self.hardware.dials.keys)
        mine = self.hardware.rows[p]
        of_p = [(row, dict(shown)) for row, (home, shown) in known if home in mine]
        found = [(len(shown), row) for row, shown in of_p if shown.get(DIAL, 0) == k]
        return [row for _, row in sorted(found)]

    def _order(self, p: int, k: int, now_s: float, at_once: bool) -> None:
        self.told[p] = k
        self.turn[p] += 1
        turn = self.turn[p]
        brake = k == len(self.spec.levels) - 1
        wait_s = self.spec.brake_s if brake else self.spec.act_s

        def carry_out(at_s: float) -> None:
            if turn < self.done[p]:
                return
            self.done[p] = turn
            self.changes.append((at_s, p, k))
            for u in np.flatnonzero(self.pools[p].mine):
                self.hardware.set_dial(int(u), DIAL, k or None, at_s)

        if at_once:
            carry_out(now_s)
        else:
            self.hardware.at(now_s + wait_s, carry_out)

    def _checked(self, wanted: Sequence[int], now_s: float) -> list[int]:
        """The levels as whole numbers.  Raises PolicyError for what is none."""
        values = np.asarray(wanted, dtype=float)
        n = len(self.spec.levels)
        good = values.shape == (len(self.pools),) and np.isin(values, np.arange(n)).all()
        if not good:
            raise PolicyError.one(
                f"policy {self.spec.policy.name}",
                f"wants levels {wanted!r} of {len(self.pools)} pools at {now_s:.6f} s",
                f"return a number of a level, 0 to {n - 1}, for each pool of the row",
            )
        return [int(k) for k in values]

    def told_words(self) -> dict[str, Any]:
        """What was changed, as plain values."""
        return {
            "n_looks": self.n_looks,
            "changes": [
                {"time_s": t, "pool": self.pools[p].name, "level": self.spec.levels[k]}
                for t, p, k in self.changes
            ],
        }
