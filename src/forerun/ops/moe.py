"""Mixture of experts: a batch wakes some experts, each works on its few tokens."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from forerun.ops.counts import Array, Counts, expected_distinct
from forerun.spec.dtype import WEIGHT_BYTES
from forerun.spec.moe import TYPICAL

#: experts by rank of load at which a distribution is evaluated; each stands for 1/NODES of them
NODES = 24


def loads(n_tokens: Array, *, n_experts: Array, topk: Array, distribution: str) -> np.ndarray:
    """Tokens of the experts by rank of load, expected: float64 [..., NODES].

        T topk / E                                         "uniform", "balanced"
        the same on average, density x**-a over [1, 0.8 T]  "power_law_a", as AIConfigurator's
                                                           tables were made

    None has more than all T tokens.
    """
    T = np.asarray(n_tokens, dtype=float)[..., None]
    mean = T * np.asarray(topk, dtype=float)[..., None] / np.asarray(n_experts)[..., None]
    shape = np.ones(NODES)
    if distribution.startswith("power_law"):
        a = 1.0 - float(distribution.rpartition("_")[2])
        rank = (np.arange(NODES) + 0.5) / NODES
        most = np.maximum(0.8 * T, 1.5)
        shape = (1.0 + rank * (most**a - 1.0)) ** (1.0 / a) if a else most**rank
    return np.minimum(mean * shape / shape.mean(axis=-1, keepdims=True), T)


def active_experts(
    n_tokens: Array, *, n_experts: int, topk: int, n_local: int, distribution: str = "uniform"
) -> Array:
    """Expected number of the n_local experts here that at least one token chose.

        n_local * mean of 1 - (1 - tokens of the expert / T)**T     # independent tokens
                        min(1, tokens of the expert)                # "balanced": taking turns

    Checks: T = 0 gives 0, T = 1 gives n_local * topk / n_experts, many tokens give n_local; never
    more than the uniform n_local * (1 - (1 - topk/n_experts)**T).
    """
    T = np.asarray(n_tokens, dtype=float)
    tokens = loads(T, n_experts=n_experts, topk=topk, distribution=distribution)
    if distribution == "balanced":
        return n_local * np.minimum(1.0, tokens).mean(axis=-1)
    share = tokens / np.maximum(T, 1e-12)[..., None]
    return expected_distinct(n_local, share, T[..., None]).mean(axis=-1)


def moe(
    n_tokens: Array, *, hidden: int, inter: int, n_experts: int, topk: int, n_local: int,
    gated: bool = True, weight_bytes: float = 2.0, act_bytes: float = 2.0,
    distribution: str = "uniform",
) -> Counts:  # fmt: skip
    """Flop and bytes of the routed experts on one device, T tokens of the whole layer.

    rows  = T * topk * n_local / n_experts               # token-expert pairs here, expected
    flop  = 2 * rows * D * F * (3 if gated else 2)
    wts   = active * D * F * (3 | 2) * weight_bytes      # each woken expert is read once
    act   = rows * (D + F (3|2) + D) * act_bytes         # in, between, out
    """
    n_mat = 3 if gated else 2
    rows = n_tokens * topk * n_local / n_experts
    active = active_experts(
        n_tokens, n_experts=n_experts, topk=topk, n_local=n_local, distribution=distribution
    )
    return Counts(
        flop=2.0 * rows * hidden * inter * n_mat,
        weight_bytes=active * hidden * inter * n_mat * weight_bytes,
        activation_bytes=rows * (3 * hidden + 2 * n_mat * inter) * act_bytes,
    )


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
    distribution: str = TYPICAL  # of tokens over them
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
            distribution=self.distribution,
        )  # fmt: skip
