"""ControlNets of a fleet as the core reads them, and what they cost beside a denoiser or apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from forerun import catalog, units
from forerun.cost.reserve import activation_bytes, reserve_bytes, visible_bytes
from forerun.cost.table import CostTable
from forerun.errors import Infeasible, SpecError
from forerun.ops.diffusion import described, lower_control, weights_bytes
from forerun.sim.tables import PS
from forerun.spec.deployment import Pool
from forerun.spec.device import Device
from forerun.spec.model import Model


@dataclass(frozen=True)
class Branching:
    """The ControlNets that a pool's requests can use."""

    n: int
    row: int = -1  # whose costs are those of one of them
    devices: int = 0  # of a replica, that compute nothing else; 0: the denoiser's compute them
    shared: str | None = None  # or of all replicas of the pools that say the same
    blocks: int = 1
    residual_s: float = 0.0  # to send what a block gives, a token ...
    latent_s: float = 0.0  # ... and a token's latents to where it is computed
    trip_s: float = 0.0  # one way
    ahead: float = 0.0  # share of the denoiser's time when it adds the first block's ...
    each: float = 0.0  # ... and from there to the next
    # where they come and go:
    slots: int = 0  # that a replica has memory for; 0: all are there
    host_slots: int = 0  # and its host; 0: all
    in_step: bool = False  # steps wait for them
    load_bytes: float = 0.0  # of one, all devices of a replica together
    near_s: float = 0.0  # of one, from the host, ...
    far_s: float = 0.0  # ... and from beyond to it


def fill_branches(engine: Any, branch: Branching | None) -> None:
    """What a row of `engines` says of ControlNets."""
    engine.branch_row = engine.branch_at = -1
    if branch is None:
        return
    engine.branch_row, engine.n_branches = branch.row, branch.n
    engine.branch_devices, engine.branch_blocks = branch.devices, branch.blocks
    engine.residual_ps = round(branch.residual_s * PS)
    engine.latent_ps = round(branch.latent_s * PS)
    engine.branch_trip_ps = round(branch.trip_s * PS)
    engine.branch_ahead, engine.branch_each = branch.ahead, branch.each


def shared_devices(engines: Any, branches: Sequence[Branching | None]) -> np.ndarray:
    """When each device that replicas share for ControlNets is free; engines are told which are
    theirs."""
    at: dict[str, int] = {}
    n = 0
    for p, one in enumerate(branches):
        if one is not None and one.shared is not None:
            if one.shared not in at:
                at[one.shared], n = n, n + one.devices
            engines[p].branch_at = at[one.shared]
    return np.zeros(n, dtype=np.int64)


def fill_nets(engines: Any, branches: Sequence[Branching | None]) -> None:
    """What the rows that price ControlNets say of those that come and go."""
    for one in branches:
        if one is not None:
            row = engines[one.row]
            row.n_slots, row.host_slots, row.in_step = one.slots, one.host_slots, one.in_step


def net_columns(branches: Sequence[Branching | None], n_rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Columns of ControlNets that come and go, none where all are there: their bytes, float64 [C],
    and the picoseconds they take by row of `engines`, int64 [P, C, 2]."""
    coming = [one for one in branches if one is not None and one.slots]
    n = max((one.n for one in coming), default=0)
    times = np.zeros((n_rows, n, 2), dtype=np.int64)
    for one in coming:
        times[one.row] = np.rint(np.array([one.near_s, one.far_s]) * PS)
    return np.full(n, coming[0].load_bytes if coming else 0.0), times


def check_used(model: Model, pool: Pool, n: int) -> None:
    """Raises SpecError where requests and a pool do not agree on ControlNets.

    n : that requests use.
    """
    where = f"deployment.pools.{pool.name}.controlnets"
    if n and pool.controlnets is None:
        what = "requests use ControlNets, and nothing says where they are computed"
        raise SpecError.one(where, what, "controlnets: {where: beside}")
    if pool.controlnets is not None and not n:
        what = "no request uses one"
        raise SpecError.one(where, what, "traffic.render.controls: {n: 1}, or drop it")
    if n and described(model).control is None:
        what = f"no ControlNet of {model.name} is described"
        fix = "flux.1-dev, stable-diffusion-3.5-large, or a file with its `controlnet` config.json"
        raise SpecError.one("traffic.render.controls", what, fix)


def beside_bytes(model: Model, pool: Pool, copies: int, n: int) -> float:
    """Bytes of n ControlNets on each device of the denoiser, which keeps them if nobody else."""
    if not n or pool.control_devices:
        return 0.0
    assert pool.controlnets is not None
    kept = min(n, pool.controlnets.slots or n)
    return kept * weights_bytes(model, pool, lower_control(model, pool, copies))


def branching(
    model: Model, pool: Pool, device: Device, copies: int, n: int, share: float
) -> Branching:
    """What a pool has of n ControlNets.

    share : of the denoiser's time, one of the blocks of its first run.
    Raises Infeasible where devices of their own have no room for them, SpecError without a link.
    """
    d = described(model)
    assert d.control is not None
    if not pool.control_devices:
        return replace(Branching(n, blocks=d.control.n), **_loads(model, pool, device, copies))
    link = _link(pool, device)
    _check_room(model, pool, device, copies, n)
    # block j of m is added after block j * ceil(n / m) of the denoiser's first run (diffusers)
    stride = -(-d.blocks[0].n // d.control.n)
    bytes_per_s = link.bandwidth_bytes_per_s
    return Branching(
        n, devices=pool.control_devices, blocks=d.control.n,
        shared=pool.name if pool.shares_controls else None,
        residual_s=2.0 * model.hidden / bytes_per_s,
        latent_s=2.0 * d.vae.latent_channels * d.patch**2 / bytes_per_s, trip_s=link.latency_s,
        ahead=share, each=stride * share,
    )  # fmt: skip


def _loads(model: Model, pool: Pool, device: Device, copies: int) -> dict[str, Any]:
    """How ControlNets come to a replica that has slots for some of them; nothing where it has all.

    near = latency + bytes of a device / bandwidth        each device its own part
    far  = latency + bytes / bandwidth
    """
    how = pool.controlnets
    assert how is not None
    if how.slots is None:
        return {}
    name = how.host_link or device.host_link
    if name is None:
        what = f"{pool.device} names no link by which they could come from its host"
        where = f"deployment.pools.{pool.name}.controlnets.host_link"
        raise SpecError.one(where, what, "host_link: NAME (forerun show link)")
    each = weights_bytes(model, pool, lower_control(model, pool, copies))
    whole, near, far_s = each * pool.devices_per_replica, catalog.link(name), 0.0
    if how.far_link is not None:
        far = catalog.link(how.far_link)
        far_s = far.latency_s + whole / far.bandwidth_bytes_per_s
    return {
        "slots": how.slots, "host_slots": how.host_slots or 0, "in_step": how.load == "in_step",
        "load_bytes": whole, "near_s": near.latency_s + each / near.bandwidth_bytes_per_s,
        "far_s": far_s,
    }  # fmt: skip


def _link(pool: Pool, device: Device) -> Any:
    assert pool.controlnets is not None
    name = pool.controlnets.link or device.scale_up or device.network
    if name is None:
        what = f"{pool.device} names no link by which residuals could come"
        where = f"deployment.pools.{pool.name}.controlnets.link"
        raise SpecError.one(where, what, "link: NAME (forerun show link)")
    return catalog.link(name)


def _check_room(model: Model, pool: Pool, device: Device, copies: int, n: int) -> None:
    alone = pool.model_copy(update={"tp": 1})
    graph = lower_control(model, alone, copies)
    most = -(-n // pool.control_devices)
    held = most * weights_bytes(model, alone, graph) + activation_bytes(graph, alone)
    held += reserve_bytes(device, alone)
    have = visible_bytes(device) * pool.engine.gpu_memory_utilization
    if held > have:
        what = (
            f"{most} ControlNets take {units.show(held, 'bytes')} of a device of their own, "
            f"which has {units.show(have, 'bytes')}"
        )
        where = f"deployment.pools.{pool.name}.controlnets.devices"
        raise Infeasible.one(where, what, "more devices, fewer ControlNets, or dtype: fp8")


def with_branch(table: CostTable, branch: CostTable, pool: Pool) -> CostTable:
    """The denoiser's table, of a replica that computes ControlNets, maybe on more devices.

    branch : of one of them, at full clock where `table` is.
    """
    more: float = pool.control_devices
    if pool.shares_controls:
        more /= pool.replicas
    each = table.idle_w / table.n_devices
    free = table.free and with_branch(table.free, branch.free or branch, pool)
    return replace(
        table, n_devices=table.n_devices + more, idle_w=table.idle_w + more * each, branch=branch,
        branch_apart=more > 0, free=free,
    )  # fmt: skip


#: what a run with ControlNets takes for granted
ASSUMED = (
    "ControlNets: residuals are added where diffusers adds them, and sent as each block gives "
    "them; the picture that controls is encoded before; energy takes the mean size of the requests "
    "in a step for those that use one"
)
#: ... and one where they come and go
LOADED = (
    "ControlNets that come: each over links at full rate, however many replicas load from one "
    "store; nothing is there at first; loading draws no power of its own"
)
