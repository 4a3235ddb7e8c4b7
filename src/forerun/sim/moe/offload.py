"""Experts kept on the host: what a step waits for those that are not in device memory.

Of a layer's E experts, C are in device memory.  Expert e is wanted by a step of T tokens with
chance q = 1 - (1 - topk s_e)**T, where s is the share of pairs (`routing`).  In memory it is

    lru   with chance h = 1 - (1 - q)**tau, where tau is such that the sum of h is C
          (Che's approximation, doi:10.1109/JSAC.2002.801752, with steps for requests)
    lfu   if it is among the C most chosen; so too where the host may compute what is missing,
          which then leaves no trace in device memory

    M = sum of q (1 - h)      experts missing        R = sum of T topk s_e (1 - h)   their pairs

Fetching one takes x = bytes / link rate.  The router names them, and meanwhile the present experts
compute (t_exp).  Guesses from the layer before move during the rest of the layer (t_rest), and a
share a of what they move is wanted (`routing.guessed`):

    fetch = M x - a min(M x, t_rest) - t_exp
    cpu   = latencies + max(2 R D F n_mat / arithmetic, M bytes / memory rate of the host) - t_exp
    wait  = max(0, fetch or cpu, or the less of them)

t_rest leaves out attention, whose time depends on contexts, and so is a lower bound.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from forerun.cost.efficiency import LINK, PCIE_LINK, efficiency
from forerun.cost.generic import peak_flop_per_s
from forerun.ops.check import math_format
from forerun.spec.device import Device, Link
from forerun.spec.moe import Offload


@dataclass(frozen=True)
class Host:
    """What one device gets of its host."""

    link_bytes_per_s: float  # to the device
    link_latency_s: float
    memory_bytes_per_s: float
    flop_per_s: float

    def expert_s(self, expert_bytes: float) -> float:
        """Moving one expert's weights."""
        return expert_bytes / self.link_bytes_per_s


@dataclass(frozen=True)
class Layer:
    """The experts of a layer on one of `ep` devices, and what the device does meanwhile."""

    share: np.ndarray  # [E] of pairs
    topk: int
    ep: int
    expert_bytes: float  # of one expert's part on this device
    expert_flop: float  # of one pair on this device
    token_bytes: float  # of activations there and back, a pair
    guess: float  # share of guessed experts that are wanted


def host_of(offload: Offload, host: Device, link: Link, dtype: str) -> Host:
    """Rates of a host as one device sees them that has it alone.

    Reads of NVMe are no faster than its drives, wherever they go.
    """
    share = PCIE_LINK if link.kind == "pcie" else LINK
    eff = efficiency(host)
    memory = host.hbm_bytes_per_s * eff.stream
    rate = link.bandwidth_bytes_per_s * share
    if offload.tier == "nvme" and offload.nvme_bytes_per_s:
        memory = min(memory, offload.nvme_bytes_per_s)
    arithmetic = peak_flop_per_s(host, math_format(host, dtype) or "fp32") * eff.gemm
    return Host(rate, link.latency_s, memory, arithmetic)


def shared(host: Host, n_devices: int) -> Host:
    """The host when n_devices of one node work at once: they share its memory and arithmetic, and
    each has a link of its own."""
    memory = host.memory_bytes_per_s / n_devices
    return Host(
        min(host.link_bytes_per_s, memory), host.link_latency_s, memory,
        host.flop_per_s / n_devices,
    )  # fmt: skip


def wanted(share: np.ndarray, topk: int, n_tokens: np.ndarray) -> np.ndarray:
    """Chance that some of n_tokens [N] tokens chooses an expert, float64 [N, E]."""
    chosen = np.minimum(topk * share, 1.0)
    never = np.log1p(-np.minimum(chosen, 1 - 1e-15))
    return -np.expm1(np.asarray(n_tokens, dtype=float)[:, None] * never)


def present(q: np.ndarray, share: np.ndarray, n_kept: float, cache: str) -> np.ndarray:
    """Chance that each expert is in device memory when a step wants it, float64 [N, E]."""
    E = q.shape[1]
    if n_kept >= E:
        return np.ones_like(q)
    if n_kept <= 0:
        return np.zeros_like(q)
    if cache == "lfu":
        h = np.zeros(E)
        order = np.argsort(-share, kind="stable")
        whole = int(n_kept)
        h[order[:whole]] = 1.0
        h[order[whole]] = n_kept - whole
        return np.broadcast_to(h, q.shape)
    never = np.log1p(-np.minimum(q, 1 - 1e-15))  # a step
    low, high = np.full(len(q), -60.0), np.full(len(q), 60.0)  # log of tau
    for _ in range(80):
        middle = (low + high) / 2
        kept = -np.expm1(np.exp(middle)[:, None] * never)
        less = kept.sum(axis=1) < n_kept
        low, high = np.where(less, middle, low), np.where(less, high, middle)
    return -np.expm1(np.exp(low)[:, None] * never)


@dataclass(frozen=True, eq=False)
class Misses:
    """Of one layer on one device in steps of N sizes, float64 [N] each."""

    n_wanted: np.ndarray
    n_missing: np.ndarray
    pairs: np.ndarray  # of the missing ones


def misses(layer: Layer, n_tokens: np.ndarray, in_hbm: float, cache: str) -> Misses:
    """What a layer's steps want and lack on one device, when in_hbm of its experts are there."""
    q = wanted(layer.share, layer.topk, n_tokens)
    gone = 1.0 - present(q, layer.share, in_hbm * len(layer.share), cache)
    pairs = np.asarray(n_tokens, dtype=float)[:, None] * layer.topk * layer.share * gone
    return Misses(
        q.sum(axis=1) / layer.ep, (q * gone).sum(axis=1) / layer.ep, pairs.sum(axis=1) / layer.ep
    )


def wait_s(
    layer: Layer, offload: Offload, host: Host, n_tokens: np.ndarray, *, expert_s: np.ndarray,
    rest_s: np.ndarray,
) -> np.ndarray:  # fmt: skip
    """Seconds that a layer's experts wait for the host beyond their own time, float64 [N].

    expert_s, rest_s : device time of a layer's experts, and of all else in the layer, [N].
    """
    kept = "lfu" if offload.misses != "fetch" else offload.cache
    m = misses(layer, n_tokens, offload.in_hbm, kept)
    move = m.n_missing * host.expert_s(layer.expert_bytes)
    guess = layer.guess if offload.prefetch else 0.0
    fetch = host.link_latency_s + move - guess * np.minimum(move, rest_s)
    travel = 2 * host.link_latency_s + m.pairs * layer.token_bytes / host.link_bytes_per_s
    arithmetic = m.pairs * layer.expert_flop / host.flop_per_s
    stream = m.n_missing * layer.expert_bytes / host.memory_bytes_per_s
    cpu = travel + np.maximum(arithmetic, stream)
    longer = {"fetch": fetch, "cpu": cpu, "best": np.minimum(fetch, cpu)}[offload.misses]
    return np.where(m.n_missing > 1e-12, np.maximum(0.0, longer - expert_s), 0.0)
