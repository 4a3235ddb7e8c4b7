"""`predict`: one point for each device type of a fleet, by a short simulation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from forerun import catalog
from forerun.api._cases import default_deployment, one_model
from forerun.api._simulate import simulate
from forerun.api._words import words
from forerun.errors import ForerunError
from forerun.spec.case import Case, Fleet
from forerun.spec.deployment import Deployment

#: what a prediction may do without, because it has a default of its own
MAY_LACK = ("traffic.rate_per_s", "traffic.n_requests")
N_REQUESTS = 1000  # of the short simulation, when the traffic does not say
N_ALONE = 20  # requests sent one after another to see an idle deployment
ROUNDS = 4  # how often the full batch is replaced when a deployment is saturated


@dataclass(frozen=True)
class Prediction:
    """What one device type would do; every figure None where `problems` says it does not run.

    With a rate (or a trace, or a concurrency) all figures are of that load.  Without one, latencies
    are of single requests on an idle deployment, and throughput, money and energy of a saturated
    one.  `low` and `high` are the cost model's 80 % factors on step time.
    """

    device: str
    deployment: str
    load: str
    ttft_p50_s: float | None = None
    ttft_p99_s: float | None = None
    tpot_p50_s: float | None = None
    tpot_p99_s: float | None = None
    output_tokens_per_s: float | None = None
    requests_per_s: float | None = None
    usd_per_million_output_tokens: float | None = None
    energy_j_per_output_token: float | None = None
    attainment: float | None = None
    slo_met: bool | None = None
    low: float | None = None
    high: float | None = None
    is_overloaded: bool = False  # the queue grows as long as the load lasts
    why: str = ""
    problems: tuple[str, ...] = ()

    def row(self) -> dict[str, Any]:
        """Plain values for a table."""
        return asdict(self) | {"problems": "; ".join(self.problems)}


def predict(case: Case, wishes: Deployment | None = None) -> tuple[Prediction, ...]:
    """One prediction for each device type of the fleet, each with a deployment of its own.

    The case's deployment is used where it names that device; otherwise the smallest that fits.
    A device on which the model does not fit is an answer, with what would make it fit.
    """
    return tuple(_one(_alone(case, name), name, wishes) for name in case.fleet.devices)


def _alone(case: Case, name: str) -> Case:
    """The case with one device type; with a deployment only if it is of that type alone."""
    deployment = case.deployment
    if deployment and any(pool.device != name for pool in deployment.pools):
        deployment = None
    fleet = Fleet(devices={name: case.fleet.devices[name]})
    return case.model_copy(update={"fleet": fleet, "deployment": deployment})


def _one(case: Case, name: str, wishes: Deployment | None) -> Prediction:
    try:
        deployment = case.deployment or default_deployment(case, wishes)
        case = case.model_copy(update={"deployment": deployment})
        traffic = case.traffic
        if traffic.trace is None and traffic.rate_per_s is None and traffic.concurrency is None:
            return _unloaded(case, deployment, name)
        if traffic.trace is None and traffic.n_requests is None and traffic.duration_s is None:
            case = _with(case, n_requests=N_REQUESTS)
        return _loaded(case, deployment, name)
    except ForerunError as error:
        problems = tuple(f"{p.what}; try: {p.fix}" if p.fix else p.what for p in error.problems)
        return Prediction(name, "", "", problems=problems, why="does not run")


def _with(case: Case, **traffic: Any) -> Case:
    return case.model_copy(update={"traffic": case.traffic.model_copy(update=traffic)})


def _loaded(case: Case, deployment: Deployment, name: str) -> Prediction:
    result = simulate(case, bootstrap=False)
    t = case.traffic
    load = f"{t.rate_per_s:g} req/s" if t.rate_per_s else t.trace or "given"
    if t.concurrency:
        load = f"{t.concurrency} in flight"
    figures = _latency(result) | _throughput(result)
    grows = _is_overloaded(result)
    return Prediction(name, words(deployment), load, **figures, is_overloaded=grows)


def _is_overloaded(result: Any) -> bool:
    """Requests come faster than they finish although the replicas are never idle."""
    wanted, m = result.requests, result.metrics
    if m.busy.value is None or m.requests_per_s.value is None or not wanted.duration_s:
        return False
    offered = (len(wanted) - 1) / wanted.duration_s
    busy = max(m.busy.value, m.prompts_busy.value or 0.0, m.answers_busy.value or 0.0)
    return busy >= 0.95 and m.requests_per_s.value < 0.95 * offered


def _unloaded(case: Case, deployment: Deployment, name: str) -> Prediction:
    """Latencies of single requests; throughput with as many in flight as batches and KV hold."""
    from forerun.techniques import prepare

    one_model(case, "a prediction without load", "forerun simulate")
    alone = simulate(_with(case, concurrency=1, n_requests=N_ALONE), bootstrap=False)
    assert case.traffic.isl is not None
    assert case.traffic.osl is not None
    tokens = round(case.traffic.isl.mean + case.traffic.osl.mean)
    full = 0
    model = catalog.model(case.model)
    for ready in prepare(model, deployment, mean_len=tokens):
        pool = ready.pool
        if ready.block is not None and pool.role == "prefill":
            continue  # the lane that answers has the memory
        held = ready.n_blocks * pool.engine.block_tokens // tokens
        full += max(1, min(pool.engine.max_num_seqs, held)) * pool.replicas
    busy = simulate(_with(case, concurrency=full, n_requests=ROUNDS * full), bootstrap=False)
    load = f"idle; full at {full} in flight"
    return Prediction(name, words(deployment), load, **_latency(alone), **_throughput(busy))


def _latency(result: Any) -> dict[str, Any]:
    m = result.metrics
    return {
        "ttft_p50_s": m.ttft_s.p50,
        "ttft_p99_s": m.ttft_s.p99,
        "tpot_p50_s": m.tpot_s.p50,
        "tpot_p99_s": m.tpot_s.p99,
        "attainment": m.attainment.value if m.slo_met is not None else None,
        "slo_met": m.slo_met,
    }


def _throughput(result: Any) -> dict[str, Any]:
    m = result.metrics
    return {
        "output_tokens_per_s": m.output_tokens_per_s.value,
        "requests_per_s": m.requests_per_s.value,
        "usd_per_million_output_tokens": m.usd_per_million_output_tokens.value,
        "energy_j_per_output_token": m.energy_j_per_output_token.value,
        "low": m.model_low,
        "high": m.model_high,
        "why": _why(m.cost_sources) + _host(result.deployment),
    }


def _host(deployment: Deployment) -> str:
    """The profiles that host terms are from, "" where a case names no engine."""
    from forerun.cost.engine_fit import of_pool
    from forerun.cost.engine_profile import EngineProfile

    found = [of_pool(pool) for pool in deployment.pools]
    names = dict.fromkeys(fit.name for fit in found if isinstance(fit, EngineProfile))
    return f"; host: profile of {', '.join(names)}" if names else ""


def _why(sources: Mapping[str, float]) -> str:
    """What the interval rests on: "analytic only" until something is fitted or measured."""
    if not sources or set(sources) <= {"roofline"}:
        return "analytic only"
    return ", ".join(f"{100 * share:.0f} % {name}" for name, share in sources.items())
