"""Convolutions, and products over as many rows a unit: what images and their latents go through."""

from __future__ import annotations

from dataclasses import dataclass

from forerun.ops.counts import Array, Counts
from forerun.spec.dtype import WEIGHT_BYTES


@dataclass(frozen=True)
class Conv:
    """A convolution of c_in to c_out channels over `taps` neighbours, at `spread` places a unit.

        flop  = 2 u spread taps c_in c_out
        bytes = taps c_in c_out w + u spread (c_in / stride + c_out) a

    u units (tokens, or sequences), w and a bytes of a weight and an activation; each input passes
    the main memory once (an implicit GEMM gathers its neighbours on chip).  Where it reads an image
    of half the sides, `stride` is 4.  With one tap it is a product of `spread` rows a unit.
    """

    c_out: int
    c_in: int
    taps: int = 9
    spread: float = 1.0
    stride: float = 1.0
    dtype: str = "bf16"
    act_bytes: float = 2.0

    @property
    def params(self) -> float:
        return float(self.taps * self.c_in * self.c_out + self.c_out)

    @property
    def stored_bytes(self) -> float:
        return self.params * WEIGHT_BYTES[self.dtype]

    def counts(self, units: Array) -> Counts:
        places = units * self.spread
        return Counts(
            flop=2.0 * places * self.taps * self.c_in * self.c_out,
            weight_bytes=(units > 0) * self.stored_bytes,
            activation_bytes=places * (self.c_in / self.stride + self.c_out) * self.act_bytes,
        )
