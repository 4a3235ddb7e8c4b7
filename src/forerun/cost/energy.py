"""Energy of operators: what a device draws while kernels run, by flop and by byte moved.

    P = idle + min(limit, active + j_per_byte * bytes/s + j_per_flop * flop/s + j_link * link/s)

with the four terms as shares of (tdp - idle), so that a device known by its data sheet alone has
them too:

    active        clocks, scheduling and the caches of a device on which any kernel runs
    memory        more, at the full rate of the data sheet
    matrix        more, at the full matrix rate in 16 bits; a flop in a narrower format is charged
                  the same (8-bit runs draw no less: 10.3 against 10.7 % error on models left out)
    limit         what the power limiter lets pass on average

The shares are fitted to runs whose power was metered, `power_curves/<device>.yaml`.  A device that
was not metered takes those of its architecture, else of the metered device nearest in year.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import Field, ValidationError

from forerun import catalog
from forerun.cost.efficiency import IDLE_SHARE, LINK_J_PER_BYTE
from forerun.errors import SpecError
from forerun.ops.check import math_format
from forerun.ops.counts import Array
from forerun.paths import data_dir
from forerun.spec import yaml
from forerun.spec.base import Spec
from forerun.spec.bridge import problems_of
from forerun.spec.device import Device

SHIPPED = Path(__file__).parent / "power_curves"


class PowerCurve(Spec):
    """Shares of (tdp - idle), as fitted to metered runs of one device."""

    device: str  # catalog name
    active: float = Field(ge=0)
    memory: float = Field(ge=0)
    matrix: float = Field(ge=0)
    limit: float = Field(default=1.0, gt=0, le=1)
    origin: str
    licence: str
    rows: int = Field(ge=1)
    date: str
    #: |predicted / measured - 1| of mean power on models that the fit did not see
    error: dict[str, float] = {}
    note: str = ""


@dataclass(frozen=True)
class Power:
    """What a device draws."""

    idle_w: float
    span_w: float  # tdp - idle
    active_w: float  # above idle, while a kernel runs
    j_per_byte: float
    limit_w: float  # above idle
    matrix: float
    device: Device
    source: str = ""
    assumed: tuple[str, ...] = ()

    def j_per_flop(self, dtype: str) -> float:
        """Joule of a matrix flop in a format."""
        return self.matrix * self.span_w / full_rate_flop_per_s(self.device, dtype)

    def dynamic_j(
        self, flop: Array, hbm_bytes: Array, link_bytes: Array, time_s: Array, dtype: str,
        share: float = 1.0,
    ) -> Array:  # fmt: skip
        """Joule above idle of work that takes time_s on one device, or on a share of its SMs.

        A kernel that would draw more than the limit is held to it; that it then takes longer is in
        measured times already.
        """
        spent = (
            time_s * share * self.active_w
            + flop * self.j_per_flop(dtype)
            + hbm_bytes * self.j_per_byte
            + link_bytes * LINK_J_PER_BYTE
        )
        return np.minimum(spent, self.limit_w * time_s)


def full_rate_flop_per_s(device: Device, dtype: str) -> float:
    """Rate at which a format draws the whole matrix share: its own, at most that of 16 bits."""
    rates = device.peak_flop_per_s
    used = math_format(device, dtype)
    own = rates[used] if used else max(rates.values())  # type: ignore[index]
    return min([own, *(rates[wide] for wide in ("bf16", "fp16") if wide in rates)])


@functools.cache
def power(device: Device) -> Power:
    """The power model of a device; `assumed` says what was not metered on it."""
    assumed: tuple[str, ...] = ()
    idle = device.idle_w
    if idle is None:
        idle = IDLE_SHARE * device.tdp_w
        assumed = (f"idle draw of {device.name} is not known: {IDLE_SHARE:.0%} of its TDP",)
    found = _curve(device)
    if found.device != device.name:
        what = f"energy of {device.name} was not metered: shares of its TDP as on {found.device}"
        assumed = (what, *assumed)
    span = max(0.0, device.tdp_w - idle)
    return Power(
        idle_w=idle, span_w=span, active_w=found.active * span,
        j_per_byte=found.memory * span / device.hbm_bytes_per_s, limit_w=found.limit * span,
        matrix=found.matrix, device=device, source=found.origin, assumed=assumed,
    )  # fmt: skip


def _curve(device: Device) -> PowerCurve:
    """The shares for a device: its own, its architecture's, or those of the nearest year."""
    for curve in curves():
        if curve.device == device.name:
            return curve

    def distance(curve: PowerCurve) -> tuple[bool, int]:
        other = catalog.device(curve.device)
        alike = bool(device.architecture) and other.architecture == device.architecture
        return not alike, abs(other.year - device.year)

    return min(curves(), key=distance)


def user_folder() -> Path:
    """Where curves of one's own are found by every command."""
    return data_dir() / "power_curves"


@functools.cache
def curves() -> tuple[PowerCurve, ...]:
    """What was fitted, by name of the device; the user's own stand for those that ship."""
    found = {
        path.name: path for folder in (SHIPPED, user_folder()) for path in folder.glob("*.yaml")
    }
    return tuple(read(found[name]) for name in sorted(found))


def read(path: Path) -> PowerCurve:
    """The shares in a file.  Raises SpecError with every mistake in it."""
    source, name = yaml.read_text(str(path))
    root = yaml.parse(source, name)
    try:
        return PowerCurve.model_validate(root.plain(), context={"file": True})
    except ValidationError as error:
        raise SpecError(*problems_of(error, root, PowerCurve)) from None
