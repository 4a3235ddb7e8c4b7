"""Power caps and clocks: what a cap does to the time and power of work that is known without one.

A cap makes the limiter lower the core clock s (1 at the clock without a cap) until

    idle + (P_b - idle) (w s + (1 - w) s^k) <= cap

w s is power at the lowest voltage, where it grows with the clock alone; s^k is what raising the
voltage adds.  Work is busy for a part u of its time, at P_b, and waits at idle for the rest (for
data, the host, other devices); from its mean power P without a cap

    P_b = min(P + burst (P - idle), limit),    u = (P - idle) / (P_b - idle)
    time(cap) / time = u / s + 1 - u

A lower cap is never faster and never draws more.  Decoding waits for memory, whose clock a cap
leaves alone: it loses less time than this says, by how much no metered run here tells.
"""

from __future__ import annotations

import functools

import numpy as np
from pydantic import Field, ValidationError

from forerun.cost.energy import SHIPPED, power, user_folder
from forerun.errors import SpecError
from forerun.ops.counts import Array
from forerun.spec import yaml
from forerun.spec.base import Spec
from forerun.spec.bridge import problems_of
from forerun.spec.device import Device

PLACE = "caps/any.yaml"  # in a folder of power curves
#: of the boost clock, where a device's file does not say how low it goes: an estimate, the highest
#: of the shares of V100 (135 of 1,380 MHz), A100 (210 of 1,410) and H100 (210 of 1,980)
LOWEST = 0.15


class CapCurve(Spec):
    """How power follows the clock, as fitted to jobs that ran under several caps."""

    linear: float = Field(ge=0, le=1)  # w
    exponent: float = Field(ge=1)  # k
    burst: float = Field(ge=0)
    origin: str
    licence: str
    devices: tuple[str, ...]  # catalog names
    rows: int = Field(ge=1)
    date: str
    #: |predicted / measured - 1| on what the fit did not see: networks, caps, devices left out
    error: dict[str, float] = {}


@functools.cache
def curve() -> CapCurve:
    """The user's own curve, or that which ships.  Raises SpecError with every mistake in it."""
    own = user_folder() / PLACE
    source, name = yaml.read_text(str(own if own.exists() else SHIPPED / PLACE))
    root = yaml.parse(source, name)
    try:
        return CapCurve.model_validate(root.plain(), context={"file": True})
    except ValidationError as error:
        raise SpecError(*problems_of(error, root, CapCurve)) from None


def capped(
    time_s: Array, power_w: Array, cap_w: Array, device: Device, *, by: CapCurve | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """(seconds, mean W) of one device under a cap, of work that takes time_s at power_w without.

    A cap at or above the device's TDP changes nothing; below the idle draw there is nothing to
    lower, so such a cap is refused, as is one that the lowest clock does not meet.  Raises
    SpecError.
    """
    by = by or curve()
    p = power(device)
    cap = np.asarray(cap_w, dtype=float)
    if np.any(cap <= p.idle_w):
        what = f"{np.min(cap):.0f} W is not above what {device.name} draws idle, {p.idle_w:.0f} W"
        raise SpecError.one("power cap", what, f"a cap between that and {device.tdp_w:.0f} W")
    low = lowest(device)
    drawn = np.maximum(np.asarray(power_w, dtype=float) - p.idle_w, 1e-9)
    busy_w = np.clip(drawn * (1 + by.burst), None, np.maximum(device.tdp_w - p.idle_w, drawn))
    u = drawn / busy_w
    least_w = p.idle_w + busy_w * drawn_at(low, by)
    if np.any(cap < least_w):
        what = (
            f"{np.min(cap):.0f} W is less than the {np.max(least_w):.0f} W that this work draws on "
            f"{device.name} at its lowest clock, {low:.0%} of the highest"
        )
        raise SpecError.one("power cap", what, f"a cap of {np.max(least_w):.0f} W or more")
    s = clock(np.minimum((cap - p.idle_w) / busy_w, 1.0), by, least=low)
    s = np.where(cap >= device.tdp_w, 1.0, s)
    stretch = u / s + 1 - u
    above = busy_w * drawn_at(s, by) * u / s / stretch
    return np.asarray(time_s, dtype=float) * stretch, p.idle_w + above


def drawn_at(clock_share: Array, by: CapCurve | None = None) -> np.ndarray:
    """Power above idle at a clock, as a share of that at the full clock: w s + (1 - w) s^k."""
    by, s = by or curve(), np.asarray(clock_share, dtype=float)
    return by.linear * s + (1 - by.linear) * s**by.exponent


def lowest(device: Device) -> float:
    """The lowest clock of a device as a share of its highest: `least_clock_hz` over `clock_hz`."""
    if device.least_clock_hz is None or device.clock_hz is None:
        return LOWEST
    return device.least_clock_hz / device.clock_hz


def clock(
    drawn_share: Array, by: CapCurve | None = None, *, least: float | None = None
) -> np.ndarray:
    """The clock at which a share of the power above idle is drawn; the inverse of `drawn_at`.

    least : the lowest clock there is.  Raises SpecError for a share that no clock draws so little.
    """
    by, wanted = by or curve(), np.asarray(drawn_share, dtype=float)
    floor = LOWEST if least is None else least
    least_share = float(drawn_at(floor, by))
    if np.any(wanted < least_share * (1 - 1e-9)):
        what = (
            f"{np.min(wanted):.1%} of the power above idle is less than the {least_share:.1%} "
            f"drawn at the lowest clock, {floor:.0%} of the highest"
        )
        raise SpecError.one("power cap", what, "more power")
    low, high = np.full(wanted.shape, floor), np.ones(wanted.shape)
    for _ in range(40):  # halves 0.95 to below 1e-12
        middle = (low + high) / 2
        less = drawn_at(middle, by) < wanted
        low, high = np.where(less, middle, low), np.where(less, high, middle)
    return high
