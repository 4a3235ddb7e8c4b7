"""Cold starts taken apart: machine, image, weights, compiling, warming up.

    load_s = bytes of weights / bytes a second of where they lie

From host memory (`dram`) each device loads its part over its own host link, from another machine's
(`network`) over its own network link.  A local disk (`nvme`) and an object store are shared by all
devices of a replica; no data sheet in the catalog states their rates, so that a usual one is taken
unless `weights_bytes_per_s` is given, and the answer says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from forerun import catalog, units
from forerun.cost.memory import memory
from forerun.errors import SpecError
from forerun.sim.setup import Served
from forerun.spec.deployment import Pool
from forerun.spec.device import Device
from forerun.spec.model import Model

#: bytes a second of one replica when nothing is known: a PCIe 4 x4 drive's data-sheet reading rate;
#: ten gigabits a second
USUAL = {"nvme": 7e9, "object_store": 1.25e9}
STAGES = ("allocate", "pull image", "load weights", "compile", "warm up")


@dataclass(frozen=True)
class Cold:
    """A cold start of one replica: seconds by stage, in order, and what was assumed."""

    stages: tuple[tuple[str, float], ...]
    assumed: tuple[str, ...] = ()

    @property
    def time_s(self) -> float:
        return sum(time_s for _, time_s in self.stages)

    def words(self) -> str:
        """ "118 s: allocate 30 s, load weights 18 s, compile 70 s"."""
        parts = ", ".join(f"{name} {units.show(s, 'time')}" for name, s in self.stages if s > 0)
        return units.show(self.time_s, "time") + (f": {parts}" if parts else "")


WARM = Cold(())


def cold(pool: Pool, device: Device, weights_bytes: float) -> Cold:
    """The cold start of a pool's replica.

    weights_bytes : of one device.
    Raises SpecError where an image has no rate or a tier has no link.
    """
    start = pool.cold_start
    rate, assumed = weights_rate(pool, device)
    n = pool.devices_per_replica
    pulling = 0.0
    if start.image_bytes > 0:
        if start.image_bytes_per_s is None:
            raise SpecError.one(
                f"deployment.pools.{pool.name}.cold_start.image_bytes_per_s",
                "is missing beside image_bytes",
                "image_bytes_per_s: 200 MB/s",
            )
        pulling = start.image_bytes / start.image_bytes_per_s
    loading = 0.0 if rate is None else weights_bytes * n / rate
    times = (start.allocate_s, pulling, loading, start.compile_s, start.warm_s)
    return Cold(tuple(zip(STAGES, times, strict=True)), assumed)


def weights_rate(pool: Pool, device: Device) -> tuple[float | None, tuple[str, ...]]:
    """Bytes a second at which a replica's weights come (None: they are there), what was assumed."""
    start = pool.cold_start
    tier = start.weights_from
    if tier == "device":
        return None, ()
    alone: tuple[str, ...] = ()
    if tier in ("network", "object_store"):
        alone = ("replicas that start together load as fast as one alone",)
    if start.weights_bytes_per_s is not None:
        return start.weights_bytes_per_s, alone
    if tier in USUAL:
        rate = units.show(USUAL[tier], "bytes_per_s")
        said = f"weights load from {tier.replace('_', ' ')} at {rate} a replica (a usual rate)"
        return USUAL[tier], (said, *alone)
    link = device.host_link if tier == "dram" else device.network
    if link is None:
        raise SpecError.one(
            f"deployment.pools.{pool.name}.cold_start.weights_from",
            f"{tier}: the catalog knows no {'host' if tier == 'dram' else 'network'} link of "
            f"{device.name}",
            "weights_bytes_per_s: 10 GB/s",
        )
    return catalog.link(link).bandwidth_bytes_per_s * pool.devices_per_replica, alone


def cold_starts(models: Sequence[Model], pools: Sequence[Served]) -> list[Cold]:
    """The cold start of each pool with the model that it runs.  Raises SpecError."""
    out = []
    for model, served in zip(models, pools, strict=True):
        device = catalog.device(served.pool.device)
        weights = served.weights_bytes
        if model.diffusion is None:
            weights = memory(model, served.pool, device).weights_bytes
        out.append(cold(served.pool, device, weights))
    return out
