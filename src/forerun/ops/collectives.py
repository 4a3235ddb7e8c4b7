"""What devices say to each other: message sizes and bytes on the wire."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from forerun.ops.counts import Array, expected_distinct

Kind = Literal["all_reduce", "all_gather", "reduce_scatter", "all_to_all", "send_recv"]


def wire_bytes(kind: Kind, message: Array, n: int) -> Array:
    """Bytes each of n devices sends; `message` as nccl-tests counts it.

        all_reduce      2 (n-1)/n S     S the buffer being reduced
        all_gather        (n-1)/n S     S the whole gathered buffer
        reduce_scatter    (n-1)/n S     S the whole scattered buffer
        all_to_all        (n-1)/n S     S the send buffer of one device
        send_recv               S

    The least any algorithm moves when every device computes; in-network reduction halves the first.
    """
    if kind == "send_recv":
        return 1.0 * message
    share = (n - 1) / n
    return (2.0 if kind == "all_reduce" else 1.0) * share * message


def devices_visited(n_devices: int, *, n_experts: int, topk: int) -> float:
    """Expected number of devices that hold at least one of a token's topk experts.

    ep * (1 - (1 - topk/E)**(E/ep))          # uniform routing
    """
    return float(expected_distinct(n_devices, topk / n_experts, n_experts / n_devices))


@dataclass(frozen=True)
class Collective:
    """A collective of `n` devices, `stride` apart in the replica's numbering.

    The message is `bytes_per` for every unit of the axis that drives it (token or sequence).
    """

    kind: Kind
    n: int
    bytes_per: float
    stride: int = 1
    params: float = 0.0
    stored_bytes: float = 0.0

    def message(self, n_units: Array) -> Array:
        return self.bytes_per * n_units

    def sent(self, n_units: Array) -> Array:
        """Bytes one device puts on the wire."""
        return wire_bytes(self.kind, self.message(n_units), self.n)
