"""A cost table at a lower clock, or under a power cap: what every kernel then takes and draws.

Moving a kernel's bytes at the data sheet's rate takes B of its time T at full clock; the memory has
a clock of its own.  The rest follows the core clock s (1 at full clock):

    time(s) = B + (T - B) / s

Its energy above idle at full clock is that of its bytes (memory and links), which stays, of the
active device, and of the matrix units.  With g(s) = w s + (1 - w) s^k of `power_cap`, power at a
clock over that at full clock for as many operations a second as the clock allows,

    energy(s) = bytes + (active * time(s) / T + matrix / s) * g(s)

A cap finds for each kind of kernel the highest clock at which idle and energy(s) / time(s) are
within it; where the lowest clock does not do, kernels are made to wait until they are.  So no mix
of kernels draws more than the cap, and a lower clock or cap is never faster.

Estimates: B is at the sheet's rate, so that a kernel whose reads need the core clock too loses more
than a part of what is said here; the split of energy is the fitted one (`cost.energy`); limiters
average over milliseconds, so a step that mixes kernels above and below the cap loses less.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np

from forerun.cost.efficiency import LINK_J_PER_BYTE
from forerun.cost.energy import Power, power
from forerun.cost.power_cap import drawn_at, lowest
from forerun.cost.table import CostTable, Work
from forerun.errors import SpecError
from forerun.spec.device import Device

PARTS = tuple(f.name for f in fields(Work))


@dataclass(frozen=True, eq=False)
class Kernels:
    """One part of a table at full clock: seconds of each device that works, joule of all.

    Arrays have the part's shape.
    """

    time_s: np.ndarray
    kept_s: np.ndarray  # of it, that no clock changes
    kept_j: np.ndarray  # energy of bytes
    active_j: np.ndarray
    matrix_j: np.ndarray

    def at(self, s: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(seconds, joule above idle) at a clock."""
        time = self.kept_s + (self.time_s - self.kept_s) / s
        longer = np.divide(time, self.time_s, out=np.ones_like(time), where=self.time_s > 0)
        drawn = drawn_at(s)
        return time, self.kept_j + (self.active_j * longer + self.matrix_j / s) * drawn


def at_clock(
    table: CostTable, device: Device, clock: float = 1.0, cap_w: float | None = None,
    *, held_s: np.ndarray | None = None,
) -> CostTable:  # fmt: skip
    """The table of a replica whose devices run at a share of their highest clock, under a cap each.

    A table that is slowed already is taken at full clock first.  held_s : of `tokens`, that no
    clock changes (waits for the host).  A setting that changes nothing gives the table at full
    clock itself.  Raises SpecError for what `check_setting` says.
    """
    free = table.free or table
    check_setting(device, clock, cap_w)
    if cap_w is not None and cap_w >= device.tdp_w:
        cap_w = None  # the device's own limit, which times and energies have in them
    if clock == 1 and cap_w is None:
        return free
    parts = {name: _part(free, device, name, clock, cap_w, held_s) for name in PARTS}
    if all(
        np.array_equal(now, getattr(work, name))
        for name, both in parts.items()
        for now, work in zip(both, (free.time_s, free.energy_j), strict=True)
    ):
        return free
    ratio = _ratio(parts["decode"][0], free.time_s.decode)
    draft = free.draft
    if draft is not None and not free.draft_apart:
        draft = at_clock(draft, device, clock, cap_w)
    branch = free.branch
    if branch is not None and not free.branch_apart:
        branch = at_clock(branch, device, clock, cap_w)
    return replace(
        free,
        time_s=Work(**{name: time for name, (time, _) in parts.items()}),
        energy_j=Work(**{name: joule for name, (_, joule) in parts.items()}),
        mixed_decode=None if free.mixed_decode is None else free.mixed_decode * ratio,
        mixed_cross_s=free.mixed_cross_s * float(ratio.max(initial=1.0)),
        draft=draft,
        branch=branch,
        free=free,
    )


def check_setting(device: Device, clock: float = 1.0, cap_w: float | None = None) -> None:
    """Raises SpecError for a clock or a cap that the device cannot be told, or cannot keep."""
    where, low = f"power of {device.name}", lowest(device)
    if not low <= clock <= 1:
        least, most = (clock_words(device, share) for share in (low, 1.0))
        what = f"a clock of {clock_words(device, clock)} is outside its range, {least} to {most}"
        raise SpecError.one(where, what, f"a clock within it{_unsaid(device)}")
    if cap_w is None:
        return
    p = power(device)
    least_w = least_cap_w(device)
    if cap_w <= p.idle_w:
        what = f"a cap of {cap_w:.0f} W is not above what it draws idle, {p.idle_w:.0f} W"
        raise SpecError.one(where, what, f"a cap of {least_w:.0f} W or more")
    if cap_w < least_w:
        what = f"a cap of {cap_w:.0f} W is less than it can be told or keep, {least_w:.0f} W"
        raise SpecError.one(where, what, f"a cap of {least_w:.0f} W or more")


def least_cap_w(device: Device) -> float:
    """The lowest cap of a device: what its driver takes, and what it draws busy at its lowest
    clock, whatever it does."""
    p = power(device)
    floor = p.idle_w + p.active_w * float(drawn_at(lowest(device)))
    return max(device.least_cap_w or 0.0, floor + 1.0)


def clock_words(device: Device, share: float) -> str:
    """ "1.2 GHz (61 %)", or the share alone where the device's clock is not known."""
    if device.clock_hz is None:
        return f"{share:.0%}"
    return f"{share * device.clock_hz / 1e9:.4g} GHz ({share:.0%})"


def most_w(table: CostTable) -> float:
    """The most that the devices of a replica draw over a step, idle included, watt: of steps that
    only decode, and of those that only compute one chunk, at every size and context."""
    time, joule = table.time_s, table.energy_j
    n = np.arange(1, len(time.decode))
    busiest = 0.0
    for decode in (True, False):
        drawn, taken = (
            (work.tokens[n] + work.seqs[n])[:, None] + work.decode[1:]
            if decode
            else (work.tokens[1:] + work.seqs[1])[:, None] + work.prefill[1:]
            for work in (joule, time)
        )
        power_w = np.divide(drawn, taken, out=np.zeros_like(drawn), where=taken > 0)
        busiest = max(busiest, float(power_w.max(initial=0.0)))
    return table.idle_w + table.stages * busiest


def _part(
    free: CostTable, device: Device, name: str, clock: float, cap_w: float | None,
    held_s: np.ndarray | None,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """(seconds, joule) of one part."""
    p = power(device)
    kernels = _kernels(free, p, name, held_s if name == "tokens" else None)
    s = np.full(kernels.time_s.shape, clock)
    time, joule = kernels.at(s)
    if cap_w is not None:
        most = (cap_w - p.idle_w) * free.n_devices / free.stages
        s, time, joule = _within(kernels, p, free, clock, most, lowest(device))
    # at full clock to the last bit what it was
    same = (s == 1) & (time == kernels.time_s)
    return time, np.where(same, getattr(free.energy_j, name), joule)


def _kernels(free: CostTable, p: Power, name: str, held_s: np.ndarray | None) -> Kernels:
    T, E = getattr(free.time_s, name), getattr(free.energy_j, name)
    moved, sent = getattr(free.hbm_bytes, name), getattr(free.link_bytes, name)
    busy = free.n_devices / free.stages  # devices that work on one batch at a time
    kept = moved / (p.device.hbm_bytes_per_s * busy)
    kept = np.minimum(kept if held_s is None else kept + held_s, T)
    kept_j = np.minimum(moved * p.j_per_byte + sent * LINK_J_PER_BYTE, E)
    active_j = np.minimum(p.active_w * busy * T, E - kept_j)
    return Kernels(T, kept, kept_j, active_j, E - kept_j - active_j)


def _within(
    kernels: Kernels, p: Power, free: CostTable, clock: float, most_w: float, least: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Clock, time and energy of each kind at the highest clock that draws most_w above idle or
    less."""
    shape = kernels.time_s.shape

    def fits(s: np.ndarray) -> np.ndarray:
        time, joule = kernels.at(s)
        return joule <= most_w * time

    low, high = np.full(shape, least), np.full(shape, clock)
    free_of_it = fits(high)
    for _ in range(40):
        middle = (low + high) / 2
        ok = fits(middle)
        low, high = np.where(ok, middle, low), np.where(ok, high, middle)
    s = np.where(free_of_it, clock, low)
    time, joule = kernels.at(s)
    # the lowest clock draws too much: kernels wait, active but for their bytes and flop
    waits = joule > most_w * time * (1 + 1e-12)
    if waits.any():
        active_w = p.active_w * free.n_devices / free.stages * float(drawn_at(least))
        work_j = kernels.kept_j + kernels.matrix_j / s * drawn_at(s)
        longer = np.maximum(work_j / max(most_w - active_w, 1e-9), time)
        time = np.where(waits, longer, time)
        joule = np.where(waits, np.minimum(work_j + active_w * longer, most_w * longer), joule)
    return s, time, joule


def _ratio(after: np.ndarray, before: np.ndarray) -> np.ndarray:
    return np.divide(after, before, out=np.ones_like(after), where=before > 0)


def _unsaid(device: Device) -> str:
    missing = [n for n in ("clock_hz", "least_clock_hz") if getattr(device, n) is None]
    return f", or {' and '.join(missing)} in its device file" if missing else ""
