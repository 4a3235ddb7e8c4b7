"""How many times the load a technique carries under the same goals: capacity over capacity."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from pydantic import Field, model_validator

from forerun import catalog
from forerun.claims import schema
from forerun.claims.capacity import Capacity, Goal, capacity, draw
from forerun.claims.fits import Fit
from forerun.claims.found import Found, How, Point, read_rows
from forerun.claims.measures.step_times import fit_note
from forerun.cost.scale import Scale, scaled
from forerun.cost.table import CostTable
from forerun.ops.graph import Graph
from forerun.spec.base import Spec
from forerun.spec.case import Case, Fleet
from forerun.spec.deployment import Deployment, Engine, Policy, Pool
from forerun.spec.model import Model
from forerun.spec.slo import Slo
from forerun.spec.traces import bundled
from forerun.spec.workload import Traffic
from forerun.techniques import compose, find, prepare

QUICK_REQUESTS = 512


class LengthsFrom(Spec):
    """Lengths of requests: columns of a published file, or those of a bundled workload where the
    file is not here (the result says so)."""

    file: str
    isl: str
    osl: str
    instead: str


class Setup(Spec):
    """One deployment under one traffic.

    max_len : replaces the model's longest context, for a checkpoint of the same shape.
    isl_scale, osl_scale : make the lengths of another cut of the same texts.
    counted : whether the case is part of the claim's number, or shown only; `why` says why not.
    """

    name: str
    model: str
    max_len: int | None = None
    deployment: Deployment
    lengths: LengthsFrom
    max_request_tokens: int
    goals: tuple[Goal, ...]
    isl_scale: float = 1.0
    osl_scale: float = 1.0
    counted: bool = True
    why: str = ""


class Band(Spec):
    """What is moved, one at a time: factors on lengths and goals, variation of the gaps between
    arrivals (1 is Poisson), other seeds, and costs fitted to an engine's own batch times."""

    lengths: tuple[float, ...] = (0.9, 1.1)
    goals: tuple[float, ...] = (0.9, 1.1)
    arrivals_cv: tuple[float, ...] = (0.8, 1.25)
    seeds: tuple[int, ...] = (1, 2)
    fit: Fit | None = None


class Ablation(Spec):
    """Knobs that take the mechanism away, and the share of the gain that may then be left: with a
    ratio of 3 and a tenth left, the ratio without the mechanism is at most 1.2."""

    knobs: dict[str, float]
    leaves: float = Field(default=0.1, ge=0, lt=1)
    why: str


class Claim(schema.Claim):
    """`cases` are measured one by one; `take` makes one number of them.

    baseline : settings of every engine in place of the technique's own baseline.
    also     : further deployments to compare with, by settings of their engines.
    at_least : no ratio of any case or band point may be below this.
    """

    cases: tuple[Setup, ...]
    take: Literal["best", "worst", "mean"] = "best"
    n_requests: int = 2048
    baseline: dict[str, Any] | None = None
    also: dict[str, dict[str, Any]] = {}
    at_least: float | None = None
    band: Band = Band()
    ablation: Ablation | None = None

    @model_validator(mode="after")
    def _something_counts(self) -> Claim:
        if not any(case.counted for case in self.cases):
            raise ValueError("no case counts (try: a case without `counted: false`)")
        return self


@dataclass(frozen=True)
class Shift:
    """One point of the band; nothing moved by default."""

    label: str = "as published"
    lengths: float = 1.0
    goals: float = 1.0
    cv: float = 1.0
    seed: int = 0
    scale: Scale | None = None


def measure(claim: Claim, how: How) -> Found:
    """The ratio of capacities, over cases, band and ablation."""
    at = Shift(seed=how.seed)
    rows, parts, notes, broken, absent = [], [], [], [], []
    for case in claim.cases:
        how.step(f"{claim.name}: {case.name}")
        isl, osl, file = lengths(case, how)
        if file:
            absent.append(file)
            notes.append(f"{case.name}: lengths are of the bundled {case.lengths.instead}")
        found = {name: capacity_of(claim, case, d, (isl, osl), at, how)
                 for name, d in sides(claim, case).items()}  # fmt: skip
        base, own = found["baseline"], found["technique"]
        if case.counted:
            parts.append(Point(case.name, ratio(own, base), own.binding))
        else:
            notes.append(f"{case.name} is shown only: {case.why}")
        for name, one in found.items():
            against = ratio(own, one)
            times = "" if against is None or name == "technique" else f"{against:.2f}"
            rows.append((case.name, name, f"{one.rate_per_s:.2f}", times, one.binding))
    band = tuple(_band(claim, how, notes))
    for point in (*parts, *band):
        low = claim.at_least
        if low is not None and point.value is not None and point.value < low:
            broken.append(f"{point.label}: {point.value:.2f} is below {low:g}")
    value = _taken(claim, parts)
    gain = max(0.0, (value or 1.0) - 1.0)
    return Found(
        value=value,
        parts=tuple(parts),
        band=band,
        ablation=_ablated(claim, how, at),
        ablation_limit=None if claim.ablation is None else 1 + claim.ablation.leaves * gain,
        stand_ins=tuple(dict.fromkeys(absent)),
        broken=tuple(broken),
        notes=tuple(dict.fromkeys(notes)),
        columns=(
            "case",
            "deployment",
            "capacity req/s",
            "technique is x times",
            "what fails above",
        ),
        rows=tuple(rows),
    )


def sides(claim: Claim, case: Setup, knobs: Mapping[str, float] | None = None) -> dict[str, Any]:
    """The deployments that are compared: baseline, technique (as `Edited`), and others."""
    technique = find(claim.technique.name)
    base = technique.baseline(case.deployment)
    if claim.baseline is not None:
        base = _with(case.deployment, claim.baseline)
    used = {**claim.technique.params, **(knobs or {})}
    return {
        "baseline": base,
        "technique": compose(base, [Policy(name=technique.name, params=used)]),
        **{name: _with(case.deployment, engine) for name, engine in claim.also.items()},
    }


def _with(deployment: Deployment, settings: Mapping[str, Any]) -> Deployment:
    """Every engine with other settings."""

    def changed(pool: Pool) -> Pool:
        engine = Engine.model_validate({**pool.engine.model_dump(), **settings})
        return pool.model_copy(update={"engine": engine})

    return deployment.model_copy(update={"pools": tuple(changed(p) for p in deployment.pools)})


def model_of(case: Setup) -> Model:
    model = catalog.model(case.model)
    return model.model_copy(update={"max_len": case.max_len}) if case.max_len else model


def case_of(claim: Claim, case: Setup) -> Case:
    """The question as a `Case`, as techniques see it: on the baseline's deployment, the bound on
    gaps that of the goals."""
    base: Deployment = sides(claim, case)["baseline"]
    gaps = [goal.at_most_s for goal in case.goals if goal.of == "itl"]
    pools = base.pools
    fleet = {p.device: sum(q.n_devices for q in pools if q.device == p.device) for p in pools}
    return Case(
        model=case.model,
        fleet=Fleet.model_validate(fleet),
        traffic=Traffic(trace=case.lengths.instead),
        slo=Slo(itl_s=gaps[0] if gaps else None),
        deployment=base,
    )


def counted(claim: Claim) -> list[Setup]:
    return [case for case in claim.cases if case.counted]


def lengths(case: Setup, how: How) -> tuple[np.ndarray, np.ndarray, str]:
    """(isl, osl, the published file when it is not here and a bundled workload stands in)."""
    isl, osl, absent = _lengths(case.lengths, how)
    return np.rint(isl * case.isl_scale), np.rint(osl * case.osl_scale), absent


def _lengths(source: LengthsFrom, how: How) -> tuple[np.ndarray, np.ndarray, str]:
    path = how.path(source.file)
    if path is None:
        drawn = bundled.load(source.instead).draw_at(np.zeros(20_000), seed=how.seed)
        return drawn.isl, drawn.osl, source.file
    rows = read_rows(path)
    return (*(np.array([int(row[c]) for row in rows]) for c in (source.isl, source.osl)), "")  # type: ignore[return-value]


def capacity_of(
    claim: Claim, case: Setup, deployment: Any, sizes: tuple[np.ndarray, np.ndarray], at: Shift,
    how: How,
) -> Capacity:  # fmt: skip
    """The capacity of one deployment with everything moved as `at` says."""
    n = min(claim.n_requests, QUICK_REQUESTS) if how.quick else claim.n_requests
    load = draw(
        *sizes, n, seed=at.seed, cv=at.cv, scale=at.lengths, most=case.max_request_tokens
    )  # fmt: skip
    goals = [
        goal.model_copy(update={"at_most_s": goal.at_most_s * at.goals}) if goal.scales else goal
        for goal in case.goals
    ]

    def reprice(table: CostTable, _graph: Graph, _pool: Pool) -> CostTable:
        return table if at.scale is None else scaled(table, at.scale)

    mean_len = round(float((load.isl + load.osl).mean()))
    pools = prepare(model_of(case), deployment, mean_len=mean_len, reprice=reprice)
    return capacity(pools, load, goals, seed=at.seed, resolution=0.03 if how.quick else 0.01)


def ratio(a: Capacity, b: Capacity) -> float | None:
    """a over b; None when b carries no load at all."""
    return a.rate_per_s / b.rate_per_s if b.rate_per_s > 0 else None


def _taken(claim: Claim, parts: list[Point]) -> float | None:
    values = [point.value for point in parts if point.value is not None]
    if len(values) < len(parts) or not values:
        return None
    return {"best": max(values), "worst": min(values), "mean": sum(values) / len(values)}[
        claim.take
    ]


def _one(claim: Claim, how: How, at: Shift, knobs: Mapping[str, float] | None = None) -> Point:
    """The claim's number with everything moved as `at` says."""
    parts = []
    for case in counted(claim):
        isl, osl, _ = lengths(case, how)
        scale = at.scale
        if scale is not None and claim.band.fit is not None:
            scale = claim.band.fit.for_model(scale, model_of(case))
        there = sides(claim, case, knobs)
        own, base = (
            capacity_of(claim, case, there[name], (isl, osl), replace(at, scale=scale), how)
            for name in ("technique", "baseline")
        )
        parts.append(Point(case.name, ratio(own, base)))
    detail = ", ".join(
        f"{p.label} {'undefined' if p.value is None else format(p.value, '.2f')}" for p in parts
    )
    return Point(at.label, _taken(claim, parts), detail)


def _band(claim: Claim, how: How, notes: list[str]) -> Iterator[Point]:
    band = claim.band
    shifts = [Shift(f"lengths x {f:g}", lengths=f, seed=how.seed) for f in band.lengths]
    shifts += [Shift(f"goals x {f:g}", goals=f, seed=how.seed) for f in band.goals]
    if not how.quick:
        shifts += [Shift(f"arrivals cv {f:g}", cv=f, seed=how.seed) for f in band.arrivals_cv]
        shifts += [Shift(f"seed {s}", seed=s) for s in band.seeds]
    if band.fit is not None and not how.quick:
        if how.path(band.fit.rows) is None:
            notes.append(
                f"{band.fit.rows} is not here: not checked on the engine's own batch times"
            )
        else:
            scale = band.fit.scale(how)
            notes.append(f"the engine's own costs: {fit_note(scale)}")
            shifts.append(Shift("the engine's own costs", seed=how.seed, scale=scale))
    for shift in shifts:
        how.step(f"{claim.name}: {shift.label}")
        yield _one(claim, how, shift)


def _ablated(claim: Claim, how: How, at: Shift) -> Point | None:
    if claim.ablation is None:
        return None
    how.step(f"{claim.name}: without the mechanism")
    point = _one(claim, how, at, claim.ablation.knobs)
    return replace(point, label=claim.ablation.why)
