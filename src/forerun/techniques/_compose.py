"""Several techniques on one deployment: applied in order, or a sentence why not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from types import ModuleType

from forerun import catalog
from forerun.cost.table import CostTable
from forerun.errors import Problem, SpecError
from forerun.ops.graph import Graph
from forerun.sim import prepare as sim_prepare
from forerun.sim.serve import Served
from forerun.spec.deployment import Deployment, Policy, Pool
from forerun.spec.model import Model
from forerun.techniques._find import Technique, find
from forerun.techniques._seams import Price, Rewrite, Value, add_work

#: a technique with knobs that are not the defaults
Use = Policy | str | tuple[str | ModuleType, dict[str, Value]]


@dataclass(frozen=True, eq=False)
class Edited:
    """A deployment with every technique in it; `applied` says which, in order.

    `deployment.techniques` is what the user wrote and is left as it is: an `Edited` is not edited
    again.
    """

    deployment: Deployment
    rewrites: tuple[Rewrite, ...] = ()
    prices: tuple[Price, ...] = ()
    applied: tuple[str, ...] = ()

    def rewrite(self, graph: Graph, pool: Pool) -> Graph:
        """The graph after all rewrites, in order."""
        for change in self.rewrites:
            graph = change(graph, pool)
        return graph

    def reprice(self, table: CostTable, graph: Graph, pool: Pool) -> CostTable:
        """The table with the work that techniques add."""
        extras = [extra for price in self.prices for extra in price(table, graph, pool)]
        return add_work(table, extras, graph, catalog.device(pool.device))


def compose(deployment: Deployment, uses: Sequence[Use] | None = None) -> Edited:
    """The deployment after its techniques (`deployment.techniques`, or those given), in order.

    Raises SpecError for a technique used twice, every pair that cannot be combined (with the
    reason), an unknown knob and a value out of bounds, all in one go.
    """
    found = [_use(use) for use in (deployment.techniques if uses is None else uses)]
    problems = _clashes([technique for technique, _ in found])
    edited = Edited(deployment)
    for technique, knobs in found:
        try:
            edit = technique.apply(edited.deployment, **knobs)
        except SpecError as error:
            problems += error.problems
            continue
        edited = Edited(
            edit.deployment,
            (*edited.rewrites, *([edit.rewrite] if edit.rewrite else [])),
            (*edited.prices, *([edit.price] if edit.price else [])),
            (*edited.applied, technique.name),
        )
    if problems:
        raise SpecError(*problems)
    return edited


def prepare(
    model: Model,
    deployment: Deployment | Edited,
    *,
    mean_len: int = sim_prepare.USUAL_LEN,
    beside_bytes: float = 0.0,
    reprice: Callable[[CostTable, Graph, Pool], CostTable] | None = None,
    seed: int = 0,
    span_s: float = 0.0,
    n_adapters: int = 0,
) -> list[Served]:
    """`sim.prepare` for a deployment with techniques: every pool ready to run.

    reprice : a last change to each table, such as fitted costs; it comes before the techniques'
    further work, which is timed by the roofline.
    """
    edited = deployment if isinstance(deployment, Edited) else compose(deployment)

    def last(table: CostTable, graph: Graph, pool: Pool) -> CostTable:
        return edited.reprice(reprice(table, graph, pool) if reprice else table, graph, pool)

    return sim_prepare.prepare(
        model, edited.deployment, mean_len=mean_len, beside_bytes=beside_bytes,
        rewrite=edited.rewrite, reprice=last, seed=seed, span_s=span_s, n_adapters=n_adapters,
    )  # fmt: skip


def _use(use: Use) -> tuple[Technique, dict[str, Value]]:
    if isinstance(use, tuple):
        return find(use[0]), dict(use[1])
    if isinstance(use, str):
        return find(use), {}
    return find(use.name), dict(use.params)


def _clashes(used: Sequence[Technique]) -> list[Problem]:
    out = []
    for a, b in combinations(used, 2):
        where = f"techniques {a.name} and {b.name}"
        if a.name == b.name:
            out.append(Problem(f"technique {a.name}", "is used twice", "keep one"))
        elif why := a.conflicts.get(b.name) or b.conflicts.get(a.name):
            out.append(Problem(where, f"cannot be combined: {why}", "keep one of them"))
    return out
