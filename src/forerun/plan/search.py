"""`plan`: from a case to ranked deployments that meet its SLO.

For every candidate that screening leaves, the least number of replicas whose simulation meets the
SLO, at the estimate and at the pessimistic end of the costs; then the objective ranks them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace

from forerun import catalog, processors
from forerun.errors import SpecError
from forerun.metrics import money
from forerun.metrics.figure import text
from forerun.plan import explain
from forerun.plan.budget import excesses, gco2e_per_hour
from forerun.plan.evaluate import Bench
from forerun.plan.limits import check_plannable
from forerun.plan.lower import Lower, least_of, lower_bound
from forerun.plan.provenance import price_of, provenance
from forerun.plan.remedy import infeasible
from forerun.plan.result import OBJECTIVES, Choice, Left, Objective, Plan
from forerun.plan.screen import Pruned, Ready, screen
from forerun.plan.seek import Found, capacity, search_one
from forerun.plan.space import candidates
from forerun.plan.store import Store
from forerun.spec.case import Case
from forerun.spec.deployment import Deployment, Pool
from forerun.spec.dtype import Dtype
from forerun.spec.requests import Requests
from forerun.spec.traces.draw import requests_of

PAYS_S = 20.0  # of simulation left, from which worker processes pay for their start


def plan(
    case: Case,
    *,
    wishes: Deployment | None = None,
    objective: Objective = "cost",
    dtypes: Sequence[Dtype] = (),
    keep: Collection[str] = (),
    top: int = 10,
    store: Store | None = None,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Plan:
    """Ranked deployments of one device type each that meet the case's SLO.

    wishes, keep : sizes and engine settings to keep, see `candidates`.
    dtypes  : weight formats to try beside each other; the deployment's own when empty.
    top     : for how many the capacity is searched.
    store   : where finished points are kept; a new one in memory when None.
    workers : processes; None decides by the time the first candidate took, 1 stays here.  The
        answer does not depend on it.

    A plan without choices says what binds.  Raises SpecError for a case that cannot be planned;
    an interrupt (KeyboardInterrupt) passes through, and what is in the store is kept.
    """
    if objective not in OBJECTIVES:
        raise SpecError.one("objective", f"no objective {objective!r}", ", ".join(OBJECTIVES))
    check_plannable(case, objective, wishes or case.deployment)
    model = catalog.model(case.model)
    requests = requests_of(case.traffic, seed=case.seed)
    store = store or Store()
    usd = {name: price_of(case, name) for name in case.fleet.devices}
    screened = [
        screen(c, model, requests, case.slo, case.budget, usd[c.device])
        for c in candidates(case, wishes, dtypes, keep)
    ]
    ready = [one for one in screened if isinstance(one, Ready)]
    pruned = [one for one in screened if isinstance(one, Pruned)]
    benches = [Bench(one, requests, case.slo, case.seed, store) for one in ready]
    found = _search(benches, workers, progress)
    choices, left = [], [Left(p.candidate.name, p.reason, p.sentence) for p in pruned]
    for bench, one in zip(benches, found, strict=True):
        sentence = _misses(bench, one, case)
        if sentence:
            left.append(Left(bench.ready.candidate.name, *sentence))
        else:
            choices.append((bench, _choice(bench, one, case, objective, usd)))
    choices.sort(key=lambda pair: _rank(pair[1], objective))
    choices = [
        (bench, _with_capacity(bench, choice) if i < top else choice)
        for i, (bench, choice) in enumerate(choices)
    ]
    lower = _lower(case, benches, pruned, requests, usd)
    if choices:
        said = explain.chosen(choices, case, objective)
        remedies: tuple[str, ...] = ()
    else:
        said, remedies = infeasible(
            case, screened, dict(zip(ready, found, strict=True)), requests, store, usd
        )
    return Plan(
        case=case, objective=objective, choices=tuple(c for _, c in choices),
        left_out=tuple(left), lower=lower, lower_bound=least_of(lower), explanation=said,
        remedies=remedies, provenance=provenance(case, requests, benches),
    )  # fmt: skip


def _search(
    benches: Sequence[Bench], workers: int | None, progress: Callable[[int, int], None] | None
) -> list[Found]:
    """Every candidate searched, here or in worker processes; in the order of the candidates."""
    out: list[Found] = []
    start, n = time.perf_counter(), len(benches)
    for i, bench in enumerate(benches):
        if workers is None and i == 1:
            rest = (time.perf_counter() - start) * (n - 1)
            workers = min(processors.usable(), n - 1) if rest > PAYS_S else 1
        if workers is not None and workers > 1:
            for one in _in_workers(benches[i:], workers):
                out.append(one)
                if progress is not None:
                    progress(len(out), n)
            break
        out.append(search_one(bench))
        if progress is not None:
            progress(i + 1, n)
    return out


def _in_workers(benches: Sequence[Bench], workers: int) -> Iterable[Found]:
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor

    spawn = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(min(workers, len(benches)), mp_context=spawn)
    try:
        tasks = [
            pool.submit(_task, b.ready, b.requests, b.slo, b.seed, b.store.path) for b in benches
        ]
        for task in tasks:
            yield task.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _task(ready: Ready, requests: Requests, slo, seed: int, path) -> Found:
    """One candidate in a worker, which opens the store by itself."""
    store = Store(path)
    try:
        return search_one(Bench(ready, requests, slo, seed, store))
    finally:
        store.close()


def _misses(bench: Bench, found: Found, case: Case) -> tuple[str, str] | None:
    """(reason, sentence) when a simulated candidate does not do."""
    candidate, point = bench.ready.candidate, found.point
    n = f"{point.replicas} replica" + ("s" if point.replicas != 1 else "")
    if found.met_at is None:
        worst = max(point.missed, key=lambda t: point.missed[t], default=None)
        why = f", {text(point.missed[worst], 'share')} miss {worst}" if worst else ""
        return "slo", (
            f"with all {n} that the fleet holds, {text(point.attainment, 'share')} of requests "
            f"are good{why}"
        )
    over = ", ".join(excess.words for excess in excesses(case, candidate, point))
    return ("budget", f"enough with {n}, but over the budget: {over}") if over else None


def _choice(
    bench: Bench, found: Found, case: Case, objective: Objective, usd: dict[str, float | None]
) -> Choice:
    candidate, point = bench.ready.candidate, found.point
    assert found.pessimistic is not None
    assert found.optimistic is not None
    slow, quick, each = found.pessimistic, found.optimistic, usd[candidate.device]
    if objective == "latency":
        most = _affordable(bench, case, each)
        full = bench.measure(max(most, point.replicas))
        if full.met and not excesses(case, candidate, full):
            point = full
            slow, quick = (
                bench.tails(point.replicas, time_factor=f) for f in (bench.high, bench.low)
            )
    price = None if each is None else each * candidate.n_devices(point.replicas)
    safe_at = found.safe_at
    return Choice(
        candidate=candidate, point=point, safe=slow.met, safe_replicas=safe_at,
        attainment_pessimistic=slow.attainment,
        ttft_p99_band_s=(quick.ttft_p99_s, slow.ttft_p99_s),
        tpot_p99_band_s=(quick.tpot_p99_s, slow.tpot_p99_s),
        usd_per_hour=price,
        safe_usd_per_hour=None
        if each is None or safe_at is None
        else each * candidate.n_devices(safe_at),
        usd_per_million_output_tokens=money.usd_per_million(
            price, point.output_tokens, point.duration_s
        ),
        gco2e_per_hour=gco2e_per_hour(case, candidate.device, point),
    )  # fmt: skip


def _affordable(bench: Bench, case: Case, each: float | None) -> int:
    """The most replicas that the fleet and the budget for dollars allow."""
    candidate, limit = bench.ready.candidate, case.budget.usd_per_hour
    if limit is None or not each:
        return candidate.most
    return min(candidate.most, int(limit / (each * candidate.n_devices(1)) + 1e-9))


def _rank(choice: Choice, objective: Objective) -> tuple:
    """What is sorted by; what is not known comes last, ties go to fewer devices, then names."""
    point = choice.point
    value = {
        "cost": choice.usd_per_hour,
        "energy": point.energy_j_per_output_token,
        "carbon": choice.gco2e_per_hour,
        "latency": point.e2el_p99_s,
    }[objective]
    inf = float("inf")
    return (
        inf if value is None else value, choice.usd_per_hour or inf, choice.n_devices,
        point.e2el_p99_s or inf, choice.candidate.name,
    )  # fmt: skip


def _with_capacity(bench: Bench, choice: Choice) -> Choice:
    found = capacity(bench, choice.replicas)
    if found is None:
        return choice
    return replace(choice, capacity_per_s=found[0], capacity_is_least=found[1])


def _lower(
    case: Case, benches: Sequence[Bench], pruned: Sequence[Pruned], requests: Requests,
    usd: dict[str, float | None],
) -> tuple[Lower, ...]:  # fmt: skip
    """One lower bound for each device type and format among the candidates."""
    model = catalog.model(case.model)
    pools: dict[tuple[str, str | None], Pool] = {}
    for candidate in [b.ready.candidate for b in benches] + [p.candidate for p in pruned]:
        pools.setdefault((candidate.device, candidate.pool.dtype), candidate.pool)
    out = [
        lower_bound(model, pool, requests, case.slo, usd[device])
        for (device, _), pool in pools.items()
    ]
    return tuple(one for one in out if one is not None)
