"""`answer`: a question simulated as its load generator would have driven the engine.

One pool is the closed or open loop itself, after the API server (`loop`); pools for prompts and for
answers are a network of two stations (`apart`).  A batch that comes at once needs no simulation
(`static`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from forerun import catalog
from forerun.cost.engine_profile import FIGURES, SPLIT, EngineProfile
from forerun.cost.step import step_time, step_work
from forerun.cost.table import CostTable
from forerun.errors import Infeasible
from forerun.metrics import latency
from forerun.metrics.money import usd_per_million
from forerun.serving.apart import served_apart
from forerun.serving.loop import (
    TURNS,
    Simulate,
    dynamic_j,
    idle_w,
    simulated,
    waited_closed_s,
    waited_open_s,
)  # fmt: skip
from forerun.serving.question import Question
from forerun.serving.static import batch_at_once
from forerun.serving.station import Station, ready
from forerun.sim.log import Log
from forerun.sim.serve import Served

PERCENTILES = {"p50": 50, "p90": 90, "p99": 99}


@dataclass(frozen=True)
class Answer:
    """Seconds by figure and statistic, and what else a row is told.

    seconds : "ttft_s", "ttft_s_p50", ... ; low, high : the 80 % interval of each.
    """

    seconds: Mapping[str, float]
    low: Mapping[str, float]
    high: Mapping[str, float]
    output_tokens_per_s: float
    n_devices: int
    energy_j_per_token: float | None
    usd_per_mtok: float | None
    hbm_bytes: float  # weights and cache of the fullest device
    bound: str
    source: str
    assumed: tuple[str, ...]

    @property
    def output_tokens_per_s_per_gpu(self) -> float:
        return self.output_tokens_per_s / self.n_devices


#: latencies of each request by figure, float64 [N] each; output tokens a second, and joules each,
#: None where that was not asked
Outcome = tuple[Mapping[str, np.ndarray], float, float | None]


def answer(q: Question, *, energy: bool = True) -> Answer:
    """Raises Infeasible where the model does not fit, SpecError where it cannot be laid out.

    energy : False leaves it unknown where steps would have to be logged.
    """
    stations = stations_of(q)
    figures, rate, joule = outcome(q, stations, energy=energy)
    return _told(q, stations, _statistics(figures), rate, joule)


def stations_of(q: Question) -> list[Station]:
    """The pools of a question, ready to run.  Raises as `answer` does."""
    stations = [ready(q.model, pool, q.profile, q.isl + q.osl) for pool in q.pools]
    most = min(station.served.max_len for station in stations)
    if q.isl + q.osl > most:
        what = f"{q.isl + q.osl:,} tokens of one request do not fit: the cache holds {most:,}"
        raise Infeasible.one("isl, osl", what, "more devices a replica, or a narrower kv_dtype")
    return stations


def outcome(
    q: Question, stations: Sequence[Station], *, energy: bool = True, simulate: Simulate = simulated
) -> Outcome:
    """What comes of a question's requests; simulate : `simulated`, or what remembers it."""
    if q.is_split:
        return served_apart(q, stations[0], stations[1], energy=energy, simulate=simulate)
    (station,) = stations
    alone = _alone(q, station) if q.concurrency is None and q.rate_per_s == np.inf else None
    if alone is not None:
        return alone
    kept = "full" if energy else "requests"
    waited, late, log = _through_api(q, station.served, kept, simulate)
    rows = log.requests
    span = (rows["done_ps"].max() - rows["arrival_ps"].min()) * latency.PS + late
    figures = {
        "ttft_s": latency.ttft_s(rows) + waited, "tpot_s": latency.tpot_s(rows),
        "e2el_s": latency.e2el_s(rows) + waited,
    }  # fmt: skip
    rate = float(rows["n_out"].sum()) / span
    joule = (dynamic_j(log) + idle_w(log) * span) / (rate * span) if energy else None
    return figures, rate, joule


def _alone(q: Question, station: Station) -> Outcome | None:
    """A batch that comes at once, where it fits and no policy but two is asked for."""
    served, engine = station.served, station.served.pool.engine
    tokens = q.n_requests * (q.isl + q.osl)
    fits = tokens <= 0.9 * served.n_blocks * engine.block_tokens and q.n_requests <= served.seats
    if not fits or served.pool.replicas * served.pool.pp > 1 or q.isl + q.osl > served.max_len:
        return None
    found = batch_at_once(
        served.table, isl=q.isl, osl=q.osl, batch=q.n_requests, budget=served.budget,
        prompts_first=engine.batch.name == "prefill_first",
    )  # fmt: skip
    if found is None:
        return None
    ttft, end = (seconds + q.profile.api_request_s for seconds in found)
    figures = {"ttft_s": ttft, "tpot_s": (end - ttft) / (q.osl - 1), "e2el_s": end}
    span = float(end.max())
    joule = _batch_j(served.table, q) + served.table.idle_w * span
    answers = q.n_requests * q.osl
    return figures, answers / span, joule / answers


def _batch_j(table: CostTable, q: Question) -> float:
    """Dynamic energy of a batch: its prompts as one step each, its answers at their middle."""
    n, ctx = q.n_requests, q.isl + q.osl / 2
    prompt = step_work(
        table, table.energy_j, n_tokens=q.isl, n_seqs=1, chunks=[(q.isl, 0.0)]
    )  # fmt: skip
    decode = step_work(table, table.energy_j, n_tokens=n, n_seqs=n, n_decode=n, decode_ctx=ctx)
    return n * prompt + (q.osl - 1) * decode


def _through_api(
    q: Question, served: Served, kept: str, simulate: Simulate
) -> tuple[float, float, Log]:
    """(seconds a request spends at the API server, by how much the run lasts longer than the log,
    the engine's log meanwhile)."""
    if q.concurrency is None:
        waited = waited_open_s(q, served)
        waited += q.profile.api_request_s
        return waited, waited, simulate(q, served, q.osl, None, 0.0, kept)
    waited = 0.0
    for turn in range(TURNS):
        log = simulate(q, served, q.osl, q.concurrency, waited, kept)
        round_s = float(np.nanmean(latency.e2el_s(log.requests)))
        wanted = waited_closed_s(q, served, round_s)
        if abs(wanted - waited) < 0.02 * (wanted + q.osl * 1e-3) or turn == TURNS - 1:
            break
        waited = wanted if waited == 0.0 else (waited + wanted) / 2
    wanted += q.profile.api_request_s
    return wanted, (wanted - waited) * q.n_requests / q.concurrency, log


def mean(values: np.ndarray) -> float:
    """Of those that are known; NaN where none is."""
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else float("nan")


def _statistics(figures: Mapping[str, np.ndarray]) -> dict[str, float]:
    out = {}
    for name, values in figures.items():
        known = values[np.isfinite(values)]
        if not len(known):
            continue
        out[name] = float(known.mean())
        found = percentiles(known)
        out |= {f"{name}_{p}": v for p, v in zip(PERCENTILES, found, strict=True)}
    return out


def percentiles(values: np.ndarray) -> list[float]:
    """PERCENTILES of finite values [N], as numpy's, whose checks take ten times as long here.

    at = (N - 1) p / 100,  v = a + (b - a) t  between the values around it, from the nearer one
    """
    known = np.sort(values).tolist()
    out = []
    for p in PERCENTILES.values():
        at = (len(known) - 1) * (p / 100)
        i, t = int(at), at - int(at)
        a, b = known[i], known[min(i + 1, len(known) - 1)]
        out.append(a + (b - a) * t if t < 0.5 else b - (b - a) * (1 - t))
    return out


def _told(
    q: Question, stations: Sequence[Station], seconds: dict[str, float], rate: float,
    energy_j: float | None,
) -> Answer:  # fmt: skip
    tables = [s.served.table for s in stations]
    kind, device = SPLIT if q.is_split else "", q.pools[-1].device
    factors = _factors(q.profile, tables[-1], device, kind)
    low, high = {}, {}
    for name, value in seconds.items():
        below, above = factors[next(f for f in FIGURES if name.startswith(f))]
        low[name], high[name] = value * below, value * above
    pools = [s.served.pool for s in stations]
    n_devices = sum(pool.n_devices for pool in pools)
    held = max((s.held for s in stations), key=lambda m: m.fullest.weights_bytes)
    tokens = (q.isl + q.osl) * (q.concurrency or q.n_requests) / pools[-1].replicas
    cache = min(tokens * held.kv_bytes_per_token / held.groups, held.kv_pool_bytes)
    offers = [catalog.price(pool.device) for pool in pools]
    hour = (
        sum(o.usd_per_hour * p.n_devices for o, p in zip(offers, pools, strict=True) if o)
        if all(offers)
        else None
    )
    assumed = [*q.assumed, *(a for table in tables for a in table.assumed)]
    return Answer(
        seconds=seconds, low=low, high=high, output_tokens_per_s=rate, n_devices=n_devices,
        energy_j_per_token=energy_j, usd_per_mtok=usd_per_million(hour, rate * 3600, 3600.0),
        hbm_bytes=held.fullest.weights_bytes + cache, bound=_bound(q, stations[-1]),
        source=_source(q.profile, tables), assumed=tuple(dict.fromkeys(assumed)),
    )  # fmt: skip


@lru_cache(maxsize=256)
def _factors(
    profile: EngineProfile, table: CostTable, device: str, kind: str
) -> dict[str, tuple[float, float]]:
    """Factors of the ends of a figure's interval, by figure; kind : SPLIT of pools apart, or ""."""
    return {figure: profile.interval(kind + figure, table, device) for figure in FIGURES}


def _bound(q: Question, station: Station) -> str:
    """What a decode step of the question is bound by."""
    table, slots = station.served.table, station.slots(q.isl, q.osl)
    n = -(-(q.concurrency or q.n_requests) // station.served.pool.replicas)
    if q.concurrency and n > slots:
        return "KV cache" if slots < station.served.seats else "seats"
    n, ctx = min(n, slots), q.isl + q.osl / 2
    step = step_time(table, n_tokens=n, n_seqs=n, n_decode=n, decode_ctx=ctx).value
    flop, moved = (
        step_work(table, w, n_tokens=n, n_seqs=n, n_decode=n, decode_ctx=ctx)
        for w in (table.flop, table.hbm_bytes)
    )
    if table.host_step_s + table.host_seq_s * n > step / 2:
        return "host"
    busy = flop / table.peak_flop_per_s, moved / table.peak_hbm_bytes_per_s
    if max(busy) < step / 4:
        return "launches and communication"
    return "compute" if busy[0] > busy[1] else "HBM bandwidth"


def _source(profile: EngineProfile, tables: list[CostTable]) -> str:
    best = [max(t.sources, key=lambda k: t.sources[k]) for t in tables]
    steps = " and ".join(dict.fromkeys(best))
    runs = f"{profile.name} profile of {profile.rows} runs" if profile.rows else "no runs"
    return f"simulated; steps: {steps}; host: {runs}"
