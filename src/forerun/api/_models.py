"""Pools that serve some of a case's models: each with its costs, its memory and its weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from math import comb
from typing import TYPE_CHECKING

from forerun import catalog, units
from forerun.errors import Infeasible, Problem, SpecError
from forerun.spec.case import Asked, Case
from forerun.spec.deployment import Pool

if TYPE_CHECKING:
    from forerun.sim.diffusion import Asked as Renders
    from forerun.sim.serve import Served
    from forerun.spec.model import Model
    from forerun.spec.requests import Requests
    from forerun.techniques import Edited


def asked_models(case: Case) -> dict[str, Asked]:
    """The models of a case by name; the only one has the name that the case gives it."""
    return case.models or {case.model: Asked(model=case.model)}


def served(
    case: Case,
    edited: Edited,
    mean_len: Mapping[int, int],
    *,
    seed: int = 0,
    span_s: float = 0.0,
    items: Mapping[int, int] | None = None,
    n_adapters: Mapping[int, int] | None = None,
    renders: Renders | None = None,
) -> list[Served]:
    """Every pool with every model it serves, in order; its replicas begin with them in turn.

    mean_len : tokens of a usual request, by model.
    seed, span_s : of the draws of experts, and how long the run is about to be.
    items : patches of the largest image that requests show, by model.
    n_adapters : that requests name, by model.
    renders : what images or videos are, where a diffusion model makes them.
    Rows of other levels of expert load, and those of encoders in front of models, come after all
    pools; they have no replicas of their own.
    Raises Infeasible with the problems of all pools and models.
    """
    from forerun.sim.control.dials import keys
    from forerun.sim.control.experts import with_levels

    out: list[Served] = []
    others: list[tuple[int, list[Served]]] = []
    problems: list[Problem] = []
    names = list(asked_models(case))
    apart = encoded_apart(case, edited.deployment.pools)
    encoders: list[tuple[int, Served]] = []
    pixels: list[tuple[int, Served]] = []
    branches: list[tuple[int, Served]] = []
    for group, pool in enumerate(edited.deployment.pools):
        numbers = [names.index(name) for name in pool.models or names[:1]]
        try:
            for first, *rest in _of_pool(
                case, edited, pool, group, numbers, mean_len, seed, span_s, n_adapters or {},
                items or {}, apart, renders,
            ):  # fmt: skip
                out.append(first)
                if first.denoises:
                    pixels.append((len(out) - 1, rest.pop()))
                if first.branch is not None:
                    branches.append((len(out) - 1, rest.pop()))
                while rest and rest[0].pool.role == "encode":
                    encoders.append((len(out) - 1, rest.pop(0)))
                if rest:
                    others.append((len(out) - 1, rest))
        except Infeasible as error:
            problems += error.problems
    if problems:
        raise Infeasible(*problems)
    out = with_levels(out, others)
    homes = [home for home, _ in keys(out)]
    for p, row in encoders:  # of the pool, at whatever load of its experts, or of one of its lanes
        mine = [
            q
            for q, home in enumerate(homes)
            if (home == p if row.block is None else (row.block, row.lane) == _lane(out[q]))
        ]
        for q in mine:
            out[q] = replace(out[q], encoder=len(out))
        out.append(replace(row, block=None, lane=0))
    for p, row in pixels:
        out[p] = replace(out[p], shows=len(out))
        out.append(row)
    for p, row in branches:
        branch = out[p].branch
        assert branch is not None
        out[p] = replace(out[p], branch=replace(branch, row=len(out)))
        out.append(row)
    return out


def _lane(served: Served) -> tuple[str | None, int]:
    return served.block, served.lane


def renders_of(case: Case, wanted: Requests) -> Renders | None:
    """What images or videos are to the case's diffusion model, all together; None for text."""
    import numpy as np

    from forerun.sim.diffusion import Asked as Renders
    from forerun.spec.renders import copies, past

    if case.traffic.render is None:
        return None
    most = int(wanted.isl.max(initial=1))
    mean = round(float(wanted.isl.mean())) if len(wanted) else 1
    model, render = catalog.model(case.model), case.traffic.render
    sizes = [tuple(map(int, name.split("x"))) for name in render.size]
    before = [past(model, render, *size) for size in sizes]
    shares = np.array(list(render.size.values()))
    usual = int(np.average(before, weights=shares))
    least = int(wanted.isl.min(initial=most))
    n_controls = 0 if render.controls is None else render.controls.n
    return Renders(most, mean, copies(model, render), usual, max(before), least, n_controls)


def encoded_apart(case: Case, pools: Sequence[Pool]) -> set[int]:
    """The models, by number, whose images pools of their own encode."""
    names = list(asked_models(case))
    named = [name for pool in pools if pool.role == "encode" for name in pool.models or names[:1]]
    return {names.index(name) for name in named if name in names}


def _of_pool(
    case: Case,
    edited: Edited,
    pool: Pool,
    group: int,
    numbers: list[int],
    mean_len: Mapping[int, int],
    seed: int,
    span_s: float,
    n_adapters: Mapping[int, int],
    items: Mapping[int, int],
    apart: set[int],
    renders: Renders | None,
) -> list[list[Served]]:
    """For each model of a pool its row; behind it that of its encoder, and those of other levels
    of expert load."""
    from forerun.cost.memory import measure
    from forerun.sim import diffusion, encoders
    from forerun.techniques import prepare

    asked = list(asked_models(case).values())
    models = [catalog.model(asked[m].model) for m in numbers]
    device = catalog.device(pool.device)
    cache = edited.deployment.embedding_cache
    kept = cache.capacity_bytes if cache is not None and cache.memory == "device" else 0.0
    if models[0].diffusion is not None:
        n_named = n_adapters.get(numbers[0], 0)
        assert renders is not None  # `check_render` has looked
        if pool.role == "encode" and pool.controlnets is not None:
            where = f"deployment.pools.{pool.name}.controlnets"
            raise SpecError.one(where, "a pool that encodes text denoises nothing", "drop it")
        if pool.role == "encode":
            return [[diffusion.alone(models[0], pool, device)]]
        how = edited.deployment.adapters if n_named else None
        return [
            diffusion.stages(
                models[0], pool, device, renders, apart=numbers[0] in apart, adapters=how,
                n_adapters=n_named,
            )
        ]  # fmt: skip
    if pool.controlnets is not None:
        where, what = f"deployment.pools.{pool.name}.controlnets", "a model of text has none"
        raise SpecError.one(where, what, "drop it")
    if pool.role == "encode":
        if len(numbers) > 1:
            what = "models whose images are encoded cannot take turns"
            raise SpecError.one(f"deployment.pools.{pool.name}.models", what, "a pool for each")
        row = encoders.alone(models[0], pool, device, items.get(numbers[0], 0), kept)
        return [[replace(row, model=numbers[0])]]
    # where another pool encodes, nobody else keeps the encoder's weights
    models = [
        model.model_copy(update={"vision": None, "audio": None}) if m in apart else model
        for m, model in zip(numbers, models, strict=True)
    ]
    sizes = [measure(model, pool, device).weights_bytes for model in models]
    parts = [shared_parts(asked[m]) for m in numbers]
    known = sorted({name for part in parts for name in part})
    differ(pool, list(asked_models(case)), numbers, parts, sizes)
    rate, latency_s = weights_rate(pool) if len(numbers) > 1 else (float("inf"), 0.0)
    out = []
    for k, (m, model) in enumerate(zip(numbers, models, strict=True)):
        own = pool.model_copy(update={"replicas": len(range(k, pool.replicas, len(numbers)))})
        alone = replace(edited, deployment=edited.deployment.model_copy(update={"pools": (own,)}))
        encoder, taken = None, 0.0
        if m in items and m not in apart and pool.role != "decode":
            encoder, taken = encoders.in_front(model, pool, device, items[m])
            taken += kept
        rows = prepare(
            model,
            alone,
            mean_len=mean_len.get(m, 2048),
            beside_bytes=beside(sizes, parts, k, pool.resident) + taken,
            seed=seed,
            span_s=span_s,
            n_adapters=n_adapters.get(m, 0),
        )
        if len(rows) > 1 and len(numbers) > 1:
            raise SpecError.one(
                f"deployment.pools.{pool.name}.moe",
                "experts whose load changes cannot yet be combined with models that take turns: "
                "both change what a replica runs",
                "no drift and no rebalance_s (one load for the whole run), or one model",
            )
        weights = rows[0].weights_bytes
        whole = weights * pool.devices_per_replica
        first = replace(
            rows[0],
            model=m,
            group=group if len(numbers) > 1 else None,
            blocks=tuple((known.index(name), share) for name, share in parts[k].items()),
            n_resident=pool.resident,
            load_s=latency_s + weights / rate,
            load_latency_s=latency_s,
            load_bytes=whole,
        )
        behind = [replace(row, model=m) for row in rows[1:]]
        if encoder is not None and first.block is None:
            behind.insert(0, replace(encoder, model=m))
        elif encoder is not None:
            lanes = encoders.of_lanes(model, device, items[m], pool, [first, *behind])
            behind = [*(replace(row, model=m) for row in lanes), *behind]
        out.append([first, *behind])
    return out


def shared_parts(asked: Asked) -> dict[str, float]:
    """Shares of a model's weights by the name of the block that others may have too."""
    if asked.base is not None:
        return {asked.base: 1.0 - asked.own_share} if asked.own_share < 1 else {}
    return dict(asked.blocks)


SETS = 5_000  # of models that a replica may keep together, looked at one by one


def beside(sizes: Sequence[float], parts: Sequence[dict[str, float]], k: int, most: int) -> float:
    """Bytes of the weights that a replica may keep beside model k, `most` models at a time: of the
    largest set, each shared block once."""
    others = [m for m in range(len(sizes)) if m != k]
    n = min(most - 1, len(others))
    if n <= 0:
        return 0.0
    if comb(len(others), n) > SETS:  # an upper bound: nothing is shared
        return sum(sorted((sizes[m] for m in others), reverse=True)[:n])
    return (
        max(_together(sizes, parts, (k, *chosen)) for chosen in combinations(others, n)) - sizes[k]
    )


def _together(
    sizes: Sequence[float], parts: Sequence[dict[str, float]], kept: tuple[int, ...]
) -> float:
    """Bytes of several models, each shared block once."""
    shared: dict[str, float] = {}
    own = 0.0
    for m in kept:
        own += sizes[m] * (1.0 - sum(parts[m].values()))
        for name, share in parts[m].items():
            shared[name] = max(shared.get(name, 0.0), share * sizes[m])
    return own + sum(shared.values())


def differ(
    pool: Pool, names: Sequence[str], numbers: Sequence[int], parts: Sequence[dict[str, float]],
    sizes: Sequence[float],
) -> None:  # fmt: skip
    """Raises SpecError where one block would have two sizes."""
    first: dict[str, tuple[str, float]] = {}
    problems = []
    for m, part, size in zip(numbers, parts, sizes, strict=True):
        for name, share in part.items():
            other, known = first.setdefault(name, (names[m], share * size))
            if abs(share * size - known) > 0.01 * known:
                what = (
                    f"{name} is {units.show(share * size, 'bytes')} of it on {pool.device} and "
                    f"{units.show(known, 'bytes')} of {other}: one block has one size"
                )
                fix = "shares that give the same bytes, or another name"
                problems.append(Problem(f"models.{names[m]}", what, fix))
    if problems:
        raise SpecError(*problems)


def of_pools(case: Case, pools: Sequence[Served]) -> list[Model]:
    """The model that each pool, ready to run, serves."""
    asked = list(asked_models(case).values())
    return [catalog.model(asked[one.model].model) for one in pools]


def by_row(
    prices: list[float] | None, case_pools: Sequence[Pool], pools: Sequence[Served]
) -> list[float] | None:
    """Prices of pools as prices of their rows: a pool has one for each model, or lane, its replicas
    begin as."""
    if prices is None:
        return None
    name = [served.block or served.pool.name for served in pools]
    at = {pool.name: k for k, pool in enumerate(case_pools)}
    n = dict.fromkeys(at, 0)
    for one, served in zip(name, pools, strict=True):
        n[one] = n.get(one, 0) + served.pool.replicas
    return [
        prices[at[one]] * (served.pool.replicas / n[one]) if served.pool.replicas else 0.0
        for one, served in zip(name, pools, strict=True)
    ]


def weights_rate(pool: Pool) -> tuple[float, float]:
    """Bytes a second that each device of a pool loads weights by, and the latency.

    Raises SpecError where neither the pool nor its device names a link.
    """
    name = pool.weights_link or catalog.device(pool.device).host_link
    if name is None:
        where = f"deployment.pools.{pool.name}.weights_link"
        what = f"weights of {len(pool.models)} models come and go, and {pool.device} names no link"
        raise SpecError.one(where, f"{what} to its host", "weights_link: NAME (forerun show link)")
    link = catalog.link(name)
    return link.bandwidth_bytes_per_s, link.latency_s


def assumed(case: Case, edited: Edited) -> tuple[str, ...]:
    """What a run with models that take turns leaves out."""
    turning = [pool for pool in edited.deployment.pools if len(pool.models) > 1]
    if not turning:
        return ()
    starts = (
        "a replica that starts cold begins with the model that most requests wait for, by the "
        "replicas that have it; only its weights come then",
    )
    links = sorted({p.weights_link or catalog.device(p.device).host_link or "?" for p in turning})
    return (
        f"weights come over {', '.join(links)}, each device its own share by its own link at full "
        "rate; captured graphs and warm-up of a model that comes back are not priced; while it "
        "loads a replica draws idle power",
        *(starts if any(p.autoscale for p in turning) or case.faults else ()),
    )
