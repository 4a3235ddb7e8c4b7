"""`answer`: a question simulated as its load generator would have driven the engine.

One pool: the closed or open loop itself.  The API server is a station before it that serves one
request at a time for S = api_request_s + osl * api_token_s; with C requests in flight a round takes
C S at least, so what the engine does not take of that is waited for, before the first token:

    T = max(C S - round of the engine, 0) + S, and  rho / (1 - rho) S / 2  more under open load

Two pools, prompts and answers apart, as a closed network of two stations:

    prefill  the same simulation with answers of one token; its clients think for R_d before each
             next prompt
    decode   B = X R_d / replicas requests in a batch (Little's law), R_d = transfer + osl * step(B)

X is the prefill stage's throughput, so R_d and X are found by turns.  Latency to the first token is
the prefill stage's, the hand-over and one step of decoding.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from forerun import catalog
from forerun.cost.memory import Memory, memory
from forerun.cost.price import price
from forerun.cost.scale import Scale, scaled
from forerun.cost.step import step_time, step_work
from forerun.cost.table import CostTable
from forerun.errors import Infeasible
from forerun.metrics import latency, work
from forerun.metrics.money import usd_per_million
from forerun.ops.lower import lower
from forerun.serving.profile import FIGURES, EngineProfile
from forerun.serving.question import Question
from forerun.serving.static import batch_at_once
from forerun.sim.log import Log
from forerun.sim.serve import Served, run
from forerun.spec.deployment import Pool
from forerun.spec.model import Model
from forerun.spec.requests import Requests

PERCENTILES = {"p50": 50, "p90": 90, "p99": 99}
TURNS = 6  # of finding the two stations' rates
#: what a table reaches at least, so that questions of one layout share theirs
LEAST_LEN, LEAST_TOKENS = 16384, 8192
UNKNOWN = (0.4, 2.5)  # factors on latencies of an engine without runs: estimate


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


def answer(q: Question) -> Answer:
    """Raises Infeasible where the model does not fit, SpecError where it cannot be laid out."""
    ready = [_ready(q.model, pool, q.profile, q.isl + q.osl) for pool in q.pools]
    most = min(station.served.max_len for station in ready)
    if q.isl + q.osl > most:
        what = f"{q.isl + q.osl:,} tokens of one request do not fit: the cache holds {most:,}"
        raise Infeasible.one("isl, osl", what, "more devices a replica, or a narrower kv_dtype")
    if q.is_split:
        return _split(q, ready[0], ready[1])
    (station,) = ready
    alone = _alone(q, station) if q.concurrency is None and q.rate_per_s == np.inf else None
    if alone is not None:
        return alone
    waited, log = _through_api(q, station.served)
    rows = log.requests
    span = (rows["done_ps"].max() - rows["arrival_ps"].min()) * latency.PS
    figures = {
        "ttft_s": latency.ttft_s(rows) + waited, "tpot_s": latency.tpot_s(rows),
        "e2el_s": latency.e2el_s(rows) + waited,
    }  # fmt: skip
    rate = float(rows["n_out"].sum()) / span
    return _told(q, ready, _statistics(figures), rate, _energy_j(log, span) / (rate * span))


def _alone(q: Question, station: Station) -> Answer | None:
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
    return _told(q, [station], _statistics(figures), answers / span, joule / answers)


def _batch_j(table: CostTable, q: Question) -> float:
    """Dynamic energy of a batch: its prompts as one step each, its answers at their middle."""
    n, ctx = q.n_requests, q.isl + q.osl / 2
    prompt = step_work(
        table, table.energy_j, n_tokens=q.isl, n_seqs=1, chunks=[(q.isl, 0.0)]
    )  # fmt: skip
    decode = step_work(table, table.energy_j, n_tokens=n, n_seqs=n, n_decode=n, decode_ctx=ctx)
    return n * prompt + (q.osl - 1) * decode


def _through_api(q: Question, served: Served) -> tuple[float, Log]:
    """(seconds a request spends at the API server, the engine's log meanwhile)."""
    doors = served.pool.replicas * served.pool.dp
    serve_s = (q.profile.api_request_s + q.osl * q.profile.api_token_s) / doors
    if q.concurrency is None:
        busy = min(0.99, serve_s * (q.rate_per_s or 0.0))
        waited = serve_s * busy / (1 - busy) / 2 if np.isfinite(q.rate_per_s or 0.0) else 0.0
        return q.profile.api_request_s + waited, _log(q, served, q.osl, None, 0.0)
    waited = 0.0
    for _ in range(TURNS):
        log = _log(q, served, q.osl, q.concurrency, waited)
        lacking = q.concurrency * serve_s - float(np.nanmean(latency.e2el_s(log.requests)))
        wanted = max(0.0, lacking)
        if abs(wanted - waited) < 0.02 * (wanted + q.osl * 1e-3):
            break
        waited = wanted if waited == 0.0 else (waited + wanted) / 2
    return waited + q.profile.api_request_s, log


@dataclass(frozen=True, eq=False)
class Station:
    """A pool, priced and fitted into memory."""

    served: Served
    held: Memory


def _ready(model: Model, pool: Pool, profile: EngineProfile, tokens: int) -> Station:
    """The pool with its costs as the profile corrects them; the last ones are kept."""
    reach = max(LEAST_LEN, _power(tokens))
    key = id(model), id(profile), pool, reach
    if key not in _RECENT:
        if len(_RECENT) > MOST_RECENT:
            _RECENT.clear()
        bare = _bare(pool)
        held = _held(model, bare)
        if held.problems:
            raise Infeasible(*held.problems)
        table = _corrected(_table(model, _shared(bare), reach), pool, profile)
        _RECENT[key] = model, profile, held, table
    _, _, held, table = _RECENT[key]
    longest = min(held.max_len, held.max_context)
    n_blocks = held.blocks_for(min(tokens, longest))
    return Station(Served(pool=pool, table=table, n_blocks=n_blocks, max_len=longest), held)


#: by identity of model and profile, which are kept with what was made of them
_RECENT: dict[tuple[int, int, Pool, int], tuple[Model, EngineProfile, Memory, CostTable]] = {}
MOST_RECENT = 256


@lru_cache(maxsize=256)
def _held(model: Model, pool: Pool) -> Memory:
    return memory(model, pool, catalog.device(pool.device))


def _bare(pool: Pool) -> Pool:
    """The pool as far as its prices depend on it."""
    engine = pool.engine
    keep = {"max_num_seqs", "max_num_batched_tokens", "runtime"}
    plain = type(engine)(**{name: getattr(engine, name) for name in keep}, host_kernel_s=1.0)
    return pool.model_copy(update={"engine": plain, "replicas": 1, "name": "main"})


def _shared(pool: Pool) -> Pool:
    """The same with as many tokens a step as others of its layout are priced with."""
    most = max(LEAST_TOKENS, _power(pool.engine.max_num_batched_tokens))
    engine = pool.engine.model_copy(update={"max_num_batched_tokens": most})
    return pool.model_copy(update={"engine": engine})


def _power(n: int) -> int:
    """The power of two that n fits in."""
    return 1 << (n - 1).bit_length()


@lru_cache(maxsize=64)
def _table(model: Model, pool: Pool, max_len: int) -> CostTable:
    """Prices with kernels that take the host a second each to launch, to be scaled."""
    engine = pool.engine
    return price(
        lower(model, pool), catalog.device(pool.device), max_tokens=engine.max_num_batched_tokens,
        max_seqs=engine.max_num_seqs, max_len=max_len, runtime=engine.runtime,
    )  # fmt: skip


def _corrected(table: CostTable, pool: Pool, profile: EngineProfile) -> CostTable:
    """A table of `_table` with a profile's host terms and factors."""
    scale = Scale(tokens=(profile.tokens,), decode=profile.decode, prefill=profile.prefill)
    engine = pool.engine
    return replace(
        scaled(table, scale), host_step_s=engine.host_step_s,
        host_seq_s=engine.host_seq_s / pool.dp, eager_s=table.eager_s * engine.host_kernel_s,
        low=table.low, high=table.high, sources=table.sources, assumed=table.assumed,
    )  # fmt: skip


def _log(q: Question, served: Served, osl: int, concurrency: int | None, think_s: float) -> Log:
    """The loop of the question against one pool."""
    n = q.n_requests
    arrival = np.zeros(n)
    if q.concurrency is None and q.rate_per_s is not None and np.isfinite(q.rate_per_s):
        gaps = np.random.default_rng(0).exponential(1 / q.rate_per_s, n)
        arrival = np.cumsum(gaps)
    answers = np.full(n, osl)
    if q.profile.early and osl > 1:
        least = max(1, round((1 - q.profile.early) * osl))
        answers = np.random.default_rng(0).integers(least, osl + 1, n)
    requests = Requests(arrival, np.full(n, q.isl), answers)
    return run(requests, [served], concurrency=concurrency, think_s=think_s)


def _energy_j(log: Log, span_s: float) -> float:
    assert log.leaps is not None
    dynamic = float(work.by_replica(log.leaps, log, "energy_j").sum())
    return dynamic + float(work.of_replica(log, "idle_w").sum()) * span_s


def _statistics(figures: Mapping[str, np.ndarray]) -> dict[str, float]:
    out = {}
    for name, values in figures.items():
        known = values[np.isfinite(values)]
        if not len(known):
            continue
        out[name] = float(known.mean())
        found = np.percentile(known, list(PERCENTILES.values()))
        out |= {f"{name}_{p}": float(v) for p, v in zip(PERCENTILES, found, strict=True)}
    return out


def _split(q: Question, prefill: Station, decode: Station) -> Answer:
    replicas = decode.served.pool.replicas
    seats = decode.served.seats
    n_in = q.concurrency or q.n_requests
    step = _step_s(decode.served.table, min(seats, max(1.0, n_in / replicas)), q)
    residence = q.profile.transfer_s + q.osl * step
    for _ in range(TURNS):
        log = _log(q, prefill.served, 1, q.concurrency, residence if q.concurrency else 0.0)
        rows = log.requests
        span = (rows["done_ps"].max() - rows["arrival_ps"].min()) * latency.PS
        rate = len(rows) / span
        batch = float(np.clip(rate * residence / replicas, 1.0, seats))
        found = _step_s(decode.served.table, batch, q)
        if abs(np.log(found / step)) < 0.01:
            break
        step = float(np.sqrt(step * found))
        residence = q.profile.transfer_s + q.osl * step
    first = latency.ttft_s(rows) + q.profile.transfer_s + step
    tpot = np.full(len(rows), step)
    figures = {"ttft_s": first, "tpot_s": tpot, "e2el_s": first + tpot * (q.osl - 1)}
    return _told(q, [prefill, decode], _statistics(figures), rate * q.osl, None)


def _step_s(table: CostTable, batch: float, q: Question) -> float:
    """A decode step in the middle of the answers."""
    n = max(1, round(batch))
    ctx = q.isl + q.osl / 2
    return step_time(table, n_tokens=n, n_seqs=n, n_decode=n, decode_ctx=ctx).value


def _told(
    q: Question, stations: list[Station], seconds: dict[str, float], rate: float,
    energy_j: float | None,
) -> Answer:  # fmt: skip
    tables = [s.served.table for s in stations]
    low, high = {}, {}
    for name, value in seconds.items():
        figure = next(f for f in FIGURES if name.startswith(f))
        below, above = interval(q.profile, figure, tables[-1], split=q.is_split)
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


def interval(
    profile: EngineProfile, figure: str, table: CostTable, *, split: bool = False
) -> tuple[float, float]:
    """Factors on a prediction: what the profile's other runs were off by and, by squares, what the
    device's own costs are not known to."""
    known = profile.spread.get(f"split {figure}" if split else figure, UNKNOWN)
    below, above = np.log(known)
    own = np.log([table.low, table.high])
    measured = any("fitted" in source for source in table.sources)
    share = 0.0 if measured else 1.0
    return (
        float(np.exp(-np.hypot(below, share * own[0]))),
        float(np.exp(np.hypot(above, share * own[1]))),
    )


def _bound(q: Question, station: Station) -> str:
    """What a decode step of the question is bound by."""
    table = station.served.table
    n = min(station.served.seats, q.concurrency or q.n_requests)
    ctx = q.isl + q.osl / 2
    if q.concurrency and n * ctx > station.served.n_blocks * station.held.block_tokens:
        return "KV cache"
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
    runs = f"{profile.engine} profile of {profile.rows} runs" if profile.rows else "no runs"
    return f"simulated; steps: {steps}; host: {runs}"
