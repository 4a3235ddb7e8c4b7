"""`Device` and `Link`: what computes and what connects, as their makers state it."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from forerun.spec.base import Spec

#: formats a data sheet states a peak for ("fp4" covers nvfp4 and mxfp4)
Peak = Literal["fp64", "fp32", "tf32", "bf16", "fp16", "fp8", "int8", "fp6", "fp4", "int4"]


class Link(Spec):
    """A connection between devices, one direction.

    Rates are what a long transfer sees, after encoding overhead.
    """

    name: str
    kind: Literal["scale-up", "pcie", "network", "die"]
    bandwidth_bytes_per_s: float = Field(gt=0)
    latency_s: float = Field(ge=0)
    source: str  # where the numbers are from: URL or paper key, with date


class Device(Spec):
    """One accelerator or one server processor, as its data sheet states it.

    Peaks are dense (no sparsity), at boost clock.  `sources` maps a field's name to where its
    number is from; the key "" covers the fields not named.  A number nobody publishes is absent
    (None), not guessed; one that we had to estimate says so in its source.
    """

    unitless: ClassVar[frozenset[str]] = frozenset({"aliases"})

    name: str
    vendor: str
    kind: Literal["gpu", "tpu", "npu", "cpu", "soc"]
    year: int
    aliases: tuple[str, ...] = ()
    architecture: str = ""  # "hopper", "ada", "cdna3": groups devices that behave alike
    peak_flop_per_s: dict[Peak, float]  # dense
    hbm_bytes: float = Field(gt=0)  # main memory of the device, whatever its technology
    hbm_bytes_per_s: float = Field(gt=0)
    memory: str = ""  # "HBM3", "GDDR6X", "LPDDR5X", "DDR5-4800 x 12"
    n_sm: int | None = None  # streaming multiprocessors, compute units, cores
    l2_bytes: float | None = None  # last-level on-chip memory
    clock_hz: float | None = None  # boost
    least_clock_hz: float | None = Field(default=None, gt=0)  # that its driver can be told
    tdp_w: float = Field(gt=0)
    idle_w: float | None = None
    least_cap_w: float | None = Field(default=None, gt=0)  # power limit that its driver takes
    scale_up: str | None = None  # link between devices of a node, a name in catalog/links
    topology: Literal["none", "pcie", "pairs", "mesh", "switch", "torus2d", "torus3d"] = "none"
    devices_per_node: int = Field(default=1, ge=1)
    scale_up_domain: int | None = None  # devices in one scale-up domain when larger than a node
    host_link: str | None = None  # link to host memory
    network: str | None = None  # the usual network link of one device
    sources: dict[str, str]

    def source_of(self, field: str) -> str:
        """Where a number is from."""
        return self.sources.get(field, self.sources.get("", "unknown"))
