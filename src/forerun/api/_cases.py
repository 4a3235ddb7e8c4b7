"""Cases with every name in them checked, and what a case leaves open."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import forerun
from forerun import catalog
from forerun.api._models import asked_models, weights_rate
from forerun.errors import ForerunError, Infeasible, Problem, SpecError, nearest
from forerun.ops.check import check_parallel
from forerun.ops.encoder import lower_encoder
from forerun.spec import check
from forerun.spec import read as reading
from forerun.spec.case import Case
from forerun.spec.deployment import Deployment, Pool

if TYPE_CHECKING:
    from forerun.cost.fit import Fit
    from forerun.spec.device import Device
    from forerun.spec.model import Model
    from forerun.spec.traces.synth import Synth

_PACKAGE = Path(forerun.__file__).parent
_POLICIES = _PACKAGE / "sim" / "policies"
_TECHNIQUES = _PACKAGE / "techniques"
_WORKLOADS = _PACKAGE / "catalog" / "workloads"
_LARGEST_TP = 8  # a default deployment stays within the usual node


def read(source: Any = None, overrides: Iterable[str] = (), **how: Any) -> reading.Reading:
    """The case that files, flags and variables describe, every name in it checked; see spec.read.

    Raises SpecError with all problems, each with its place and repair.
    """
    return reading.read(source, overrides, resolve=resolve, checks=(check_layouts,), **how)


def load(source: Any = None, overrides: Iterable[str] = (), **how: Any) -> Case:
    """The case in a file; a deployment that leaves its device open is completed.

    case = forerun.load("forerun.yaml", ["fleet.h100-sxm.count=8"])
    """
    found = read(source, overrides, **how)
    if found.wishes is None:
        return found.case
    return found.case.model_copy(
        update={"deployment": default_deployment(found.case, found.wishes)}
    )


def resolve(kind: str, name: str) -> str:
    """The catalog's own name of a model, device, policy or technique.  Raises SpecError."""
    if kind == "model":
        found = catalog.model(name).name
        return found if found in catalog.models() else name  # a file stays a path
    if kind == "device":
        try:
            return catalog.device(name).name
        except SpecError as error:
            first = error.problems[0]
            raise SpecError.one(first.where, f"{first.where} {first.what}", first.fix) from None
    if kind == "trace":
        return _trace(name)
    path, colon, _ = name.rpartition(":")
    if colon:
        if not Path(path).is_file():
            raise SpecError.one(name, f"there is no file {path!r}", "path/to/file.py:function")
        return name
    known = techniques() if kind == "technique" else policies(kind)
    if name not in known:
        what = f"no {kind if kind == 'technique' else kind + ' policy'} is called {name!r}"
        raise SpecError.one(kind, what, nearest(name, known) if known else "")
    return name


def _trace(name: str) -> str:
    """A bundled workload's name, or the path of a file that is there.  Raises SpecError."""
    bundled = _stems(_WORKLOADS, "*.yaml")
    if name in bundled or Path(name).exists():
        return name
    if "/" in name or "." in name:
        raise SpecError.one("trace", f"there is no file {name!r}", "check the path")
    what = f"no bundled workload or file is called {name!r}"
    raise SpecError.one("trace", what, nearest(name, bundled))


def policy_kinds() -> tuple[str, ...]:
    """What policies decide; nothing is imported."""
    return tuple(sorted(p.parent.name for p in _POLICIES.glob("*/__init__.py")))


def policies(kind: str) -> tuple[str, ...]:
    """Names of the policies of a kind that ship with Forerun; nothing is imported."""
    return _stems(_POLICIES / kind)


def techniques() -> tuple[str, ...]:
    """Names of the techniques that ship with Forerun; nothing is imported."""
    return _stems(_TECHNIQUES)


def _stems(folder: Path, pattern: str = "*.py") -> tuple[str, ...]:
    return tuple(sorted(p.stem for p in folder.glob(pattern) if not p.stem.startswith("_")))


def check_layouts(case: Case) -> list[Problem]:
    """What makes the case's deployment impossible for its model and devices."""
    if case.deployment is None:
        return []
    asked = asked_models(case)
    try:
        models = {name: catalog.model(one.model) for name, one in asked.items()}
        devices = {pool.device: catalog.device(pool.device) for pool in case.deployment.pools}
    except SpecError:
        return []  # a name that is not known is reported by `resolve`
    out = []
    for i, pool in enumerate(case.deployment.pools):
        served = [models[name] for name in pool.models or [*models][:1] if name in models]
        if any(model.diffusion is not None for model in served):
            found = [p for m in served for p in _drawable(m, pool)]
        elif pool.role == "encode":
            found = [p for m in served for p in _encodable(m, pool)]
        else:
            found = [p for m in served for p in check_parallel(m, pool, devices[pool.device])]
        for problem in found:
            where = problem.where.replace(f"deployment.{pool.name}", f"deployment.pools.{i}", 1)
            out.append(Problem(where, problem.what, problem.fix))
        if pool.power is not None:
            from forerun.sim.power.check import check_pool

            for problem in check_pool(pool):
                where = problem.where.replace(f"pools.{pool.name}", f"pools.{i}", 1)
                out.append(Problem(where, problem.what, problem.fix))
        if len(pool.models) > 1:
            try:
                weights_rate(pool)
            except SpecError as error:
                first = error.problems[0]
                where = f"deployment.pools.{i}.weights_link"
                out.append(Problem(where, first.what, first.fix))
    return list(dict.fromkeys(out))


def _drawable(model: Model, pool: Pool) -> Sequence[Problem]:
    """What keeps a pool from denoising, or from encoding its text."""
    from forerun.ops.diffusion import lower_denoiser, lower_text

    try:
        if pool.role != "encode":
            lower_denoiser(model, pool, 1)
        lower_text(model, pool)
    except ForerunError as error:
        return error.problems
    return ()


def _encodable(model: Model, pool: Pool) -> Sequence[Problem]:
    """What keeps a pool from encoding images for a model."""
    try:
        lower_encoder(model, pool)
    except ForerunError as error:
        return error.problems
    return ()


def workload(name: str) -> Synth | None:
    """A bundled workload by name, or one of the user's own by the path of its YAML; else None."""
    from forerun.spec.traces import bundled, synth

    if name in bundled.names():
        return bundled.load(name)
    if Path(name).suffix in (".yaml", ".yml"):
        return synth.load(name)
    return None


def default_deployment(case: Case, wishes: Deployment | None = None) -> Deployment:
    """A deployment for a case that names none: the largest group of the fleet, the smallest
    tensor-parallel degree that fits, as many replicas as there are devices for.

    wishes : a deployment whose given fields (`model_fields_set`) are kept.
    Raises Infeasible, saying what would make it fit, and SpecError for wishes that contradict the
    model or the fleet.
    """
    from forerun.cost.fit import fit as fit_pool

    one_model(case, "a default deployment", "deployment.pools, each with models: [...]")
    name, group = max(case.fleet.devices.items(), key=lambda item: item[1].count)
    device, model = catalog.device(name), catalog.model(case.model)
    wished = wishes.pools[0] if wishes else Pool(device=name)
    given = wished.model_fields_set - {"device"}
    pool = wished.model_copy(update={"device": name})
    if "tp" not in given and model.diffusion is not None:
        pool = pool.model_copy(update={"tp": _smallest_tp(model, pool, device, group.count)})
    elif "tp" not in given:
        found = fit_pool(model, device, pool=pool)
        most = min(group.count // (pool.pp * pool.dp * pool.cp), _LARGEST_TP)
        if found.smallest_tp is None and found.memory is None:
            raise SpecError(*found.problems)  # no size of tp makes this layout possible
        if found.smallest_tp is None or found.smallest_tp > most:
            raise Infeasible(*_does_not_fit(found, group.count))
        pool = pool.model_copy(update={"tp": found.smallest_tp})
    if "replicas" not in given:
        replicas = group.count // pool.devices_per_replica
        if replicas < 1:
            n = pool.devices_per_replica
            what = f"one replica takes {n} x {name}, the fleet has {group.count}"
            raise SpecError.one("deployment", what, f"--fleet {name}:{n}")
        pool = pool.model_copy(update={"replicas": replicas})
    chosen = Deployment(pools=(pool,))
    if wishes is not None:
        chosen = wishes.model_copy(update={"pools": (pool,)})
    problems = [
        *check.check_fleet(case.model_copy(update={"deployment": chosen})),
        *check_layouts(case.model_copy(update={"deployment": chosen})),
    ]
    if problems:
        raise SpecError(*problems)
    return chosen


def _smallest_tp(model: Model, pool: Pool, device: Device, count: int) -> int:
    """The least tensor parallelism by which a diffusion model fits.  Raises the last Infeasible."""
    from forerun.sim.diffusion import Asked as Renders
    from forerun.sim.diffusion import stages

    for tp in (1, 2, 4, 8):
        try:
            stages(model, pool.model_copy(update={"tp": tp}), device, Renders(1, 1, 1), apart=False)
        except ForerunError:
            if 2 * tp > min(count, _LARGEST_TP):
                raise
        else:
            return tp
    raise AssertionError("the last degree fits or raises")


def one_model(case: Case, what: str, fix: str) -> None:
    """Raises SpecError for a case with several models, where `what` takes one."""
    if len(case.models) > 1:
        raise SpecError.one("models", f"{what} is for one model, the case has several", fix)


def _does_not_fit(found: Fit, count: int) -> list[Problem]:
    if found.problems:
        return [
            Problem(p.where, p.what, "; ".join(found.suggestions) or p.fix) for p in found.problems
        ]
    what = f"{found.model} fits on tp = {found.smallest_tp} x {found.device}, the fleet has {count}"
    return [Problem("fleet", what, f"--fleet {found.device}:{found.smallest_tp}")]


def price_usd_per_hour(case: Case, deployment: Deployment) -> float | None:
    """What the deployment's devices cost an hour; None when a price is not known."""
    prices = pool_usd_per_hour(case, deployment)
    return None if prices is None else sum(prices)


def pool_usd_per_hour(case: Case, deployment: Deployment) -> list[float] | None:
    """What each pool's devices cost an hour, all rented; None when a price is not known."""
    prices = []
    for pool in deployment.pools:
        group = case.fleet.devices.get(pool.device)
        each = group.price_usd_per_hour if group else None
        here = case.regions.get(pool.region) if pool.region is not None else None
        if here is not None:
            each = here.prices_usd_per_hour.get(pool.device, each)
        if each is None:
            offer = catalog.price(pool.device)
            if offer is None:
                return None
            each = offer.usd_per_hour
        usd = each * pool.n_devices
        if pool.drafts_on is not None:
            name, n = pool.drafts_on
            group, offer = case.fleet.devices.get(name), catalog.price(name)
            each = group.price_usd_per_hour if group else None
            if each is None and offer is None:
                return None
            usd += n * (offer.usd_per_hour if each is None and offer else each or 0.0)
        prices.append(usd)
    return prices


def carbon_gco2e_per_kwh(case: Case, deployment: Deployment) -> float | dict[str, float] | None:
    """Intensity of the grid that feeds the deployment, or of each pool's by its name; None when it
    is not known of one of them."""
    found = pool_grids(case, deployment)
    each = [catalog.grid(name).gco2e_per_kwh for name in found if name is not None]
    if len(each) < len(found):
        return None
    if len(set(found)) == 1:
        return each[0]
    return {pool.name: one for pool, one in zip(deployment.pools, each, strict=True)}


def pool_grids(case: Case, deployment: Deployment) -> list[str | None]:
    """The grid that feeds each pool: of the region it is in, else of its devices."""
    out = []
    for pool in deployment.pools:
        group = case.fleet.devices.get(pool.device)
        here = case.regions.get(pool.region) if pool.region is not None else None
        grid = here.grid if here is not None else None
        out.append(grid or (group.region if group else None))
    return out
