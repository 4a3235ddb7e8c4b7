"""`candidates`: what a plan may choose from.  A candidate is a layout of one replica on a device
type; how many replicas it takes is what the search finds."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from forerun import catalog
from forerun.cost.memory import smallest_tp
from forerun.errors import SpecError
from forerun.spec.case import Case
from forerun.spec.deployment import Deployment, Policy, Pool
from forerun.spec.dtype import Dtype
from forerun.spec.model import Model, Moe

STAGES = (2, 4, 8)  # pipeline depths tried where one domain is too small
ROUTE = Policy(name="least_outstanding")


@dataclass(frozen=True)
class Candidate:
    """One replica's layout, and how many of it the fleet holds."""

    pool: Pool  # of one replica
    route: Policy
    most: int  # replicas that the fleet has devices for; 0 when not even one

    @property
    def device(self) -> str:
        return self.pool.device

    @property
    def name(self) -> str:
        """ "h100-sxm tp 2", "l40s tp 8 pp 2 fp8"."""
        p = self.pool
        sizes = [f"tp {p.tp}"] + [f"{k} {getattr(p, k)}" for k in ("pp", "dp", "ep", "cp")
                                  if getattr(p, k) > 1]  # fmt: skip
        return " ".join([p.device, *sizes, *([p.dtype] if p.dtype else [])])

    def n_devices(self, replicas: int) -> int:
        return replicas * self.pool.devices_per_replica

    def deployment(self, replicas: int) -> Deployment:
        """So many replicas of it, ready to be simulated."""
        pool = self.pool.model_copy(update={"replicas": replicas})
        return Deployment(pools=(pool,), route=self.route)


def candidates(
    case: Case,
    wishes: Deployment | None = None,
    dtypes: Sequence[Dtype] = (),
    keep: Collection[str] = (),
) -> list[Candidate]:
    """Every layout that a plan for the case looks at, possible or not (screening says which).

    Device types of the fleet x tensor parallel sizes (powers of two inside a scale-up domain),
    with pipeline stages where no such size fits the memory, with experts divided over the replica
    as another choice for models that have them.  The engine, the router and the formats are those
    of the case's deployment; its sizes are not looked at.

    wishes : a deployment whose given sizes are kept (`model_fields_set`).
    dtypes : weight formats to try; the deployment's own when empty.
    keep   : sizes of the case's deployment that are kept: "tp", "pp", "dp", "ep", "cp".
    Raises SpecError when the wishes fix the number of replicas, or name tiers of KV.
    """
    model = catalog.model(case.model)
    source = wishes or case.deployment
    given = frozenset(keep) | (wishes.pools[0].model_fields_set if wishes else frozenset())
    if "replicas" in given:
        fix = "drop it, or ask `forerun simulate` about that number"
        raise SpecError.one("deployment.replicas", "the number of replicas is the answer", fix)
    if source and source.kv_tiers:
        what = "a plan's layouts have memory of their own only, and no tiers of KV below"
        fix = "plan without them, then ask `forerun simulate` what they add"
        raise SpecError.one("deployment.kv_tiers", what, fix)
    out: list[Candidate] = []
    for name, group in case.fleet.devices.items():
        pool = _template(name, source)
        keep = {k: getattr(pool, k) for k in ("tp", "pp", "dp", "ep", "cp") if k in given}
        pool = pool.model_copy(
            update={k: keep.get(k, 1) for k in ("tp", "pp", "dp", "ep", "cp", "replicas")}
        )
        for dtype in dtypes or (pool.dtype,):
            pool = pool.model_copy(update={"dtype": dtype})
            for sizes in _layouts(model, pool, given):
                found = pool.model_copy(update=sizes)
                most = group.count // found.devices_per_replica
                out.append(Candidate(found, source.route if source else ROUTE, most))
    return list(dict.fromkeys(out))


def _template(device: str, source: Deployment | None) -> Pool:
    """A pool on the device with the engine and the formats of the deployment given."""
    if source is None:
        return Pool(device=device)
    same = [pool for pool in source.pools if pool.device == device]
    pool = (same or list(source.pools))[0]
    return pool.model_copy(update={"device": device})


def _layouts(model: Model, pool: Pool, given: frozenset[str]) -> list[dict[str, int]]:
    """Sizes to try: {"tp": 2}, {"tp": 8, "pp": 2}, {"tp": 8, "ep": 8}."""
    device = catalog.device(pool.device)
    domain = device.scale_up_domain or device.devices_per_node
    sizes = [pool.tp] if "tp" in given else [1 << i for i in range(domain.bit_length())]
    sizes = [tp for tp in sizes if tp <= max(domain, pool.tp)]
    out: list[dict[str, int]] = [{"tp": tp} for tp in sizes]
    if "pp" not in given and smallest_tp(model, pool, device) is None and device.network:
        out += [{"tp": tp, "pp": pp} for tp in sizes[-2:] for pp in STAGES]
    if "ep" not in given and any(isinstance(g.ffn, Moe) for g in model.layers):
        out += [
            {**layout, "ep": layout["tp"] * pool.dp * pool.cp}
            for layout in list(out)
            if layout["tp"] * pool.dp * pool.cp > 1
        ]
    return out
