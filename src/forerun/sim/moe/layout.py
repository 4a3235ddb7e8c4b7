"""A placement of experts on devices: found by name, and what it makes of a routing.

Legend: L layers with experts, E experts, S slots, D devices (ep); l, e, s, d one of them.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np

from forerun.errors import SpecError, nearest
from forerun.ops.collectives import devices_visited
from forerun.sim.moe import placements
from forerun.sim.moe.routing import coupling

ROUND = 9  # decimals: sums in another order are no other load


@cache
def names() -> tuple[str, ...]:
    """The placements that ship with Forerun."""
    return tuple(sorted(m.name for m in pkgutil.iter_modules(placements.__path__)))


def find(name: str) -> tuple[Callable[..., np.ndarray], bool]:
    """(the policy, whether it learns from loads).  Raises SpecError for an unknown name."""
    if name not in names():
        raise SpecError.one(
            "moe.placement", f"no placement is called {name}", nearest(name, names())
        )
    module = importlib.import_module(f"{placements.__name__}.{name}")
    return getattr(module, name), module.LEARNS


def place(
    name: str, load: np.ndarray, *, n_devices: int, n_slots: int, affinity: float,
    follows: list[np.ndarray] | None = None,
) -> np.ndarray:  # fmt: skip
    """Experts by slot, int64 [L, S], from loads [L, E] and the links between layers."""
    policy, _ = find(name)
    out = np.empty((len(load), n_slots), dtype=np.int64)
    for l, here in enumerate(load):
        flow = None
        if l and name == "affine":
            joint = coupling(load[l - 1], here, affinity, follows[l - 1] if follows else None)
            flow = on_devices(out[l - 1], len(here), n_devices) @ joint / load[l - 1].sum()
        out[l] = policy(here, flow, n_devices=n_devices, n_slots=n_slots)
    return out


def on_devices(slots: np.ndarray, n_experts: int, n_devices: int) -> np.ndarray:
    """Share of an expert's tokens that each device takes, float64 [D, E]; columns sum to 1."""
    out = np.zeros((n_devices, n_experts))
    device = np.arange(len(slots)) // (len(slots) // n_devices)
    np.add.at(out, (device, slots), 1.0 / np.bincount(slots, minlength=n_experts)[slots])
    return out


@dataclass(frozen=True)
class Spread:
    """What a routing and a placement make of a step, each over that of uniform routing.

    load     : pairs of the busiest device over the mean, mean of the layers; at least 1
    exchange : bytes of dispatch and combine
    port     : the same of the device that gets most, over the mean when uniform
    """

    load: float
    exchange: float = 1.0
    port: float = 1.0


def spread(
    share: np.ndarray, slots: np.ndarray, *, n_devices: int, topk: int, affinity: float,
    tokens_stay: bool, follows: list[np.ndarray] | None = None,
) -> Spread:  # fmt: skip
    """
        load     = mean over layers of max over devices of D * sum of shares there
        visited  = 1 - product over the device's slots of (1 - topk share / copies)
        exchange = mean over layers of sum over devices of visited / that when uniform
        port     = mean over layers of D * max over devices of visited / that sum when uniform
        both       times (1 - stay) / (1 - 1/D)             if tokens stay with their experts

    stay: chance that the device of a token's expert is that of its expert one layer before.
    """
    n_layers, E = share.shape
    load = visited = port = stay = 0.0
    before = None
    for l in range(n_layers):
        here = on_devices(slots[l], E, n_devices)
        load += n_devices * float((here @ share[l]).max())
        each = np.clip(here * share[l] * topk, 0.0, 1.0)
        reached = -np.expm1(np.log1p(-np.minimum(each, 1 - 1e-15)).sum(axis=1))
        visited += float(reached.sum())
        port += n_devices * float(reached.max())
        if tokens_stay and before is not None:
            joint = coupling(share[l - 1], share[l], affinity, follows[l - 1] if follows else None)
            stay += float(((before @ joint) * here).sum())
        before = here
    goes = 1.0
    if tokens_stay and n_layers > 1 and n_devices > 1:
        goes = (1 - stay / (n_layers - 1)) / (1 - 1 / n_devices)
    goes /= n_layers * devices_visited(n_devices, n_experts=E, topk=topk)
    exchange, port = (round(max(0.0, goes * v), ROUND) for v in (visited, port))
    return Spread(max(1.0, round(load / n_layers, ROUND)), exchange, port)


def moved(old: np.ndarray, new: np.ndarray, n_devices: int) -> int:
    """Experts that the device which gets most of them had not before, all layers together."""
    each = old.shape[1] // n_devices
    per_device = np.zeros(n_devices, dtype=np.int64)
    for l in range(len(old)):
        a, b = old[l].reshape(n_devices, each), new[l].reshape(n_devices, each)
        per_device += [len(set(b[d]) - set(a[d])) for d in range(n_devices)]
    return int(per_device.max())
