"""What goes wrong, as it was drawn before the run, and what that does to replicas.

Each domain (a device, replica, node, rack, the fleet) has a random stream of its own from the run's
stream `failures`, so that its times are the same whatever the policies do and however many others
there are.

Legend: u unit, f fault, d domain.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from forerun import catalog
from forerun.errors import PolicyError
from forerun.sim.control import slow
from forerun.sim.control.hardware import Hardware
from forerun.spec.control import Fault
from forerun.spec.streams import stream

Draw = Callable[[np.random.Generator, Fault], Iterator[tuple[float, float]]]
MILLION = 1_000_000


@dataclass(frozen=True)
class Domain:
    """Units that are struck together by one process, or by the first of several."""

    units: tuple[int, ...]
    n_parts: int = 1


def domains(fault: Fault, hardware: Hardware) -> list[Domain]:
    """Who is struck together, pool by pool.

    A replica on several nodes (or devices) is struck when the first of them is.
    """
    out: list[Domain] = []
    places: list[str | None] = []
    for p, served in enumerate(hardware.server.pools):
        pool = served.pool
        units = [int(u) for u in hardware.of_pool(p)]
        if not units or fault.pool not in (None, pool.name):
            continue
        if fault.region not in (None, pool.region):
            continue
        chosen = [units[n] for n in fault.replicas] if fault.replicas else units
        together, n_parts = 1, 1
        if fault.per == "device":
            n_parts = pool.devices_per_replica
        elif fault.per == "node":
            a_node = catalog.device(pool.device).devices_per_node
            together = max(1, a_node // pool.devices_per_replica)
            n_parts = -(-pool.devices_per_replica // a_node)
        elif fault.per == "group":
            together = fault.group_replicas
        elif fault.per in ("region", "fleet"):
            together = len(units)
        groups: dict[int, list[int]] = {}
        for u in chosen:
            groups.setdefault(units.index(u) // together, []).append(u)
        out += [Domain(tuple(group), n_parts) for group in groups.values()]
        places += [pool.region] * len(groups)
    if fault.per == "region":
        return [
            Domain(
                tuple(u for d, at in zip(out, places, strict=True) if at == place for u in d.units)
            )
            for place in dict.fromkeys(places)
        ]
    if fault.per == "fleet" and out:
        out = [Domain(tuple(u for domain in out for u in domain.units))]
    return out


def times(draw: Draw, fault: Fault, domain: Domain, seed: int, name: str) -> Iterator[tuple]:
    """(begins_s, ends_s) of one domain's faults, in order; the same for the same seed and name."""
    parts = [draw(stream(seed, f"failures/{name}/{k}"), fault) for k in range(domain.n_parts)]
    now = 0.0
    while True:
        drawn = [next(part, None) for part in parts]
        found = [one for one in drawn if one is not None]
        if not found:
            return
        up_s, down_s = min(found)
        if not (up_s >= 0 and down_s >= 0 and np.isfinite(now + up_s + down_s)):
            raise PolicyError.one(
                f"policy {fault.process.name}",
                f"gave {up_s} s up and {down_s} s down after {now:g} s",
                "yield (seconds up, seconds down), both at least 0",
            )
        if up_s + down_s <= 0:
            raise PolicyError.one(
                f"policy {fault.process.name}",
                f"gave no time up and none down after {now:g} s, which would never end",
                "yield (seconds up, seconds down), not both 0",
            )
        yield now + up_s, now + up_s + down_s
        now += up_s + down_s


class Faults:
    """Puts each fault into the hardware's calendar, one ahead for each domain."""

    def __init__(
        self, hardware: Hardware, faults: Sequence[Fault], draws: Sequence[Draw], seed: int
    ) -> None:
        self.hardware = hardware
        self.slow: dict[int, list[float]] = {}  # by unit: the factors that hold now
        self.link: dict[int, list[float]] = {}
        for f, (fault, draw) in enumerate(zip(faults, draws, strict=True)):
            if fault.effect == "upgrade":
                for at_s in fault.at_s:
                    hardware.at(at_s, Upgrade(hardware, fault).begin)
                continue
            for d, domain in enumerate(domains(fault, hardware)):
                self._next(fault, domain, times(draw, fault, domain, seed, f"{f}/{d}"))

    def _next(self, fault: Fault, domain: Domain, left: Iterator[tuple]) -> None:
        found = next(left, None)
        if found is None:
            return
        begins, ends = found
        at = self.hardware.at
        if fault.effect == "loss" and fault.notice_s > 0:
            at(
                max(begins - fault.notice_s, self.hardware.server.now_s),
                self._notice(fault, domain),
            )
        at(begins, lambda now: self._begin(fault, domain, now))

        def over(now: float) -> None:
            self._end(fault, domain, now)
            self._next(fault, domain, left)

        at(ends, over)

    def _notice(self, fault: Fault, domain: Domain) -> Callable[[float], None]:
        def give(now: float) -> None:
            for u in domain.units:
                self.hardware.notice(u, now, move=fault.on_notice == "move")

        return give

    def _begin(self, fault: Fault, domain: Domain, now: float) -> None:
        if fault.effect in ("crash", "loss"):
            lose = fault.requests == "fail"
            self.hardware.fail(domain.units, now, why=fault.effect, lose=lose)
            return
        for u in domain.units:
            self._held(fault, u).append(fault.factor)
            self._set(fault, u, now)

    def _end(self, fault: Fault, domain: Domain, now: float) -> None:
        for u in domain.units:
            if fault.effect in ("crash", "loss"):
                self.hardware.mend(u, now)
            else:
                self._held(fault, u).remove(fault.factor)
                self._set(fault, u, now)

    def _held(self, fault: Fault, u: int) -> list[float]:
        return (self.slow if fault.effect == "slow" else self.link).setdefault(u, [])

    def _set(self, fault: Fault, u: int, now: float) -> None:
        """The worst of what holds counts."""
        worst = max(self._held(fault, u), default=1.0)
        if fault.effect == "slow":
            self.hardware.set_dial(u, slow.DIAL, worst if worst > 1 else None, now)
            return
        for i in self.hardware.lanes(u):
            self.hardware.server.command(now, "link", i, max(round(MILLION / worst), 1))


class Upgrade:
    """One rolling upgrade: group after group drains, is away, and comes back before the next."""

    LOOK_S = 1.0  # between two looks whether a group has drained

    def __init__(self, hardware: Hardware, fault: Fault) -> None:
        self.hardware, self.fault = hardware, fault
        mine = [d.units[0] for d in domains(fault.model_copy(update={"per": "replica"}), hardware)]
        n = fault.group_replicas
        self.groups = [mine[k : k + n] for k in range(0, len(mine), n)]

    def begin(self, now: float) -> None:
        """Start with the next group."""
        if not self.groups:
            return
        group = self.groups.pop(0)
        for u in group:
            self.hardware.notice(u, now, move=self.fault.on_notice == "move")
        self._wait(group, now, now + self.fault.notice_s)

    def _wait(self, group: list[int], now: float, until: float) -> None:
        if now < until and not all(self.hardware.is_idle(u) for u in group):
            self.hardware.at(min(now + self.LOOK_S, until), lambda t: self._wait(group, t, until))
            return
        self.hardware.fail(group, now, why="upgrade", lose=self.fault.requests == "fail")
        self.hardware.at(now + self.fault.mttr_s, lambda t: self._back(group, t))

    def _back(self, group: list[int], now: float) -> None:
        for u in group:
            self.hardware.mend(u, now)
        cold = max(self.hardware.cold_s(u) for u in group)
        self.hardware.at(now + cold, self.begin)
