"""Adapters (LoRA) on a device: bytes, and what they add to a step.

An adapter of rank r beside a weight of n outputs by k inputs is A[r, k] and B[n, r]; a token adds
(x A^T) B^T to the product: one kernel that shrinks, one that expands.  Source: Hu et al., "LoRA",
arXiv 2106.09685; batched over different adapters by SGMV (Punica, arXiv 2310.18547) and MBGMM
(S-LoRA, arXiv 2311.03285).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from forerun.cost.efficiency import efficiency
from forerun.cost.generic import peak_flop_per_s
from forerun.ops.graph import Graph
from forerun.ops.matmul import Matmul
from forerun.spec.adapters import Adapters
from forerun.spec.device import Device

#: parts of a graph's operators by the name that a user says
PARTS = {"attention": "attention", "dense": "ffn"}
WEIGHT_BYTES = 2.0  # vLLM and PEFT keep adapters in 16 bits
BETWEEN_BYTES = 4.0  # vLLM's shrink writes fp32


@dataclass(frozen=True)
class Rank:
    """What one rank of an adapter takes on one device, all its modules and layers together."""

    params: float
    flop: float  # of a token
    token_bytes: float  # of a token, whatever the rank: inputs read, outputs read and written
    between_bytes: float  # of a token and rank: the narrow vector, written and read
    kernels: float  # of a step


def adapted(graph: Graph, how: Adapters) -> Iterator[tuple[Matmul, float]]:
    """Every product beside which an adapter stands, and how often."""
    for op in graph.ops:
        shape = op.shape
        if isinstance(shape, Matmul) and shape.batch == 1 and PARTS.get(op.part) in how.modules:
            yield shape, op.count


def of_rank(graph: Graph, how: Adapters) -> Rank:
    """What a rank takes:  params = sum of n + k;  flop = 2 (n + k) a token.

    A column-split product keeps A whole and a part of B, a row-split one the reverse: both (n + k)
    of the device's own product.  Partial sums join those of the product itself.
    """
    params = token = kernels = between = 0.0
    for shape, count in adapted(graph, how):
        params += count * (shape.n + shape.k)
        token += count * 2.0 * (shape.k + 2 * shape.n)
        between += count * 2 * BETWEEN_BYTES
        kernels += count * 2
    return Rank(params, 2.0 * params, token, between, kernels)


def slots_bytes(graph: Graph, how: Adapters) -> float:
    """Bytes of all slots on one device, each for the largest rank; those that take KV blocks have
    none."""
    if how.memory == "paged":
        return 0.0
    return how.n_slots * max(how.ranks) * of_rank(graph, how).params * WEIGHT_BYTES


@dataclass(frozen=True)
class Added:
    """What adapters add to a step, in seconds."""

    launch_s: float  # of its kernels, if any token has an adapter
    rank_s: float  # to read one rank of one adapter
    token_s: float  # for what a token brings and takes
    rank_flop_s: float  # to compute a token with one rank


def added(graph: Graph, device: Device, how: Adapters) -> Added:
    """The roofline of the two kernels, with the device's efficiencies before any calibration."""
    one, eff = of_rank(graph, how), efficiency(device)
    streams, gathers = device.hbm_bytes_per_s * eff.stream, device.hbm_bytes_per_s * eff.gather
    rank = max(how.ranks) if how.padded else sum(how.ranks) / len(how.ranks)
    return Added(
        launch_s=one.kernels * eff.launch_s,
        rank_s=one.params * WEIGHT_BYTES / streams,
        token_s=(one.token_bytes + rank * one.between_bytes) / gathers,
        rank_flop_s=one.flop / (peak_flop_per_s(device, graph.math) * eff.gemm),
    )


def assumed(how: Adapters, *, proposes: bool = False) -> tuple[str, ...]:
    """What a run with adapters takes for granted; proposes : some engine speculates."""
    where = "in the step that needs them" if how.load == "in_step" else "beside steps"
    paged = (
        (
            "adapters take whole blocks of the KV cache, and are moved within it by nobody: every "
            "block is as good as another",
        )
        if how.memory == "paged"
        else ()
    )
    drafts = ("proposals come from a draft without adapters, which `acceptance` is to know",)
    return (
        *paged,
        *(drafts if proposes else ()),
        "adapters: products with them are priced by the roofline with efficiencies of the device, "
        f"no kernel of theirs was measured; they come {where} at the full rate of their link, "
        "which KV tiers do not share; routed experts have none; their energy is not counted",
    )
