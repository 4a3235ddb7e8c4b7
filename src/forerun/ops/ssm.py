"""Mixers with a state of fixed size: Mamba-2, gated delta net, lightning and Kimi attention."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from forerun.ops.counts import Array, Counts

#: flop an element of the state and token when stepping one token at a time
STEP_FLOP = {
    "mamba2": 5.0,  # decay, outer product and add, multiply-add of the read-out
    "lightning": 5.0,
    "gdn": 7.0,  # the delta rule reads the state once more before it writes
    "kda": 7.0,
}
#: tokens the scan's kernels take at once (Mamba-2's default; flash-linear-attention's for the rest)
SCAN_CHUNK = {"mamba2": 256, "lightning": 256, "gdn": 64, "kda": 64}


def state_decode(
    n_seqs: Array, *, kind: str, n_heads: int, k_dim: int, v_dim: int, state_bytes: float = 4.0
) -> Counts:
    """One token of n_seqs sequences: the state is read, updated and written.

    flop  = STEP_FLOP * B * N * H_k * H_v
    bytes = 2 * B * N * H_k * H_v * state_bytes      # independent of the context
    """
    size = n_heads * k_dim * v_dim
    return Counts(flop=STEP_FLOP[kind] * n_seqs * size, kv_bytes=2.0 * n_seqs * size * state_bytes)


def state_prefill(
    n_new: Array, *, kind: str, n_heads: int, k_dim: int, v_dim: int, state_bytes: float = 4.0,
    act_bytes: float = 2.0,
) -> Counts:  # fmt: skip
    """A chunk of one sequence by the blocked scan, blocks of C = SCAN_CHUNK tokens.

        flop  = q * N * (min(q, C) (H_k + H_v) + (STEP_FLOP - 1) H_k H_v)
                                                            # inside blocks (causal half); between
        state = 2 * N * H_k * H_v * state_bytes * (1 + q / C)    # a block's state once each way
        act   = q * N * (2 H_k + 2 H_v) * act_bytes              # q, k, v in, y out

    The context before the chunk does not matter.
    """
    C = SCAN_CHUNK[kind]
    size = n_heads * k_dim * v_dim
    runs = (np.asarray(n_new) > 0) * 1.0
    inside = np.minimum(n_new, C)
    return Counts(
        flop=1.0 * n_new * n_heads * inside * (k_dim + v_dim)
        + (STEP_FLOP[kind] - 1) * n_new * size,
        activation_bytes=1.0 * n_new * n_heads * 2 * (k_dim + v_dim) * act_bytes,
        kv_bytes=2.0 * size * state_bytes * (runs + n_new / C),
    )


@dataclass(frozen=True)
class Scan:
    """One layer's scan on one device, short convolution included."""

    kind: str
    n_heads: int
    k_dim: int
    v_dim: int
    conv: int = 0
    conv_channels: int = 0
    state_bytes: float = 4.0
    kernels: int = 2
    params: float = 0.0
    math: str = "bf16"

    @property
    def stored_bytes(self) -> float:
        return 2.0 * self.params

    @property
    def bytes_per_seq(self) -> float:
        """State one sequence keeps: N H_k H_v elements, and the last conv - 1 inputs in bf16."""
        conv = max(0, self.conv - 1) * self.conv_channels * 2.0
        return self.n_heads * self.k_dim * self.v_dim * self.state_bytes + conv

    def _conv(self, n: Array) -> Counts:
        return Counts(
            flop=2.0 * n * self.conv * self.conv_channels,
            activation_bytes=(4.0 * n * self.conv_channels) if self.conv else 0.0 * n,
        )

    def decode(self, n_seqs: Array, ctx: Array) -> Counts:
        core = state_decode(
            n_seqs, kind=self.kind, n_heads=self.n_heads, k_dim=self.k_dim, v_dim=self.v_dim,
            state_bytes=self.state_bytes,
        )  # fmt: skip
        both = Counts(*(a + b for a, b in zip(core, self._conv(n_seqs), strict=True)))
        return Counts(*(x + 0.0 * ctx for x in both))

    def prefill(self, n_new: Array, n_past: Array) -> Counts:
        core = state_prefill(
            n_new, kind=self.kind, n_heads=self.n_heads, k_dim=self.k_dim, v_dim=self.v_dim,
            state_bytes=self.state_bytes,
        )  # fmt: skip
        both = Counts(*(a + b for a, b in zip(core, self._conv(n_new), strict=True)))
        return Counts(*(x + 0.0 * n_past for x in both))
