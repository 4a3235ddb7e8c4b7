"""Dynamic energy of operators from the data sheet: shares of (TDP - idle) by flop and byte."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from forerun.cost.efficiency import (
    BYTE_POWER,
    FLOP_POWER,
    IDLE_SHARE,
    LINK_J_PER_BYTE,
    efficiency,
)
from forerun.ops.check import math_format
from forerun.ops.counts import Array
from forerun.spec.device import Device


@dataclass(frozen=True)
class Power:
    """What a device draws.

    joule a flop = FLOP_POWER (tdp - idle) / sustained matrix rate of the format
    joule a byte = BYTE_POWER (tdp - idle) / peak memory rate
    never more than (tdp - idle) on average over an operator: the power limit holds
    """

    idle_w: float
    span_w: float  # tdp - idle
    j_per_byte: float
    device: Device
    assumed: tuple[str, ...] = ()

    def j_per_flop(self, dtype: str) -> float:
        used = math_format(self.device, dtype)
        rates = self.device.peak_flop_per_s
        peak = rates[used] if used else max(rates.values())  # type: ignore[index]
        return FLOP_POWER * self.span_w / (peak * efficiency(self.device).gemm)

    def dynamic_j(
        self, flop: Array, hbm_bytes: Array, link_bytes: Array, time_s: Array, dtype: str
    ) -> Array:
        """Joule above idle of work that takes time_s on one device."""
        spent = (
            flop * self.j_per_flop(dtype)
            + hbm_bytes * self.j_per_byte
            + link_bytes * LINK_J_PER_BYTE
        )
        return np.minimum(spent, self.span_w * time_s)


def power(device: Device) -> Power:
    """The power model of a device; idle draw is an estimate where the catalog has none."""
    assumed: tuple[str, ...] = ("energy is from TDP and idle draw by fixed shares, not measured",)
    idle = device.idle_w
    if idle is None:
        idle = IDLE_SHARE * device.tdp_w
        assumed += (f"idle draw of {device.name} is not known: {IDLE_SHARE:.0%} of its TDP",)
    span = max(0.0, device.tdp_w - idle)
    return Power(idle, span, BYTE_POWER * span / device.hbm_bytes_per_s, device, assumed)
