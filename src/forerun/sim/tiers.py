"""Stores of prefix blocks and the ports between them, as arrays of the core.

A replica's own memory is a store; below it stand tiers (host memory, disks, a remote pool), each a
store of the same kind that one replica, the replicas of a node or all replicas share.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from forerun import units
from forerun.errors import Problem, SpecError
from forerun.sim.core import rows_fleet, rows_kept, state
from forerun.sim.tables import PS

if TYPE_CHECKING:
    from forerun.sim.setup import Served

BANDWIDTH = "link: pcie5-x16, or bandwidth_bytes_per_s: 50 GB/s"
UNBOUNDED = 1e18  # bytes a picosecond: a port that never limits


ORDER = ("replica", "node", "fleet")


@dataclass(frozen=True)
class Tier:
    """A place below the replicas' memory.  Each direction has the rate given.

    capacity_bytes : of one store; a tier that each replica has for itself has as many as replicas.
    bytes_per_s : of one replica's way there (with `per_device`: of each of its devices); 0: its
        network port.
    total_bytes_per_s : of all who share a store together; infinite when only their ways limit.
    buffer_bytes : that may wait to be written; what comes then is lost.
    """

    name: str
    capacity_bytes: float
    bytes_per_s: float = 0.0
    latency_s: float = 0.0
    per_device: bool = False
    total_bytes_per_s: float = np.inf
    shared_by: Literal["replica", "node", "fleet"] = "replica"
    devices_per_node: int = 8
    evict: str = "lru"
    write: Literal["back", "through"] = "back"
    buffer_bytes: float = 5e9

    @property
    def network(self) -> bool:
        return self.bytes_per_s == 0


def groups(pools: Sequence[Served], tier: Tier) -> np.ndarray:
    """Which store of a tier each replica of the core uses: int64 [R], from 0."""
    if tier.shared_by == "fleet":
        return np.zeros(sum(s.pool.replicas * s.pool.pp for s in pools), dtype=np.int64)
    out: list[int] = []
    for served in pools:
        first = max(out, default=-1) + 1
        each = 1
        if tier.shared_by == "node":
            each = max(1, tier.devices_per_node // served.pool.devices_per_replica)
        for replica in range(served.pool.replicas):
            out += [first + replica // each] * served.pool.pp
    return np.array(out, dtype=np.int64)


def arrays(
    pools: Sequence[Served],
    pool_of: np.ndarray,
    tiers: Sequence[Tier],
    hash_tokens: int,
    n_live: int,
) -> dict[str, np.ndarray]:
    """Empty stores, their blocks, and all ports of a fleet."""
    served = [pools[p] for p in pool_of]
    sizes = [_own_rows(roomiest(pools, one), hash_tokens) for one in served]
    rules = [one.pool.engine.evict for one in served]
    chains = [groups(pools, tier) for tier in tiers]
    first = np.cumsum([len(served), *(int(chain.max()) + 1 for chain in chains)])
    unit = hash_tokens or max(one.pool.engine.block_tokens for one in served)
    for tier, chain in zip(tiers, chains, strict=True):
        for group in range(int(chain.max()) + 1):
            own = [one for one, at in zip(served, chain, strict=True) if at == group]
            one = next((one for one in own if one.pool.role != "encode"), own[0])
            sizes.append(int(tier.capacity_bytes // (unit * one.kv_token_bytes)))
            rules.append(tier.evict)
    rows = state.rows(len(sizes), rows_kept.STORE)
    rows.rule = [rows_kept.RULE[rule] for rule in rules]
    rows.below = rows.depth = rows.owner = -1
    rows.block_tokens = unit
    for d, tier in enumerate(tiers):
        _join(rows, served, tier, d, first, chains)
    return {
        **_empty(rows, sizes),
        "ports": _ports(rows, served, tiers, chains, first),
        "to_fetch": np.zeros((n_live, max(len(tiers), 1)), dtype=np.int64),
        "offer": state.rows(1, rows_kept.OFFER),
    }


def roomiest(pools: Sequence[Served], one: Served) -> Served:
    """Of what a replica of a pool may run in turn, that with the most memory for KV."""
    if one.group is None:
        return one
    return max((other for other in pools if other.group == one.group), key=lambda o: o.n_blocks)


def _own_rows(one: Served, hash_tokens: int) -> int:
    """How many prefix blocks a replica's own memory holds, and one more."""
    engine = one.pool.engine
    if hash_tokens == 0 or not engine.prefix_caching or engine.reuse == "anywhere":
        return 0
    if one.pool.role == "encode":
        return 0
    return one.n_blocks // one.pool.pp * engine.block_tokens // hash_tokens + 1


def _join(
    rows: Any,
    served: Sequence[Served],
    tier: Tier,
    d: int,
    first: np.ndarray,
    chains: Sequence[np.ndarray],
) -> None:
    """Hang the stores of tier d below those above them."""
    chain = chains[d]
    for s in range(int(first[d]), int(first[d + 1])):
        own = np.flatnonzero(chain == s - first[d])
        rows[s].depth, rows[s].network = d, int(tier.network)
        rows[s].buffer_bytes = tier.buffer_bytes
        rows[s].owner = own[0] if tier.shared_by == "replica" and len(own) == 1 else -1
    for i, one in enumerate(served):
        if one.pool.role == "encode":
            continue  # it keeps no KV
        above = i if d == 0 else int(first[d - 1] + chains[d - 1][i])
        if d == 0 and not (one.pool.engine.prefix_caching or one.pool.engine.preemption == "swap"):
            continue
        rows[above].below = first[d] + chain[i]
        rows[above].through = int(tier.write == "through")


def _empty(rows: Any, sizes: Sequence[int]) -> dict[str, np.ndarray]:
    """The blocks and hash tables of empty stores of these sizes; fills in where they stand."""
    buckets = np.array([1 << (2 * n).bit_length() if n else 0 for n in sizes], dtype=np.int64)
    kept = state.rows(sum(sizes), rows_kept.KEPT)
    rows.n_rows, rows.mask = sizes, np.maximum(buckets - 1, 0)
    rows.at = np.cumsum(sizes) - sizes
    rows.bucket_at = np.cumsum(buckets) - buckets
    rows.oldest = rows.newest = -1
    kept.next = np.arange(1, len(kept) + 1)
    ends = np.cumsum(sizes)
    kept.next[ends[ends > 0] - 1] = -1
    rows.spare = np.where(np.array(sizes) > 0, rows.at, -1)
    return {
        "stores": rows,
        "kept": kept,
        "idle": np.zeros(len(kept), dtype=np.int64),
        "buckets": np.full(int(buckets.sum()), -1, dtype=np.int64),
    }


def _ports(
    rows: Any,
    served: Sequence[Served],
    tiers: Sequence[Tier],
    chains: Sequence[np.ndarray],
    first: np.ndarray,
) -> np.recarray:
    """Ports of replicas and tiers (out, in), then each replica's way from and to each tier."""
    n, depths = len(rows), max(len(tiers), 1)
    ports = state.rows(2 * (n + len(served) * len(tiers)), rows_fleet.PORT)
    for i, one in enumerate(served):
        for port in ports[2 * i : 2 * i + 2]:
            port.bytes_per_ps = one.port_bytes_per_s / PS
            port.latency_ps = round(one.port_latency_s * PS)
    for d, (tier, chain) in enumerate(zip(tiers, chains, strict=True)):
        start, end = 2 * int(first[d]), 2 * int(first[d + 1])
        ports.bytes_per_ps[start:end] = min(tier.total_bytes_per_s / PS, UNBOUNDED)
        ports.latency_ps[start:end] = round(tier.latency_s * PS)
        for i in range(len(chain)):
            at = 2 * (n + i * depths + d)
            n_ways = served[i].pool.devices_per_replica if tier.per_device else 1
            ports.bytes_per_ps[at : at + 2] = n_ways * tier.bytes_per_s / PS
    ports.full_bytes_per_ps = ports.bytes_per_ps
    return ports


# -- after a run ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class TierUse:
    """What a tier gave and took in a run, all its stores together."""

    name: str
    hit_tokens: int  # of prompts, found and brought up
    swap_tokens: int  # of preempted requests, brought back
    read_bytes: float
    written_bytes: float
    n_written: int  # prefix blocks
    n_refused: int  # blocks lost because more than its buffer waited, or it was full of swapped KV
    n_evicted: int
    kept: float  # share of its rows in use at the end


def uses(now: state.State, tiers: Sequence[Tier]) -> tuple[TierUse, ...]:
    """The tiers' use so far."""
    out = []
    stores: Any = now.stores
    for d, tier in enumerate(tiers):
        s = np.flatnonzero(stores.depth == d)
        total = {
            name: int(stores[name][s].sum())
            for name in ("hit_tokens", "swap_tokens", "n_written", "n_refused", "n_evicted")
        }
        rows = max(int(stores.n_rows[s].sum()), 1)
        kept = int(stores.n_kept[s].sum() + stores.n_swapped[s].sum())
        read, written = (float(now.ports["bytes"][2 * s + way].sum()) for way in (0, 1))
        out.append(
            TierUse(tier.name, **total, read_bytes=read, written_bytes=written, kept=kept / rows)
        )
    return tuple(out)


# -- before a run ---------------------------------------------------------------------------------


def _sizes_in_turn(pools: Sequence[Served]) -> list[set[float]]:
    """Bytes of a token of KV, of those models that replicas run in turn."""
    groups = {one.group for one in pools} - {None}
    return [{one.kv_token_bytes for one in pools if one.group == group} for group in groups]


def check_tiers(pools: Sequence[Served], tiers: Sequence[Tier], hash_tokens: int) -> None:
    """Raises SpecError for tiers that hold nothing or cannot be reached, and swapping into none."""
    problems = []
    pools = [served for served in pools if served.pool.role != "encode"]
    unit = hash_tokens or max(served.pool.engine.block_tokens for served in pools)
    for n, tier in enumerate(tiers):
        where = f"deployment.kv_tiers[{n}] ({tier.name})"
        sizes = {served.kv_token_bytes for served in pools}
        block = unit * max(sizes)
        if min(sizes) <= 0:
            problems.append(Problem(where, "the pools' KV has no known size", "a model with KV"))
        elif tier.capacity_bytes < block:
            what = (
                f"{units.show(tier.capacity_bytes, 'bytes')} hold no block: {unit} tokens of KV "
                f"are {units.show(block, 'bytes')}"
            )
            problems.append(
                Problem(where, what, f"capacity_bytes: {units.show(1000 * block, 'bytes')}")
            )
        if len(sizes) > 1 and tier.shared_by != "replica":
            what = "pools share it whose tokens of KV are not the same number of bytes"
            problems.append(Problem(where, what, "shared_by: replica, or one kv_dtype"))
        if any(len(own) > 1 for own in _sizes_in_turn(pools)):
            what = "is kept by replicas whose models have tokens of KV of different sizes"
            problems.append(Problem(where, what, "pools with one model each"))
        if n and ORDER.index(tier.shared_by) < ORDER.index(tiers[n - 1].shared_by):
            above = tiers[n - 1]
            what = f"stands below {above.name}, which is shared by the {above.shared_by}"
            problems.append(Problem(where, what, f"shared_by: {above.shared_by}, or before it"))
        if tier.network and tier.shared_by != "fleet":
            what = "has no bandwidth"
            problems.append(Problem(where, what, BANDWIDTH))
        elif tier.network and any(served.port_bytes_per_s <= 0 for served in pools):
            what = "has no bandwidth, and not every pool has a network link"
            problems.append(Problem(where, what, BANDWIDTH))
    problems += [
        Problem(
            f"deployment.pools.{served.pool.name}.engine.preemption",
            "swap needs somewhere to put KV, and there are no tiers",
            "kv_tiers: [{tier: dram, capacity_bytes: 100 GB, link: pcie5-x16}], or recompute",
        )
        for served in pools
        if served.pool.engine.preemption == "swap" and not tiers
    ]
    if problems:
        raise SpecError(*problems)
