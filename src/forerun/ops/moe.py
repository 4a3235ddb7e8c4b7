"""Mixture of experts: a batch wakes some experts, each works on its few tokens."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from forerun.ops.counts import Array, Counts, expected_distinct
from forerun.spec.dtype import WEIGHT_BYTES


def active_experts(n_tokens: Array, *, n_experts: int, topk: int, n_local: int) -> Array:
    """Expected number of the n_local experts here that at least one token chose.

        n_local * (1 - (1 - topk/n_experts)**T)          # uniform, independent routing

    Checks: T = 0 gives 0, T = 1 gives n_local * topk / n_experts, many tokens give n_local.
    """
    return expected_distinct(n_local, topk / n_experts, n_tokens)


def moe(
    n_tokens: Array, *, hidden: int, inter: int, n_experts: int, topk: int, n_local: int,
    gated: bool = True, weight_bytes: float = 2.0, act_bytes: float = 2.0,
) -> Counts:  # fmt: skip
    """Flop and bytes of the routed experts on one device, T tokens of the whole layer.

    rows  = T * topk * n_local / n_experts               # token-expert pairs here, expected
    flop  = 2 * rows * D * F * (3 if gated else 2)
    wts   = active * D * F * (3 | 2) * weight_bytes      # each woken expert is read once
    act   = rows * (D + F (3|2) + D) * act_bytes         # in, between, out
    """
    n_mat = 3 if gated else 2
    rows = n_tokens * topk * n_local / n_experts
    active = active_experts(n_tokens, n_experts=n_experts, topk=topk, n_local=n_local)
    return Counts(
        flop=2.0 * rows * hidden * inter * n_mat,
        weight_bytes=active * hidden * inter * n_mat * weight_bytes,
        activation_bytes=rows * (3 * hidden + 2 * n_mat * inter) * act_bytes,
    )


def tile_rows(n_tokens: Array, *, n_experts: int, topk: int, n_local: int, tile: int) -> Array:
    """Expected rows a grouped product computes when every woken expert's rows fill whole tiles.

        active * tile * max(1, rows / active / tile + 1/2)

    An expert's rows are a random number, so its last tile is half full on average.
    """
    active = active_experts(n_tokens, n_experts=n_experts, topk=topk, n_local=n_local)
    rows = n_tokens * topk * n_local / n_experts
    return np.maximum(active * tile, rows + active * tile / 2)


@dataclass(frozen=True)
class Experts:
    """The routed experts of one layer on one device."""

    hidden: int
    inter: int  # of one expert, the part kept here
    n_experts: int
    topk: int
    n_local: int
    gated: bool = True
    dtype: str = "bf16"
    act_bytes: float = 2.0
    bias: bool = False
    resident: float = 1.0  # share of them in the device's memory; the others are on the host
    kernels: int = 6  # pick, sort, two grouped products, activation, weighted sum

    @property
    def params(self) -> float:
        per = self.hidden * self.inter * (3 if self.gated else 2)
        if self.bias:
            per += self.inter * (2 if self.gated else 1) + self.hidden
        return float(self.n_local * per)

    @property
    def stored_bytes(self) -> float:
        n_mat = 3 if self.gated else 2
        weights = self.n_local * self.hidden * self.inter * n_mat
        stored = weights * WEIGHT_BYTES[self.dtype] + 2.0 * (self.params - weights)
        return self.resident * stored

    def counts(self, n_tokens: Array) -> Counts:
        return moe(
            n_tokens, hidden=self.hidden, inter=self.inter, n_experts=self.n_experts,
            topk=self.topk, n_local=self.n_local, gated=self.gated,
            weight_bytes=WEIGHT_BYTES[self.dtype], act_bytes=self.act_bytes,
        )  # fmt: skip
