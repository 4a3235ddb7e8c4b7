"""Adapters of a fleet as the core reads them: ranks, times to fetch, what they add to steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from forerun import catalog
from forerun.cost import lora
from forerun.errors import SpecError
from forerun.ops.graph import Graph
from forerun.sim.core import rows_kept, state
from forerun.sim.tables import PS
from forerun.spec.adapters import Adapters
from forerun.spec.deployment import Pool
from forerun.spec.device import Device


@dataclass(frozen=True, eq=False)
class Fitting:
    """The adapters that a pool's requests can name, and what they cost there.

    ranks : int64 [A], as kernels see them (all the largest one, where they are padded to it).
    load_bytes, near_s, far_s : float64 [A], of a replica: bytes, from the host, from beyond to it.
    """

    ranks: np.ndarray
    load_bytes: np.ndarray
    near_s: np.ndarray
    far_s: np.ndarray
    max_adapters: int  # different ones in a batch
    n_slots: int  # that a replica has memory for
    host_slots: int = 0  # and its host; 0: all
    in_step: bool = False  # steps wait for them
    in_order: bool = False  # nobody overtakes who waits for one
    gathered: bool = False  # read for each token, not once a step
    launch_s: float = 0.0  # of the kernels that a step with adapters adds
    rank_s: float = 0.0  # to read one rank
    token_s: float = 0.0  # for what a token brings and takes
    rank_flop_s: float = 0.0  # to compute a token with one rank
    blocks: np.ndarray | None = None  # int64 [A], of the KV cache; None: they have slots
    leaves: str = "prefixes"  # one of rows_kept.LEAVES
    early_s: float = 0.0  # requests start so long before theirs is there


def fitting(
    graph: Graph, pool: Pool, device: Device, how: Adapters, n: int, block_bytes: float = 0.0
) -> Fitting:
    """The n adapters at a pool; block_bytes : of a KV block of a replica, where they take such.

    Raises SpecError where the model has nothing they could change, or nothing says by which link
    they come.
    """
    one, added = lora.of_rank(graph, how), lora.added(graph, device, how)
    if not one.params:
        what = f"{graph.model} has no {' or '.join(how.modules)} that adapters change"
        raise SpecError.one("deployment.adapters.modules", what, "modules: [attention]")
    name = how.link or device.host_link
    if name is None:
        what = f"{device.name} names no link to its host"
        raise SpecError.one("deployment.adapters.link", what, "link: NAME (forerun show link)")
    ranks = np.resize(np.array(how.ranks, dtype=np.int64), n)
    each = ranks * one.params * lora.WEIGHT_BYTES  # of a device, which loads its own
    whole = each * pool.devices_per_replica
    near = catalog.link(name)
    far_s: np.ndarray = np.zeros(n)
    if how.far_link is not None:
        far = catalog.link(how.far_link)
        far_s = far.latency_s + whole / far.bandwidth_bytes_per_s
    return Fitting(
        ranks=np.full(n, max(how.ranks)) if how.padded else ranks,
        load_bytes=whole,
        near_s=near.latency_s + each / near.bandwidth_bytes_per_s,
        far_s=far_s,
        max_adapters=how.max_loras,
        n_slots=how.n_slots,
        host_slots=how.max_cpu_loras or 0,
        in_step=how.load == "in_step",
        in_order=how.wait == "in_order",
        gathered=how.kernel == "gathered",
        launch_s=added.launch_s,
        rank_s=added.rank_s,
        token_s=added.token_s,
        rank_flop_s=added.rank_flop_s,
        blocks=np.ceil(whole / block_bytes).astype(np.int64) if how.memory == "paged" else None,
        leaves=how.evict,
    )


def fill_adapters(engines: Any, fittings: Sequence[Fitting | None]) -> None:
    """What engines say of adapters; those in the KV cache have as many slots as there are."""
    for row, one in zip(engines, fittings, strict=True):
        if one is None:
            continue
        row.max_adapters, row.n_slots, row.host_slots = (
            one.max_adapters,
            one.n_slots,
            one.host_slots,
        )
        row.early_ps = round(one.early_s * PS)
        row.in_step, row.in_order, row.gathered = one.in_step, one.in_order, one.gathered
        if one.blocks is not None:
            row.paged, row.leaves = 1, rows_kept.LEAVES[one.leaves]
            row.n_slots, row.adapter_room = len(one.ranks), int(one.blocks.max(initial=0))
        row.adapter_launch_ps, row.rank_ps = round(one.launch_s * PS), round(one.rank_s * PS)
        row.adapted_ps, row.rank_flop_ps = round(one.token_s * PS), round(one.rank_flop_s * PS)


def numbered(fittings: Sequence[Fitting | None], models: Sequence[int]) -> np.ndarray:
    """Where the adapters of each model begin among those of all, int64 [models + 1].

    models : of each pool; a model's own are numbered from 0 in requests.
    """
    n = np.zeros(max(models) + 2, dtype=np.int64)
    for one, m in zip(fittings, models, strict=True):
        n[m + 1] = max(n[m + 1], 0 if one is None else len(one.ranks))
    return np.cumsum(n)


def adapter_arrays(
    fittings: Sequence[Fitting | None],
    models: Sequence[int],
    n_replicas: int,
    nets: tuple[np.ndarray, np.ndarray],
) -> dict[str, np.ndarray]:
    """The fields of a `State` on adapters, and on ControlNets behind them; nothing is loaded at
    first.

    models : of each pool.
    nets : bytes and times of ControlNets that come and go (`branches.net_columns`).
    """
    starts = numbered(fittings, models)
    n = int(starts[-1])
    n_all = n + len(nets[0])
    adapters = state.rows(n_all, rows_kept.ADAPTER)
    adapters.bytes[n:] = nets[0]
    times = np.zeros((len(fittings), n_all, 2), dtype=np.int64)
    times[:, n:] = nets[1]
    blocks = np.zeros((len(fittings), n), dtype=np.int64)
    for p in reversed(range(len(fittings))):  # what replicas differ in is told of the first pool
        one = fittings[p]
        if one is None:  # a row that encodes, or a model without
            continue
        mine = slice(starts[models[p]], starts[models[p]] + len(one.ranks))
        adapters.rank[mine], adapters.bytes[mine] = one.ranks, one.load_bytes
        blocks[p, mine] = 0 if one.blocks is None else one.blocks
        times[p, mine] = np.rint(np.stack([one.near_s, one.far_s], axis=1) * PS)
    slots = np.zeros((n_replicas, n_all), dtype=rows_kept.SLOT).view(np.recarray)
    return {
        "adapters": adapters,
        "adapter_ps": times,
        "adapter_blocks": blocks,
        "slots": slots,
        "fitted": state.rows(n_replicas, rows_kept.FITTED),
        "netted": state.rows(n_replicas, rows_kept.FITTED),
    }
