"""Matrix products with a weight: every projection of a transformer."""

from __future__ import annotations

from dataclasses import dataclass

from forerun.ops.counts import Array, Counts
from forerun.spec.dtype import WEIGHT_BYTES


def matmul(
    m: Array, *, n: int, k: int, weight_bytes: float = 2.0, in_bytes: float = 2.0,
    out_bytes: float = 2.0, batch: int = 1,
) -> Counts:  # fmt: skip
    """Flop and bytes of Y[m, n] = X[m, k] W[k, n], `batch` times with weights of their own.

        flop  = 2 * batch * m * n * k
        bytes = batch * (n*k*weight_bytes + m*k*in_bytes + m*n*out_bytes)

    Every operand passes the main memory once; m = 0 computes nothing and reads nothing.
    """
    runs = (m > 0) * 1.0
    return Counts(
        flop=2.0 * batch * m * n * k,
        weight_bytes=runs * batch * n * k * weight_bytes,
        activation_bytes=1.0 * batch * m * (k * in_bytes + n * out_bytes),
    )


@dataclass(frozen=True)
class Matmul:
    """A weight of n outputs by k inputs in `dtype`; `batch` of them side by side (per head).

    Converting activations to `in_bytes` is part of the product: its time is in what
    cost.families.gemm says, as in what engines' products measure.
    """

    n: int
    k: int
    dtype: str = "bf16"
    in_bytes: float = 2.0
    batch: int = 1
    bias: bool = False
    stored: bool = True  # False for a weight that is stored elsewhere (a tied LM head)

    @property
    def params(self) -> float:
        return float(self.batch * (self.n * self.k + (self.n if self.bias else 0)))

    @property
    def stored_bytes(self) -> float:
        if not self.stored:
            return 0.0
        bias = 2.0 * self.batch * self.n if self.bias else 0.0
        return self.batch * self.n * self.k * WEIGHT_BYTES[self.dtype] + bias

    def counts(self, m: Array) -> Counts:
        return matmul(
            m, n=self.n, k=self.k, batch=self.batch,
            weight_bytes=WEIGHT_BYTES[self.dtype], in_bytes=self.in_bytes,
        )  # fmt: skip
