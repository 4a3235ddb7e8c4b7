"""How many replicas of a pool are wanted: a rule asked every so often, bounds and delays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from forerun.errors import PolicyError
from forerun.sim.control import peek
from forerun.sim.control.fleet import Fleet, PoolView, look, takes_as
from forerun.sim.control.hardware import Hardware
from forerun.sim.log import UP
from forerun.spec.control import Autoscale

Rule = Callable[[PoolView, Autoscale, dict], float]


class Scaler:
    """One pool's rule, and what it wanted lately."""

    def __init__(self, hardware: Hardware, p: int, spec: Autoscale, rule: Rule) -> None:
        self.hardware, self.p, self.spec, self.rule = hardware, p, spec, rule
        self.memory: dict[str, Any] = {}
        self.n_looks = 0
        room = int((hardware.pool == p).sum())
        rows = hardware.rows[p]
        self.models = sorted({hardware.server.pools[q].model for q in rows})
        self.cold_s = max(hardware.colds[q].time_s for q in rows)
        self.most = room if spec.max_replicas is None else spec.max_replicas
        self.wishes = [(0.0, hardware.wanted[p])]
        self.before = self._look()
        self.decisions: list[tuple[float, int]] = []

    @property
    def next_look_s(self) -> float:
        """When it looks whatever happens."""
        return (self.n_looks + 1) * self.spec.period_s

    @property
    def next_s(self) -> float:
        """When it wants to look: at its period, or when a request finds nobody."""
        server = self.hardware.server
        if self.hardware.wanted[self.p] == 0 and not peek.anybody_takes(server, self.models):
            return min(self.next_look_s, peek.next_arrival_s(server))
        return self.next_look_s

    def act(self, now_s: float) -> None:
        """Look, and ask for as many replicas as the rule, the delays and the bounds give."""
        now = self._look()
        wanted, hardware = self.hardware.wanted[self.p], self.hardware
        if now_s >= self.next_look_s:
            self.n_looks += 1
            view = self._view(now)
            self.before = now
            wanted = self.held_back(now_s, self.bounded(self.rule(view, self.spec, self.memory)))
        if wanted == 0 and self._serves(now):
            wanted = min(1, self.most)
            self.wishes.append((now_s, wanted))
        if wanted != hardware.wanted[self.p]:
            self.decisions.append((now_s, wanted))
            hardware.want(self.p, wanted, now_s)

    def bounded(self, wish: float) -> int:
        """A whole number within the bounds.  Raises PolicyError for what is no number."""
        if not np.isfinite(wish):
            raise PolicyError.one(
                f"policy {self.spec.policy.name}",
                f"wants {wish} replicas of pool {self.p} at {self.hardware.server.now_s:.6f} s",
                "return a number of replicas",
            )
        return int(min(max(round(wish), self.spec.min_replicas), self.most))

    def held_back(self, now_s: float, wish: int) -> int:
        """The wish as far as it has been one for long enough.

        In: the most that was wanted within scale_in_delay_s.  Out: the least that was wanted within
        scale_out_delay_s.  Source: Kubernetes, HPA, "Stabilization window".
        """
        self.wishes.append((now_s, wish))
        longest = max(self.spec.scale_in_delay_s, self.spec.scale_out_delay_s)
        self.wishes = [w for w in self.wishes if w[0] >= now_s - longest]
        inward = max(n for t, n in self.wishes if t >= now_s - self.spec.scale_in_delay_s)
        outward = min(n for t, n in self.wishes if t >= now_s - self.spec.scale_out_delay_s)
        return min(max(self.hardware.wanted[self.p], outward), inward)

    def _look(self) -> Fleet:
        return look(self.hardware.server, self.hardware.units, self.hardware.state)

    def _serves(self, now: Fleet) -> bool:
        """Whether this pool can take one of those who wait."""
        role = takes_as(self.hardware.server.pools[self.p])
        return bool(now.held_for(role)[self.models].any())

    def _view(self, now: Fleet) -> PoolView:
        hardware = self.hardware
        mine = hardware.pool == self.p
        wanted = hardware.wanted[self.p]
        return PoolView(now, self.before, mine, self._shares(now), wanted, self.cold_s)

    def _shares(self, now: Fleet) -> np.ndarray:
        """This pool's part of the requests that come and wait, by model: by its replicas up among
        those of its role that serve the model."""
        hardware = self.hardware
        pools = hardware.server.pools
        role = takes_as(pools[self.p])
        rivals = [p for p in np.unique(hardware.pool).tolist() if takes_as(pools[p]) == role]
        out = np.zeros(now.held.shape[1])
        for m in self.models:
            able = [p for p in rivals if m in {pools[q].model for q in hardware.rows[p]}]
            up = [int(((hardware.pool == p) & (now.state == UP)).sum()) for p in able]
            mine = up[able.index(self.p)]
            out[m] = mine / sum(up) if sum(up) else 1 / len(able)
        return out
