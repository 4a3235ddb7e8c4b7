"""How much of its data sheet a device delivers before anything is calibrated: a table with reasons.

Shares of peak that well-tuned kernels reach, by architecture.  A number is either from a published
measurement (named in `SOURCE`) or an estimate, and says which.  Calibrations replace all of them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from forerun.spec.device import Device


@dataclass(frozen=True)
class Efficiency:
    """Shares of peak (0 to 1) and times of one kind of device."""

    gemm: float  # of the matrix peak, large well-shaped products
    attention: float  # of the 16-bit matrix peak, long causal prefill, head width 128
    stream: float  # of memory bandwidth, long streams (weights)
    gather: float  # of memory bandwidth, paged reads and element-wise kernels
    launch_s: float  # least time between the starts of two dependent kernels
    rows: int  # rows the matrix unit computes at least
    source: str


#: "MAMF" below: maximum achievable matmul measured by stas00/ml-engineering, compute/accelerator,
#: "Maximum Achievable Matmul FLOPS comparison table" (read 2026-11): A100 SXM 85.9 %, H100 SXM
#: 80.1 %, MI250X 76.7 %, MI300X 60.1 % of the bf16 peak, B200 77.6 %.  It is the best over shapes;
#: 0.95 of it stands for a typical large product.
_MAMF = "gemm: 0.95 of MAMF (stas00/ml-engineering); "
_FA2 = "attention: FlashAttention-2 paper fig. 5, causal forward, 0.55-0.6 of A100 peak; "
_FA3 = "attention: FlashAttention-3 paper fig. 5, causal forward, 0.5-0.65 of H100 peak; "
_REST = (
    "stream, gather, launch: estimates (streams reach about 0.9 of the sheet, graph replay 2-3 us)"
)
_EST = "all: estimates, no measurement read"
_EAGER = "; engines on these devices replay no graphs, so launches are the host's"
#: cards that a slot alone feeds do not hold their clocks under matrix load: estimate
SLOT_W, SLOT_SHARE = 75.0, 0.7

BY_ARCHITECTURE: dict[str, Efficiency] = {
    "pascal": Efficiency(0.75, 0.30, 0.80, 0.65, 4.0e-6, 16, _EST),
    "volta": Efficiency(0.75, 0.40, 0.88, 0.70, 3.0e-6, 16, _EST),
    "turing": Efficiency(0.65, 0.35, 0.85, 0.65, 3.0e-6, 16, _EST + "; T4 and its kin throttle"),
    "ampere": Efficiency(0.80, 0.57, 0.90, 0.80, 2.5e-6, 16, _MAMF + _FA2 + _REST),
    "ada": Efficiency(0.75, 0.50, 0.90, 0.80, 2.5e-6, 16, _EST),
    "hopper": Efficiency(0.76, 0.60, 0.90, 0.85, 2.5e-6, 64, _MAMF + _FA3 + _REST),
    "blackwellrtx": Efficiency(0.75, 0.50, 0.90, 0.80, 2.5e-6, 16, _EST + " (as ada)"),
    "blackwell": Efficiency(0.74, 0.60, 0.90, 0.85, 2.5e-6, 64, _MAMF + _REST + "; attention est."),
    "rubin": Efficiency(0.74, 0.60, 0.90, 0.85, 2.5e-6, 64, _EST + " (as blackwell)"),
    "cdna2": Efficiency(0.73, 0.35, 0.80, 0.60, 4.0e-6, 16, _MAMF + "rest: estimates"),
    "cdna3": Efficiency(0.57, 0.35, 0.80, 0.65, 4.0e-6, 16, _MAMF + "rest: estimates"),
    "cdna4": Efficiency(0.60, 0.38, 0.80, 0.65, 4.0e-6, 16, _EST),
    "xehpc": Efficiency(0.60, 0.30, 0.75, 0.60, 12.0e-6, 16, _EST + _EAGER),
    "xe2": Efficiency(0.65, 0.30, 0.80, 0.60, 12.0e-6, 16, _EST + _EAGER),
}  # fmt: skip

BY_KIND: dict[str, Efficiency] = {
    "gpu": Efficiency(0.70, 0.40, 0.85, 0.65, 3.0e-6, 16, _EST),
    # one compiled program a step: operators follow each other without launches
    "tpu": Efficiency(0.80, 0.45, 0.85, 0.70, 0.5e-6, 8, _EST),
    "npu": Efficiency(0.75, 0.40, 0.80, 0.60, 2.0e-6, 8, _EST),
    "soc": Efficiency(0.70, 0.35, 0.80, 0.65, 5.0e-6, 8, _EST),
    "cpu": Efficiency(0.50, 0.30, 0.75, 0.60, 5.0e-6, 4, _EST + "; launch is a thread barrier"),
}  # fmt: skip


def efficiency(device: Device) -> Efficiency:
    """The row for a device: by the start of its architecture's name, else by its kind."""
    name = device.architecture.lower().replace(" ", "").replace("-", "")
    known = (row for key, row in BY_ARCHITECTURE.items() if name.startswith(key))
    row = next(known, BY_KIND[device.kind])
    if device.kind == "gpu" and device.tdp_w and device.tdp_w <= SLOT_W:
        return replace(row, gemm=row.gemm * SLOT_SHARE, attention=row.attention * SLOT_SHARE)
    return row


#: share of a link's rate that long collectives reach: estimate (NCCL bus bandwidth over link rate)
LINK = 0.80
#: the same over PCI Express, where packets and the root complex take more: estimate
PCIE_LINK = 0.65
#: the same for reduction in the switch (NVLS): estimate
SWITCH_LINK = 0.65
#: start of one collective beyond the link's own latency, kernel and synchronisation: estimates for
#: one-shot kernels that share memory, and for ring and tree libraries (an all-reduce of a few bytes
#: by NCCL takes some 10 to 20 us on 2 to 8 devices)
DIRECT_START_S = 4.0e-6
LIBRARY_START_S = 10.0e-6
#: messages of a library's collective up to this size travel at half the rate: estimate
RAMP_BYTES = 8e6
#: tokens of keys one block of a split decode kernel takes (FlashDecoding): estimate
SPLIT_TOKENS = 256
#: tokens of keys a kernel takes at once, so the least a head and request cost: FlashAttention's
#: tiles are 64 to 176 wide
KEY_TILE = 128

#: joule a byte over a link: 5 pJ/bit scale-up, estimate
LINK_J_PER_BYTE = 40e-12
#: idle draw as a share of TDP where the catalog knows none: estimate
IDLE_SHARE = 0.15
