"""A part of a device: what operators take on a share of its SMs, alone or beside others.

An operator that is bound by arithmetic takes 1/share as long; one that is bound by memory takes as
long as on the whole device until the SMs left cannot ask for more bytes.  With c and m the seconds
of its arithmetic and of its bytes at the device's peaks, of which it reaches the efficiency it has
on the whole device,

    time(part) = time * max(c / flop, m / hbm) / max(c, m)

Launches, links and host terms stay.  Uneven waves of tiles on fewer SMs are not looked at.

SMs: one SM takes at most `SM_BYTES_PER_CLOCK` from the last-level cache, so n of them at clock f
ask for at most n * SM_BYTES_PER_CLOCK * f of the memory.  NVIDIA gives 5120 B/clk for the 108 SMs
of an A100 (A100 Tensor Core GPU Architecture, whitepaper V1.0, 2020: "L2 cache read bandwidth"):
28 % of the SMs ask for its 1.94 TB/s.  Other devices are taken alike: an estimate.  Nexus (arXiv
2507.06608) and semi-PD (arXiv 2504.19867) report the same kind of curve: beyond some share of the
SMs decoding gains next to nothing.

Memory: an operator beside another share of the device has at least half of the memory rate, and
what the other does not take on average (max-min).  So it is slowed down while it wants the memory,
also where its step as a whole wants little of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from forerun.cost.generic import peak_flop_per_s
from forerun.cost.table import CostTable, grid
from forerun.ops.check import math_format
from forerun.spec.device import Device

SM_BYTES_PER_CLOCK = 5120 / 108
#: of the SMs that fill the memory, where a device says neither how many it has nor their clock
USUAL_KNEE = 0.28


@dataclass(frozen=True)
class Part:
    """Shares of a device's arithmetic and of its memory rate, 0 to 1."""

    flop: float = 1.0
    hbm: float = 1.0


def hbm_share(device: Device, share: float) -> float:
    """The most of the memory rate that a share of the SMs can ask for."""
    if device.n_sm is None or device.clock_hz is None:
        return min(1.0, share / USUAL_KNEE)
    asked = share * device.n_sm * SM_BYTES_PER_CLOCK * device.clock_hz
    return min(1.0, asked / device.hbm_bytes_per_s)


def longer(counts: Any, device: Device, dtype: str, part: Part) -> Any:
    """By what factor an operator of these counts takes longer on a part of the device."""
    compute = np.asarray(counts.flop) / peak_flop_per_s(device, math_format(device, dtype) or dtype)
    memory = np.asarray(counts.hbm_bytes) / device.hbm_bytes_per_s
    whole = np.maximum(compute, memory)
    here = np.maximum(compute / part.flop, memory / part.hbm)
    return np.where(whole > 0, here / np.where(whole > 0, whole, 1.0), 1.0)


def alone(device: Device, share: float) -> Part:
    """A share of the SMs, with the memory to itself."""
    return Part(share, hbm_share(device, share))


def beside(part: Part, share: float, other_share: float, other: float, most: float) -> Part:
    """What is left of `part` (a share of the SMs) while another share works too.

    other : bytes a second that the other moves alone, on average; most : that the device is seen to
    give.  Shares that are more than the device together get their part of it.
    """
    crowd = max(1.0, share + other_share)
    left = max(0.5, 1.0 - other / most) if most > 0 else 1.0
    return Part(part.flop / crowd, min(part.hbm, left))


def prompt_bytes_per_s(table: CostTable) -> float:
    """Bytes a second of a step that computes a prompt of as many tokens as a step has."""
    n, g = table.max_tokens, len(grid(table.max_tokens)) - 1
    moved, time = (
        work.tokens[g] + work.seqs[1] + work.prefill[g, 0]
        for work in (table.hbm_bytes, table.time_s)
    )
    return float(moved / time) if n and time > 0 else 0.0


def answer_bytes_per_s(table: CostTable, seqs: int = 32, ctx: int = 1024) -> float:
    """Bytes a second of a step of usual answers (those that a table's shares are of)."""
    n = min(seqs, table.max_seqs)
    k = int(np.searchsorted(table.knots_ctx, min(ctx, int(table.knots_ctx[-1])), side="right")) - 1
    moved, time = (
        work.tokens[n] + work.seqs[n] + work.decode[n, k]
        for work in (table.hbm_bytes, table.time_s)
    )
    return float(moved / time) if time > 0 else 0.0
