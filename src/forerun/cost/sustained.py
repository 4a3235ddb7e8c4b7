"""What share of a peak a device sustains: whole waves of large tiles, within its power limit.

Peaks are stated at the boost clock, which a card keeps only while its limit lets it.

    share = FULL * min(1, (tdp - fixed) / (flop/s of the peak * e)) ** CLOCK_BY_POWER
    e     = e_1 * (boost clock / 1 GHz)^1.8 * narrow        J a flop, its operands on chip included
    fixed = 10 W + 12 % of tdp                              memory, links, leakage, conversion

e_1 is of a process and of what makes a flop (a lane or a matrix unit); cards that one architecture
sells at low clocks, with few units, or with wide limits then differ as they do.  Power falls with
the clock, and with the voltage until that is at its lowest: between linear and cubic.

e_1 of matrix units makes a device of the architecture sustain 0.95 of its "maximum achievable
matmul" in 16 bits (MAMF, stas00/ml-engineering, compute/accelerator, read 2026-11): A100 SXM 85.9 %
of its peak, H100 SXM 80.1 %, B200 77.6 %, MI250X 76.7 %, MI300X 60.1 %.  It then says 0.79 of RTX
A6000 (0.74 was measured) and, a process of the same age, 0.77 of RTX PRO 6000 (0.78).  Limits
matter less to MAMF, whose products are short, than here: 0.95 of it is 0.71 for GB200, 0.75 for
B300, 0.80 for GH200 and 0.78 for A100 PCIe of 300 W, and here 0.75, 0.84, 0.93 and 0.64.

Estimates: 7 pJ a lane's fp32 flop gives T4 (0.4 of 8.1 Tflop/s at 70 W) and leaves V100, P100 and
P4 free; the others by the age of their process.  FULL: H20, RTX 3090, Arc Pro B60, V100 and P100,
which have power to spare, reach 0.91 to 0.97.
"""

from __future__ import annotations

from forerun.spec.device import Device

FULL = 0.93
#: of CDNA: its kernels reach less than that where no limit binds (estimate)
FULL_CDNA = 0.80
FIXED_W, FIXED_SHARE = 10.0, 0.12
CLOCK_POWER = 1.8
CLOCK_BY_POWER = 0.8
#: J a flop at 1 GHz, of 16-bit matrix units and of fp32 lanes, by the start of an architecture
MATRIX_J: dict[str, float] = {
    "volta": 1.0e-12, "turing": 1.0e-12, "ampere": 0.70e-12, "ada": 0.23e-12,
    "hopper": 0.23e-12, "blackwellrtx": 0.23e-12, "blackwell": 0.15e-12, "rubin": 0.075e-12,
    "cdna1": 0.9e-12, "cdna2": 0.53e-12, "cdna3": 0.21e-12, "cdna4": 0.16e-12, "xe2": 0.23e-12,
}  # fmt: skip
LANE_J: dict[str, float] = {
    "pascal": 7e-12, "volta": 7e-12, "turing": 7e-12, "ampere": 3.5e-12, "ada": 1.0e-12,
    "hopper": 1.0e-12, "blackwell": 1.0e-12, "cdna1": 3.5e-12, "cdna2": 2.5e-12,
    "cdna3": 1.0e-12, "cdna4": 1.0e-12, "xe2": 1.0e-12,
}  # fmt: skip
#: J a flop of a format over that of 16 bits: operands of half the width, half the multiplier
NARROW: dict[str, float] = {
    "tf32": 2.0, "bf16": 1.0, "fp16": 1.0, "fp8": 0.57, "int8": 0.57, "fp6": 0.57, "fp4": 0.33,
    "int4": 0.33,
}  # fmt: skip


def sustained(device: Device, used: str) -> float | None:
    """Share of the peak of a format that large products reach, 0 to 1; None where nothing is known
    of the device's flops, which then has what its architecture has (`efficiency`)."""
    if device.kind != "gpu" or not device.clock_hz or used not in device.peak_flop_per_s:
        return None
    name = device.architecture.lower().replace(" ", "").replace("-", "")
    table, narrow = (MATRIX_J, NARROW[used]) if used in NARROW else (LANE_J, 1.0)
    one = next((j for key, j in table.items() if name.startswith(key)), None)
    if one is None:
        return None
    flop_j = one * narrow * (device.clock_hz / 1e9) ** CLOCK_POWER
    spare = device.tdp_w * (1 - FIXED_SHARE) - FIXED_W
    full = FULL_CDNA if name.startswith("cdna") else FULL
    return full * min(1.0, spare / (device.peak_flop_per_s[used] * flop_j)) ** CLOCK_BY_POWER
