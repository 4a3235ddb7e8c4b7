"""Operators that only move data: norms, activations, rotary positions, cache writes, residuals."""

from __future__ import annotations

from dataclasses import dataclass

from forerun.ops.counts import Array, Counts


def elementwise(
    n_tokens: Array, *, read: float, write: float, flop: float = 0.0, kv_bytes: float = 0.0
) -> Counts:
    """Flop and bytes per token of a kernel that reads and writes whole activations.

    bytes = T * (read + write) + T * kv_bytes        # read, write, kv_bytes: bytes a token
    flop  = T * flop
    """
    return Counts(
        flop=1.0 * n_tokens * flop,
        activation_bytes=1.0 * n_tokens * (read + write),
        kv_bytes=1.0 * n_tokens * kv_bytes,
    )


@dataclass(frozen=True)
class Elementwise:
    """Bytes and flop a token; `kernels` launches an instance.  `params` are small vectors."""

    read: float
    write: float
    flop: float = 0.0
    kv_bytes: float = 0.0  # written to the KV cache
    kernels: int = 1
    params: float = 0.0

    @property
    def stored_bytes(self) -> float:
        return 2.0 * self.params

    def counts(self, n_tokens: Array) -> Counts:
        return elementwise(
            n_tokens, read=self.read, write=self.write, flop=self.flop, kv_bytes=self.kv_bytes
        )


def norm(width: int, *, act_bytes: float = 2.0) -> Elementwise:
    """Fused residual add and RMS norm over D = width.

    read x and residual, write normed x and residual: 4 D values; 5 flop a value
    (add, square, sum, scale, weight)
    """
    return Elementwise(
        read=2 * width * act_bytes, write=2 * width * act_bytes, flop=5.0 * width, params=width
    )


def activation(inter: int, *, gated: bool, act_bytes: float = 2.0) -> Elementwise:
    """SiLU (gated: times the up half) over F = inter; about 5 flop a value.

    read F (2 F when gated), write F
    """
    return Elementwise(
        read=(2 if gated else 1) * inter * act_bytes, write=inter * act_bytes, flop=5.0 * inter
    )


def rope_and_cache(
    q_width: float, k_width: float, v_width: float, *, kv_bytes: float, rope: bool = True,
    act_bytes: float = 2.0,
) -> Elementwise:  # fmt: skip
    """Rotate q and k in place, then write k and v to the cache: two kernels.

    rope : read and write q and k, 3 flop a value
    cache: read k and v (activations), write k and v (kv_bytes an element)
    """
    turned = (q_width + k_width) if rope else 0.0
    stored = k_width + v_width
    return Elementwise(
        read=(turned + stored) * act_bytes, write=turned * act_bytes, flop=3.0 * turned,
        kv_bytes=stored * kv_bytes, kernels=int(rope) + int(stored > 0),
    )  # fmt: skip


def quantise_cache(
    k_width: float, v_width: float, *, kv_bytes: float, old_k: float, old_v: float
) -> Elementwise:
    """Write cached keys and values anew in a narrower format, once for each token.

    read (K + V) kv_bytes, write K old_k + V old_v; 5 flop a value (least, largest, scale, round)
    """
    return Elementwise(
        read=(k_width + v_width) * kv_bytes, write=0.0, flop=5.0 * (k_width + v_width),
        kv_bytes=k_width * old_k + v_width * old_v,
    )  # fmt: skip
