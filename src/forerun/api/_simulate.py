"""`simulate`: a case in, its answer out."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from math import inf
from typing import TYPE_CHECKING, Any

from forerun import catalog
from forerun.api import _models
from forerun.api import _regions as regions
from forerun.api._cases import carbon_gco2e_per_kwh, default_deployment, pool_usd_per_hour
from forerun.api._words import model_words, setup_words, words
from forerun.errors import SpecError
from forerun.spec.case import Case
from forerun.spec.check import check_shares
from forerun.spec.check_adapters import check_named, n_named
from forerun.spec.check_control import check_control
from forerun.spec.check_power import check_power
from forerun.spec.deployment import Deployment

if TYPE_CHECKING:
    from forerun.metrics.answer import Metrics
    from forerun.report.result import Result as Report
    from forerun.sim.control.drive import Control
    from forerun.sim.log import Log, Tenant
    from forerun.sim.serve import Server
    from forerun.spec.requests import Requests


def requests(case: Case) -> Requests:
    """The requests of the case's traffic, drawn with its seed or read from its trace."""
    import numpy as np

    from forerun.spec.item_blocks import BLOCK_TOKENS
    from forerun.spec.items import with_items
    from forerun.spec.renders import check_render, rendered
    from forerun.spec.traces.mix import mixed
    from forerun.spec.traces.regional import drawn_in
    from forerun.spec.traces.senders import with_senders

    many = len(case.models) > 1
    drawn = mixed(case) if many else drawn_in(case.regions, case.traffic, seed=case.seed)
    if case.tenants:
        drawn = with_senders(case, drawn)
    render = case.traffic.render
    models = [catalog.model(asked.model) for asked in _models.asked_models(case).values()]
    for model in models:
        check_render(model, render)
    if render is not None:
        if many:
            what = "several models are not yet combined with images that are made"
            raise SpecError.one("models", what, "a case for each")
        drawn = rendered(drawn, models[0], render)
        if render.stream is not None and case.slo.frame_s is not None:
            due = np.full(len(drawn), case.slo.frame_s)  # of a chunk's first frame
            drawn = replace(drawn, deadline_s=due)
    elif drawn.n_items is not None:
        pools = case.deployment.pools if case.deployment is not None else ()
        block = max((pool.engine.block_tokens for pool in pools), default=BLOCK_TOKENS)
        drawn = with_items(drawn, models, block_tokens=block)
    return drawn


SLICE = 1 << 16  # arrivals between two looks at the keyboard


@dataclass(frozen=True, eq=False)
class Result:
    """An answered case: what was asked, what ran, what happened and why."""

    case: Case
    deployment: Deployment
    requests: Requests
    log: Log
    metrics: Metrics
    reasons: tuple[str, ...]
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def report(self) -> Report:
        """The form that `forerun.report` renders."""
        from forerun.report.result import Result as Report

        return Report(
            title=f"{self.case.name}: {model_words(self.case)} on {words(self.deployment)}",
            metrics=self.metrics,
            slo=self.case.slo,
            log=self.log,
            setup=setup_words(self.case, self.deployment, self.requests),
            reasons=self.reasons,
            provenance=self.provenance,
        )

    def to_dict(self) -> dict[str, Any]:
        """The whole answer as plain values, with the case it answers; stable and versioned."""
        from forerun.report.jsonout import to_json

        whole = self.case.model_copy(update={"deployment": self.deployment})
        return {**to_json(self.report), "case": whole.model_dump(mode="json")}

    def to_polars(self) -> Any:
        """One row a request.  Raises MissingDependency without polars."""
        from forerun.errors import MissingDependency
        from forerun.report.jsonout import request_columns

        try:
            import polars
        except ImportError:
            fix = "pip install 'forerun[tables]'"
            raise MissingDependency.one("polars", "is not installed", fix) from None
        columns = request_columns(self.log, self.case.slo)
        return polars.DataFrame({name: column.tolist() for name, column in columns.items()})

    def __str__(self) -> str:
        from forerun.report.table import plain

        return plain(self.report)

    def _repr_html_(self) -> str:
        from html import escape

        return f"<pre>{escape(str(self))}</pre>"


def simulate(
    case: Case,
    *,
    policies: Mapping[str, Callable[..., Any]] | None = None,
    log: str = "full",
    progress: Callable[[int, int], None] | None = None,
    bootstrap: bool = True,
    announce: Callable[[str], None] | None = None,
) -> Result:
    """What happens to every request of the case on its deployment.

    policies : functions by kind ("route", "order", ...) that replace those of the deployment.
    log      : "full" keeps steps, "requests" only requests (no energy, no utilisation).
    progress : called with (requests put in so far, requests in all).

    An interrupt (Ctrl-C) ends the run early: the result is of what happened until then, and its
    provenance says so.
    Raises Infeasible where the model does not fit, SpecError for a case that cannot be run.
    """
    from forerun.metrics.reason import explain
    from forerun.metrics.score import score
    from forerun.sim import serve
    from forerun.sim.check_denoise import check_moves
    from forerun.sim.control.cold import cold_starts
    from forerun.sim.control.drive import Control, is_controlled, with_rows
    from forerun.sim.embeddings import check_names
    from forerun.sim.moe.told import explain as of_experts
    from forerun.sim.power.check import check_row
    from forerun.sim.power.told import noted
    from forerun.sim.prepare import embedding_cache, tiers
    from forerun.spec.traces import _turns as turns
    from forerun.techniques import compose

    deployment = case.deployment or default_deployment(case)
    row = deployment.power
    whole = case.model_copy(update={"deployment": deployment})
    if wrong := [
        *check_control(deployment.pools, case.faults),
        *check_power(deployment),
        *check_shares(whole),
    ]:
        raise SpecError(*wrong)
    wanted = requests(case)
    check_named(deployment, wanted)
    check_names(deployment.embedding_cache, wanted)
    edited = compose(deployment)
    pools = _models.served(
        case,
        edited,
        mean_lengths(wanted),
        seed=case.seed,
        span_s=wanted.duration_s,
        n_adapters=n_named(wanted),
        items=largest_items(wanted),
        renders=_models.renders_of(case, wanted),
    )
    pools = regions.placed(case, deployment, pools)
    check_row(row, pools)
    check_moves(case, deployment)
    controlled = is_controlled(pools, case.faults, row, deployment.rebalance)
    server = serve.Server(
        with_rows(pools, case.faults, row),
        route=edited.deployment.route,
        place=edited.deployment.place,
        fetch=edited.deployment.fetch,
        tiers=tiers(edited.deployment),
        embeddings=embedding_cache(edited.deployment),
        gate=edited.deployment.gate,
        responses=edited.deployment.response_cache,
        seed=case.seed,
        log="full" if row is not None else log,  # what was drawn is read from steps
        policies=policies or {},
        concurrency=wanted.meta.get("concurrency"),
        think_s=wanted.meta.get("think_s", 0.0),
        client=wanted.meta.get("client"),
        announce=announce,
        n_requests=len(wanted),
        hash_tokens=wanted.hash_tokens if wanted.block_hashes is not None else 0,
        models=tuple(_models.asked_models(case)),
        way_s=regions.way_s(case),
        tenants=senders(case),
    )
    control: Control | None = None
    if controlled:
        colds = cold_starts(_models.of_pools(case, pools), pools)
        control = Control(server, case.faults, colds, row, deployment.rebalance, case.slo)
    interrupted = _advance(server, wanted, progress, control)
    written = server.log_so_far() if control is None else control.log()
    written = noted(written, row, pools)
    metrics = score(
        written,
        case.slo,
        price_usd_per_hour=_models.by_row(
            pool_usd_per_hour(case, deployment), deployment.pools, pools
        ),
        carbon_gco2e_per_kwh=regions.grids(carbon_gco2e_per_kwh(case, deployment), pools),
        bootstrap=bootstrap,
    )
    experts = of_experts(pools, written.end_ps * 1e-12)
    far = regions.explain(case, pools, wanted, written)
    reasons = (*explain(written, metrics), *turns.explain(wanted), *experts, *far)
    provenance = provenance_of(case, deployment, written) | {"interrupted": interrupted}
    provenance["assumed"] += [
        *turns.assumed(wanted),
        *_models.assumed(case, edited),
        *regions.assumed(case),
    ]
    if written.fitted is not None and deployment.adapters is not None:
        from forerun.cost import lora

        proposes = any(served.draft is not None for served in pools)
        provenance["assumed"] += lora.assumed(deployment.adapters, proposes=proposes)
    return Result(case, deployment, wanted, written, metrics, reasons, provenance)


def senders(case: Case) -> tuple[Tenant, ...]:
    """The case's tenants by number, as a server is told of them."""
    from forerun.sim.log import Tenant

    out = []
    for name, said in case.tenants.items():
        goals = case.slo if said.slo is None else case.slo.classes[said.slo]
        due_s = inf if goals.ttft_s is None else goals.ttft_s
        out.append(Tenant(name, said.weight, said.slo, due_s))
    return tuple(out)


def mean_lengths(wanted: Requests) -> dict[int, int]:
    """Tokens of a usual request, by model."""
    import numpy as np

    tokens = wanted.isl + wanted.osl
    if wanted.model is None:
        return {0: round(float(tokens.mean())) if len(wanted) else 1}
    n = np.bincount(wanted.model)
    sums = np.bincount(wanted.model, weights=tokens)
    return {m: round(float(sums[m] / n[m])) for m in np.flatnonzero(n).tolist()}


def largest_items(wanted: Requests) -> dict[int, int]:
    """What the encoder computes for the largest image of a request, by model; none for text."""
    import numpy as np

    if wanted.n_items is None or wanted.item_units is None:
        return {}
    asked = np.zeros(len(wanted), dtype=int) if wanted.model is None else wanted.model
    shows = wanted.n_items > 0
    return {
        m: int(wanted.item_units[shows & (asked == m)].max()) for m in set(asked[shows].tolist())
    }


def _advance(
    server: Server,
    wanted: Requests,
    progress: Callable[[int, int], None] | None,
    control: Control | None = None,
) -> bool:
    """Runs to the end, in slices of about SLICE arrivals; True if the user stopped it between."""
    try:
        server.inject(wanted)
        n = len(wanted)
        if control is not None:
            control.run(progress)
        elif server.concurrency is None:
            for i in range(SLICE, n, SLICE):
                server.advance(float(wanted.arrival_s[i]))
                if progress is not None:
                    progress(i, n)
        if control is None:
            server.advance()
        if progress is not None:
            progress(n, n)
    except KeyboardInterrupt:
        return True
    return False


def provenance_of(case: Case, deployment: Deployment, written: Log) -> dict[str, Any]:
    """Where an answer is from, so that it can be had again."""
    from forerun.cost import engine_fit
    from forerun.ops.lower import NOT_PRICED
    from forerun.version import __version__

    offers = {pool.device: catalog.price(pool.device) for pool in deployment.pools}
    whole = case.model_copy(update={"deployment": deployment})
    assumed = [a for table in written.tables for a in table.assumed]
    if written.encodes is not None:
        assumed = [a for a in assumed if a != NOT_PRICED]
    for asked in _models.asked_models(case).values():
        assumed += catalog.model(asked.model).assumed
    assumed += written.meta.get("assumed", ())
    changes = {"control": written.meta["control"]} if "control" in written.meta else {}
    if "switches" in written.meta.get("lanes", {}):
        changes["shares"] = {"switches": written.meta["lanes"]["switches"]}
    return changes | {
        "forerun_version": __version__,
        "spec_hash": whole.content_hash(),
        "policies": written.meta.get("policies"),
        "seed": case.seed,
        "host": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "price_date": ", ".join(
            f"{name} {offer.date} ({offer.provider})" for name, offer in offers.items() if offer
        )
        or None,
        "calibration_ids": engine_fit.ids(deployment.pools),
        "assumed": list(dict.fromkeys(assumed)),
    }
