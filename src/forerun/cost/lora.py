"""Adapters (LoRA) on a device: bytes, times to fetch them, and what they add to a step.

An adapter of rank r beside a weight of n outputs by k inputs is A[r, k] and B[n, r]; a token adds
(x A^T) B^T to the product: one kernel that shrinks, one that expands.  Source: Hu et al., "LoRA",
arXiv 2106.09685; batched over different adapters by SGMV (Punica, arXiv 2310.18547) and MBGMM
(S-LoRA, arXiv 2311.03285).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from forerun import catalog
from forerun.cost.efficiency import efficiency
from forerun.cost.generic import peak_flop_per_s
from forerun.errors import SpecError
from forerun.ops.graph import Graph
from forerun.ops.matmul import Matmul
from forerun.sim.adapters import Fitting
from forerun.spec.adapters import Adapters
from forerun.spec.deployment import Pool
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
        if isinstance(op.shape, Matmul) and op.shape.batch == 1:
            if PARTS.get(op.part) in how.modules:
                yield op.shape, op.count


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
    """Bytes of all slots on one device, each for the largest rank."""
    return how.n_slots * max(how.ranks) * of_rank(graph, how).params * WEIGHT_BYTES


def fitting(graph: Graph, pool: Pool, device: Device, how: Adapters, n: int) -> Fitting:
    """The n adapters at a pool.

    Raises SpecError where the model has nothing they could change, or nothing says by which link
    they come.
    """
    one, eff = of_rank(graph, how), efficiency(device)
    if not one.params:
        what = f"{graph.model} has no {' or '.join(how.modules)} that adapters change"
        raise SpecError.one("deployment.adapters.modules", what, "modules: [attention]")
    name = how.link or device.host_link
    if name is None:
        what = f"{device.name} names no link to its host"
        raise SpecError.one("deployment.adapters.link", what, "link: NAME (forerun list links)")
    ranks = np.resize(np.array(how.ranks, dtype=np.int64), n)
    each = ranks * one.params * WEIGHT_BYTES  # of a device, which loads its own
    whole = each * pool.devices_per_replica
    near, far = catalog.link(name), None
    if how.far_link is not None:
        far = catalog.link(how.far_link)
    streams, gathers = device.hbm_bytes_per_s * eff.stream, device.hbm_bytes_per_s * eff.gather
    return Fitting(
        ranks=np.full(n, ranks.max(initial=1)) if how.padded else ranks,
        load_bytes=whole,
        near_s=near.latency_s + each / near.bandwidth_bytes_per_s,
        far_s=far.latency_s + whole / far.bandwidth_bytes_per_s if far else np.zeros(n),
        max_adapters=how.max_loras,
        n_slots=how.n_slots,
        host_slots=how.max_cpu_loras or 0,
        in_step=how.load == "in_step",
        in_order=how.wait == "in_order",
        gathered=how.kernel == "gathered",
        launch_s=one.kernels * eff.launch_s,
        rank_s=one.params * WEIGHT_BYTES / streams,
        token_s=(one.token_bytes + ranks.mean() * one.between_bytes) / gathers,
        rank_flop_s=one.flop / (peak_flop_per_s(device, graph.math) * eff.gemm),
    )


def assumed(how: Adapters) -> tuple[str, ...]:
    """What a run with adapters takes for granted."""
    where = "in the step that needs them" if how.load == "in_step" else "beside steps"
    return (
        f"adapters: products with them are priced by the roofline with efficiencies of the device, "
        f"no kernel of theirs was measured; they come {where} at the full rate of their link, which "
        "KV tiers do not share; routed experts have none; their energy is not counted",
    )
