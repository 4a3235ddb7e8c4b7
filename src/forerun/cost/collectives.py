"""Times of collectives: alpha-beta by level of the topology, the best of the usual algorithms."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from forerun.cost.efficiency import (
    DIRECT_START_S,
    LIBRARY_START_S,
    LINK,
    PCIE_LINK,
    RAMP_BYTES,
    SWITCH_LINK,
)
from forerun.errors import SpecError
from forerun.ops.collectives import Collective, Kind
from forerun.ops.counts import Array
from forerun.spec.device import Device, Link

#: largest message of the one- and two-shot kernels that share memory (vLLM's limit: 8 MiB)
DIRECT_BYTES = 8 * 2**20


@dataclass(frozen=True)
class Level:
    """A device's link on one level: rates in one direction, all ports together."""

    latency_s: float
    bytes_per_s: float  # sustained
    direct: bool  # every pair of devices talks at once (switch, full mesh)
    reduces: bool = False  # the switch adds up (NVLink SHARP)


@dataclass(frozen=True)
class Wires:
    """The levels a replica's collectives run over, by how many devices they reach."""

    domain: int  # devices that talk without the network
    inside: Level | None
    outside: Level | None
    pair: Level | None = None  # between two bridged neighbours, when faster than `inside`
    mesh: int = 0  # peers each device has a link of its own to; a group uses only its links

    def level(self, n: int, stride: int = 1) -> Level | None:
        """What n devices, `stride` apart, see of the widest level they need."""
        span = n * stride
        if span > self.domain:
            return self.outside
        if span == 2 and self.pair is not None:
            return self.pair
        if self.mesh and self.inside is not None and n - 1 < self.mesh:
            near = self.inside
            return replace(near, bytes_per_s=near.bytes_per_s * (n - 1) / self.mesh)
        return self.inside


def wires(device: Device, links: Mapping[str, Link] | None = None) -> Wires:
    """Levels from a device's links; the catalog is asked for names that `links` does not hold.

    Bridged pairs reach further over the host's links; a full mesh gives a group only the links
    between its members.
    """

    def find(name: str | None) -> Link | None:
        if name is None:
            return None
        if links is not None and name in links:
            return links[name]
        from forerun.catalog import link

        return link(name)

    domain = device.scale_up_domain or device.devices_per_node
    if domain == 1 and device.network is None:
        return Wires(1, None, None)
    host = _level(find(device.host_link)) if domain > 1 and device.host_link else None
    near = find(device.scale_up) if domain > 1 else None
    far = _level(find(device.network))
    if near is None:
        return Wires(domain, host, far)
    level = replace(
        _level(near) or Level(0, 0, False),
        direct=device.topology in ("switch", "mesh", "pairs"),
        reduces=adds_up(device),
    )
    if device.topology == "pairs" and domain > 2:
        return Wires(domain, host, far, pair=level)
    return Wires(domain, level, far, mesh=domain - 1 if device.topology == "mesh" else 0)


def adds_up(device: Device) -> bool:
    """Whether the switch between a device and its neighbours reduces (NVLink SHARP, from NVLink 4
    on)."""
    nvidia = device.vendor.lower() == "nvidia"
    return device.topology == "switch" and nvidia and device.year >= 2022


def _level(link: Link | None) -> Level | None:
    if link is None:
        return None
    share = PCIE_LINK if link.kind == "pcie" else LINK
    return Level(link.latency_s, link.bandwidth_bytes_per_s * share, False)


def collective_time(op: Collective, n_units: Array, wires: Wires) -> Array:
    """Seconds of a collective whose message is op.message(n_units); 0 for an empty one.

    A send_recv stands for the mean over the boundaries of a pipeline of op.n stages, op.stride
    devices each: a boundary uses the network as soon as one of its devices must.
    """
    message = op.message(np.asarray(n_units, float))
    if op.kind != "send_recv" or op.n <= 1:
        return kind_time(op.kind, message, op.n, wires, op.stride)
    crossing = sum(_crosses(i, op.stride, wires.domain) for i in range(op.n - 1)) / (op.n - 1)
    time = 0.0 * message
    if crossing < 1:
        near = _need(wires.level(2, 1), wires, 2)
        time = time + (1 - crossing) * _send(message, near)
    if crossing > 0:
        far = _need(wires.outside, wires, op.n * op.stride)
        time = time + crossing * _send(message, far)
    return time


def _crosses(stage: int, stride: int, domain: int) -> bool:
    """Whether a device of a stage sits in another domain than its peer of the next stage."""
    devices = range(stage * stride, (stage + 1) * stride)
    return any(r // domain != (r + stride) // domain for r in devices)


def _send(message: Array, level: Level) -> Array:
    start = LIBRARY_START_S + level.latency_s
    return (message > 0) * (start + message / level.bytes_per_s)


def kind_time(kind: Kind, message: Array, n: int, wires: Wires, stride: int = 1) -> Array:
    """Seconds for n devices `stride` apart; `message` as in ops.collectives.wire_bytes.

    Inside a domain: the best of one-shot, two-shot, ring, tree and in-switch reduction.  Beyond:
    hierarchical, with g devices of a domain taking one share each over their own network port,

        all_reduce = reduce_scatter_g(S) + all_reduce_N(S/g) + all_gather_g(S)
        all_to_all = max(inside share, outside share)

    Raises SpecError where a needed link is not known.
    """
    message = np.asarray(message, float)
    if n <= 1:
        return 0.0 * message
    runs = (message > 0) * 1.0
    if kind == "send_recv":
        return _send(message, _need(wires.level(2, stride), wires, 2 * stride))
    near = max(1, min(n, wires.domain // stride if stride <= wires.domain else 1))
    far = math.ceil(n / near)
    if far == 1:
        return runs * _flat(kind, message, n, _need(wires.level(n, stride), wires, n * stride))
    outside = _need(wires.outside, wires, n * stride)
    if near == 1:
        return runs * _flat(kind, message, n, outside)
    inside = _need(wires.level(near, stride), wires, near * stride)
    if kind == "all_to_all":
        cross = message * (n - near) / n / outside.bytes_per_s
        local = message * (near - 1) / n / inside.bytes_per_s
        return runs * (LIBRARY_START_S + (far - 1) * outside.latency_s + np.maximum(cross, local))
    if kind == "all_reduce":
        time = _flat("reduce_scatter", message, near, inside)
        time = time + _flat("all_reduce", message / near, far, outside)
        return runs * (time + _flat("all_gather", message, near, inside))
    return runs * (
        _flat(kind, message / near, far, outside) + _flat(kind, message, near, inside)
    )  # fmt: skip


def _need(level: Level | None, wires: Wires, span: int) -> Level:
    if level is None:
        raise SpecError.one(
            "device", f"no link is known for collectives over {span} devices "
            f"(one domain holds {wires.domain})",
            "name scale_up or network in the device",
        )  # fmt: skip
    return level


def _flat(kind: Kind, S: Array, n: int, level: Level) -> Array:
    """One level: alpha-beta of the best algorithm; S and factors as in ops.collectives.

    Library algorithms move S' = S + min(S, RAMP_BYTES): small messages at half the rate.
    """
    a, B = level.latency_s, level.bytes_per_s
    share = (n - 1) / n
    start, Sr = LIBRARY_START_S, S + np.minimum(S, RAMP_BYTES)
    if kind == "all_to_all":
        return start + (1 if level.direct else n - 1) * a + share * Sr / B
    if kind in ("all_gather", "reduce_scatter"):
        return start + (n - 1) * a + share * Sr / B
    ring = start + 2 * (n - 1) * a + 2 * share * Sr / B
    tree = start + 2 * math.ceil(math.log2(n)) * a + 2 * Sr / B
    best = np.minimum(ring, tree)
    if level.direct:
        one_shot = DIRECT_START_S + a + (n - 1) * S / B  # read everything from everyone
        two_shot = DIRECT_START_S + 2 * a + 2 * share * S / B
        best = np.minimum(best, np.where(S <= DIRECT_BYTES, np.minimum(one_shot, two_shot), best))
    if level.reduces and n > 2:
        rate = B * SWITCH_LINK / LINK
        best = np.minimum(best, start + 2 * a + Sr * (1 + 1 / n) / rate)
    return best
