"""`Bench`: one candidate with so many replicas, simulated under the case's traffic and judged."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from forerun.cost.table import CostTable, Work
from forerun.metrics import goodput, stats
from forerun.metrics.latency import finished, tpot_s, ttft_s
from forerun.metrics.reason import spent
from forerun.metrics.score import score
from forerun.metrics.window import view
from forerun.plan import store as keeping
from forerun.plan.bounds import needed
from forerun.plan.screen import Ready
from forerun.plan.store import Store
from forerun.sim import serve
from forerun.sim.core.rows_log import STATUS
from forerun.sim.log import Log
from forerun.spec.base import Spec
from forerun.spec.deployment import Policy
from forerun.spec.requests import Requests
from forerun.spec.slo import Slo

FEW = 4096  # requests up to which a run is not looked at before its end
LOOKS = (1 / 16, 1 / 4, 1 / 2)  # shares of the arrivals after which it is
UNFINISHED = STATUS["unfinished"]


@dataclass(frozen=True)
class Verdict:
    """Whether the SLO is met.  `attainment` is exact for a whole run; a run that was stopped as
    hopeless could not have attained more than it says."""

    met: bool
    attainment: float
    whole: bool


@dataclass(frozen=True)
class Tails:
    """The verdict of a whole run with its 99th percentiles, and nothing that needs its steps."""

    met: bool
    attainment: float
    ttft_p99_s: float | None
    tpot_p99_s: float | None


@dataclass(frozen=True)
class Point:
    """What a simulation says of one deployment; the same figures as `forerun simulate`."""

    replicas: int
    time_factor: float
    met: bool
    attainment: float
    attainment_low: float | None  # 95 % interval of sampling
    attainment_high: float | None
    goodput_per_s: float | None
    ttft_p50_s: float | None
    ttft_p99_s: float | None
    tpot_p50_s: float | None
    tpot_p99_s: float | None
    e2el_p99_s: float | None
    duration_s: float
    output_tokens: int
    output_tokens_per_s: float | None
    power_w: float | None
    energy_j_per_output_token: float | None
    busy: float | None
    kv_peak: float | None
    batch_mean: float | None
    compute: float | None  # share of busy time that the flop would take at peak
    memory: float | None  # and the bytes
    missed: Mapping[str, float] = field(default_factory=dict)  # by term, of finished requests
    alone: Mapping[str, float] = field(default_factory=dict)  # missed that term and no other
    rejected: int = 0
    enough: Mapping[str, float] = field(default_factory=dict)  # the bound that would do, by term
    enough_factor: float | None = None  # loosening all bounds by this would do
    cost_sources: Mapping[str, float] = field(default_factory=dict)  # shares of a step's time


@dataclass(eq=False)
class Bench:
    """Runs one candidate; every finished run is kept in the store."""

    ready: Ready
    requests: Requests
    slo: Slo
    seed: int
    store: Store

    @property
    def high(self) -> float:
        """Step times at the pessimistic end of the cost table's 80 % interval, over nominal."""
        return self.ready.served.table.high

    @property
    def low(self) -> float:
        return self.ready.served.table.low

    def judge(self, replicas: int, *, time_factor: float = 1.0, rate: float = 1.0) -> Verdict:
        """Whether so many replicas meet the SLO; stops as soon as they cannot any more.

        time_factor : on the step times of the cost table.  rate : on the arrival rate.
        """
        key = self._key("verdict", replicas, time_factor, rate)
        found = self.store.get(key)
        if found is None:
            found = asdict(self._judge(replicas, time_factor, rate))
            self.store.put(key, found)
        return Verdict(**found)

    def tails(self, replicas: int, *, time_factor: float = 1.0) -> Tails:
        """The 99th percentiles of a whole run."""
        key = self._key("tails", replicas, time_factor, 1.0)
        found = self.store.get(key)
        if found is None:
            server = self._server(replicas, time_factor, 1.0, "requests")
            server.advance()
            rows = server.log_so_far().requests
            done = rows[finished(rows)]
            share = goodput.attainment(rows, self.slo) or 0.0
            p99 = [stats.quantiles(of(done), rng=None).p99 for of in (ttft_s, tpot_s)]
            found = asdict(Tails(share >= self.slo.attainment, share, *p99))
            self.store.put(key, found)
        return Tails(**found)

    def measure(self, replicas: int, *, time_factor: float = 1.0, rate: float = 1.0) -> Point:
        """All figures of a whole run."""
        key = self._key("point", replicas, time_factor, rate)
        found = self.store.get(key)
        if found is None:
            server = self._server(replicas, time_factor, rate, "full")
            server.advance()
            found = asdict(self._point(server.log_so_far(), replicas, time_factor))
            self.store.put(key, found)
        return Point(**found)

    def _judge(self, replicas: int, time_factor: float, rate: float) -> Verdict:
        server, n = self._server(replicas, time_factor, rate, "requests"), len(self.requests)
        may_miss = n - needed(self.slo, n)
        looks = LOOKS if server.concurrency is None and n > FEW else ()
        for share in looks:
            server.advance(float(self.requests.arrival_s[int(share * n)]) / rate)
            rows = server.log_so_far().requests
            ended = rows[rows["status"] != UNFINISHED]
            missed = len(ended) - int(goodput.good(ended, self.slo).sum())
            if missed > may_miss:
                return Verdict(False, (n - missed) / n, False)
        server.advance()
        share = goodput.attainment(server.log_so_far().requests, self.slo) or 0.0
        return Verdict(share >= self.slo.attainment, share, True)

    def _server(self, replicas: int, time_factor: float, rate: float, log: str) -> serve.Server:
        served, wanted = self.ready.served, self.requests
        table = served.table
        if time_factor != 1.0:
            table = slowed(table, time_factor)
        if rate != 1.0:
            wanted = replace(wanted, arrival_s=wanted.arrival_s / rate)
        deployment = self.ready.candidate.deployment(replicas)
        server = serve.Server(
            [replace(served, pool=deployment.pools[0], table=table)],
            route=deployment.route, seed=self.seed, log=log,
            concurrency=wanted.meta.get("concurrency"), think_s=wanted.meta.get("think_s", 0.0),
            n_requests=len(wanted),
            hash_tokens=wanted.hash_tokens if wanted.block_hashes is not None else 0,
        )  # fmt: skip
        server.inject(wanted)
        return server

    def _point(self, log: Log, replicas: int, time_factor: float) -> Point:
        m = score(log, self.slo, bootstrap=False)
        rows = log.requests
        low, high = _interval(rows, self.slo, self.seed)
        steps = spent(view(log))
        enough, factor = loosened(rows, self.slo)
        return Point(
            replicas=replicas, time_factor=time_factor, met=bool(m.slo_met),
            attainment=m.attainment.value or 0.0, attainment_low=low, attainment_high=high,
            goodput_per_s=m.goodput_per_s.value, ttft_p50_s=m.ttft_s.p50, ttft_p99_s=m.ttft_s.p99,
            tpot_p50_s=m.tpot_s.p50, tpot_p99_s=m.tpot_s.p99, e2el_p99_s=m.e2el_s.p99,
            duration_s=m.duration_s, output_tokens=m.counts.output_tokens,
            output_tokens_per_s=m.output_tokens_per_s.value, power_w=m.power_w.value,
            energy_j_per_output_token=m.energy_j_per_output_token.value, busy=m.busy.value,
            kv_peak=m.kv_peak.value, batch_mean=m.batch_mean.value,
            compute=steps.compute if steps else None, memory=steps.memory if steps else None,
            missed={f.term: f.share for f in m.failing},
            alone={f.term: f.alone for f in m.failing},
            rejected=m.counts.rejected, enough=enough, enough_factor=factor,
            cost_sources=dict(m.cost_sources),
        )  # fmt: skip

    def _key(self, kind: str, replicas: int, time_factor: float, rate: float) -> str:
        return keeping.digest(self._base, kind, replicas, time_factor, rate)

    @cached_property
    def _base(self) -> str:
        """Everything that a run depends on but the number of replicas and the two factors."""
        served, r = self.ready.served, self.requests
        engine, route = served.pool.engine, self.ready.candidate.route
        chosen = [engine.batch, engine.order, engine.admit, engine.preempt, engine.speculate, route]
        # of what a trace says of itself only the closed loop decides anything
        loop = {name: r.meta.get(name) for name in ("concurrency", "think_s")}
        return keeping.digest(
            keeping.code_version(), *content(served), *content(replace(r, meta=loop)),
            *content(route), *content(self.slo), self.seed, *map(_source, chosen),
        )  # fmt: skip


def slowed(table: CostTable, factor: float) -> CostTable:
    """The costs with every time on the device so many times as long; the host's stay."""
    time = table.time_s
    mixed = None if table.mixed_decode is None else table.mixed_decode * factor
    return replace(
        table,
        time_s=Work(**{f.name: getattr(time, f.name) * factor for f in fields(Work)}),
        mixed_decode=mixed,
        mixed_cross_s=table.mixed_cross_s * factor,
        draft=None if table.draft is None else slowed(table.draft, factor),
    )


def content(value: Any) -> Iterator[Any]:
    """All that a value holds, for a digest: every field of a dataclass, so that one which is added
    later cannot be forgotten."""
    if is_dataclass(value):
        for f in fields(value):
            yield f.name
            yield from content(getattr(value, f.name))
    elif isinstance(value, np.ndarray):
        yield value.shape
        yield value
    else:
        yield value.model_dump(mode="json") if isinstance(value, Spec) else value


def _source(policy: Policy) -> bytes | None:
    """The file of a user's own policy, whose lines decide what happens."""
    path, colon, _ = policy.name.rpartition(":")
    return Path(path).read_bytes() if colon and Path(path).is_file() else None


def _interval(rows: np.ndarray, slo: Slo, seed: int) -> tuple[float | None, float | None]:
    """95 % interval of the attainment, by blocks of consecutive requests."""
    n = len(rows)
    if n < stats.FEWEST:
        return None, None
    rows = rows[np.argsort(rows["arrival_ps"], kind="stable")]
    blocks = stats.n_blocks(n)
    block = np.arange(n) * blocks // n
    good = np.bincount(block, weights=goodput.good(rows, slo), minlength=blocks)
    rng = np.random.default_rng([seed, 0x91A5])
    spread = stats.bootstrap_ratio(good, np.bincount(block, minlength=blocks), rng)
    return (None, None) if spread is None else (spread[0], min(spread[1], 1.0))


def loosened(rows: np.ndarray, slo: Slo) -> tuple[dict[str, float], float | None]:
    """The bound of each single term that would make this run meet the SLO, and the factor on all.

    A term is absent when the others alone miss too often.
    """
    k = needed(slo, len(rows))
    terms, done = goodput.bounds(slo), finished(rows)
    if not k or int(done.sum()) < k:
        return {}, None
    values = {t: np.nan_to_num(goodput.TERMS[t](rows), nan=0.0) for t in terms}
    out = {}
    for term, bound in terms.items():
        others = done.copy()
        for other, limit in terms.items():
            if other != term:
                others &= goodput.meets(rows, other, limit)
        if int(others.sum()) >= k:
            out[term] = max(bound, float(np.partition(values[term][others], k - 1)[k - 1]))
    worst = np.max([values[t] / bound for t, bound in terms.items()], axis=0)[done]
    return out, max(1.0, float(np.partition(worst, k - 1)[k - 1])) if terms else None
