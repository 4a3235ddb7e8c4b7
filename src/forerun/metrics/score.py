"""`score`: everything an answer says about a run, as one frozen value.

Percentiles cover all finished requests of the run, warm-up and drain included, unless a window is
given.  Rejected, aborted and unfinished requests have no latency: they are counted, they miss the
SLO, and a note says so.  A figure that the log cannot give is None.

Two uncertainties stand apart.  A figure's `low` and `high` are sampling (`stats`).  The cost model
may be off as a whole: `model_low` and `model_high` are the tables' 80 % factors on step time, and
to first order a latency scales with them (`model_band`); a queue near saturation scales faster.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from forerun.metrics import (
    adapters,
    carbon,
    encoders,
    energy,
    goodput,
    images,
    kv,
    lanes,
    latency,
    models,
    money,
    power,
    rental,
    responses,
    stats,
    streams,
    tenants,
    tuning,
    work,
)
from forerun.metrics.figure import Figure, ratio
from forerun.metrics.gaps import itl, itl_quantiles
from forerun.metrics.goodput import Failing
from forerun.metrics.stats import Quantiles
from forerun.metrics.utilisation import Utilisation, fleet_mean, utilisation
from forerun.metrics.window import View, count, view
from forerun.metrics.workflows import Workflows, workflows
from forerun.sim.core.rows_log import STATUS
from forerun.sim.log import Log
from forerun.spec.slo import Slo

Row = tuple[str, str, float | int | None, float | None, float | None, str, str]
LATENCIES = ("ttft_s", "tpot_s", "itl_s", "e2el_s", "queue_s")


@dataclass(frozen=True)
class Counts:
    """How the requests that arrived in the window ended, and their tokens."""

    n: int
    finished: int
    rejected: int
    aborted: int
    unfinished: int
    failed: int  # their replica went away, and they were not sent again
    preemptions: int
    retries: int  # requests sent again because a replica went away
    recomputed_tokens: int
    lost_tokens: int  # computed for requests that failed
    input_tokens: int  # of requests that finished in the window
    output_tokens: int  # produced in the window (whole run) or by requests that finished in it
    cancelled: int = 0  # never sent: what they waited for gave no answer


@dataclass(frozen=True, eq=False)
class Metrics:
    """What happened, how well, and what it took.  Rates are per second of `duration_s`."""

    start_s: float
    end_s: float
    duration_s: float
    n_devices: int
    counts: Counts
    ttft_s: Quantiles
    tpot_s: Quantiles
    itl_s: Quantiles | None  # None when the log kept no steps
    e2el_s: Quantiles
    queue_s: Quantiles
    requests_per_s: Figure
    output_tokens_per_s: Figure
    total_tokens_per_s: Figure
    output_tokens_per_s_per_device: Figure
    attainment: Figure
    goodput_per_s: Figure
    slo_met: bool | None  # None without a bound, or without a request
    failing: tuple[Failing, ...]
    busy: Figure
    hfu: Figure
    mfu: Figure
    mbu: Figure
    link_bytes_per_s: Figure
    kv_peak: Figure
    kv_mean: Figure
    batch_mean: Figure
    kv_hit: Figure
    kv_moved_bytes_per_s: Figure
    kv_hit_below: Figure
    kv_read_bytes_per_s: Figure
    kv_written_bytes_per_s: Figure
    kv_fetch_s: Figure
    kv_wait_s: Figure
    kv_wait_p99_s: Figure
    items_encoded: Figure
    items_per_s: Figure
    encoding: Figure
    embeddings_moved_bytes_per_s: Figure
    images_per_s: Figure  # of a diffusion model, else None as all of these
    frames_per_s: Figure
    denoising_step_s: Figure
    showing: Figure
    energy_j_per_image: Figure
    usd_per_image: Figure
    energy_j_per_frame: Figure
    usd_per_frame: Figure
    frame_p50_s: Figure  # of video streams, else None as all of these
    frame_p99_s: Figure
    frames_in_time: Figure
    good_frames_per_s: Figure
    uneven_p99_s: Figure
    stream_fps: Figure
    response_hit: Figure
    response_wrong: Figure
    response_missed: Figure
    turns: Figure
    weights_loaded_bytes: Figure
    loading: Figure
    draining: Figure
    adapter_hit: Figure
    adapter_loads: Figure
    adapter_bytes: Figure
    adapter_wait_s: Figure
    adapters_mean: Figure
    tuned_tokens: Figure
    tuned_tokens_per_s: Figure
    tuning_alone: Figure
    tuning_beside: Figure
    prompts_busy: Figure  # of two lanes on the same devices; None where there are none
    answers_busy: Figure
    lanes_overlap: Figure
    prompts_slowdown: Figure
    answers_slowdown: Figure
    share_switches: Figure
    by_model: tuple[models.OfModel, ...]  # empty where there is one model only
    jain: Figure
    service_gap_tokens_per_s: Figure
    by_tenant: tuple[tenants.OfTenant, ...]  # empty where the case names none
    by_class: tuple[tenants.OfTenant, ...]
    by_category: tuple[responses.OfCategory, ...]  # empty without a response cache
    energy_j: Figure
    power_w: Figure
    energy_j_per_output_token: Figure
    row_mean_w: Figure  # of a deployment that says something of power, else None as all of these
    row_p99_w: Figure
    row_peak_w: Figure
    over_budget_s: Figure
    over_budget_longest_s: Figure
    over_budget_w: Figure
    slowed_s: Figure
    power_by_pool: tuple[power.OfPool, ...]  # empty where nothing is said of power
    usd: Figure
    usd_per_hour: Figure
    usd_per_million_output_tokens: Figure
    usd_per_million_tokens: Figure
    gco2e: Figure
    gco2e_per_million_output_tokens: Figure
    replicas_mean: Figure  # the fleet: None when all of it was there all the time
    replicas_peak: Figure
    device_hours: Figure
    cold_share: Figure
    availability: Figure
    lost_s: Figure
    by_replica: Utilisation
    model_low: float
    model_high: float
    cost_sources: Mapping[str, float]  # share of a typical step's time by where its cost is from
    notes: tuple[str, ...]
    workflows: Workflows | None = None  # None when requests stand alone

    @property
    def binding(self) -> str | None:
        """The SLO term that the most finished requests miss; None when all meet all."""
        return self.failing[0].term if self.failing and self.failing[0].share > 0 else None


def score(
    log: Log,
    slo: Slo | None = None,
    *,
    price_usd_per_hour: money.Price = None,
    carbon_gco2e_per_kwh: carbon.Intensity = None,
    pue: float = 1.0,
    bootstrap: bool = True,
    window: tuple[float, float] | None = None,
) -> Metrics:
    """All metrics of a run.

    price_usd_per_hour is of the whole deployment, or of each pool, carbon_gco2e_per_kwh of the grid
    of all of it, or of each pool's by its name.  `window` is (start_s, end_s)
    from the start of the run.  Raises SpecError for a window outside the run.
    """
    slo = slo or Slo()
    part = view(log, window)
    rng = np.random.default_rng([log.seed, 0xB007]) if bootstrap else None
    done = part.arrived[latency.finished(part.arrived)]
    duration = part.duration_s
    counts = _counts(part)
    paid = money.usd_per_hour(part, price_usd_per_hour)
    rates = _rates(part, slo, rng)
    n_out, n_all = counts.output_tokens, counts.output_tokens + counts.input_tokens
    joule = energy.energy_j(part)
    grams = carbon.of_run(part, carbon_gco2e_per_kwh, pue)
    drawn = power.power(part)
    if drawn.gco2e is not None:
        grams = drawn.gco2e * pue
    met, good_share = _attainment(part, slo, rng)
    in_time = streams.met(part, slo)
    if in_time is not None:
        met = in_time and met is not False
    latencies: dict[str, Any] = {
        name: stats.quantiles(getattr(latency, name)(done), rng=rng)
        for name in ("ttft_s", "tpot_s", "e2el_s", "queue_s")
    }
    gaps = None
    if part.leaps is not None and part.gaps is not None:
        gaps = itl_quantiles(itl(part.leaps, part.gaps))
    steps = "steps x cost table"
    always = log.spans is None
    price = "price given x time" if always else "price given x time rented"
    price_source = "price given" if always else "price given x time rented"
    of_time = " of the time" if drawn.gco2e is not None else ""
    grid = f"energy x grid intensity given{of_time}, pue {pue:g}"
    replicas, shares = _utilisation(part)
    return Metrics(
        start_s=part.start_ps * latency.PS,
        end_s=part.end_ps * latency.PS,
        duration_s=duration,
        n_devices=part.n_devices,
        counts=counts,
        **latencies,
        itl_s=gaps,
        **rates,
        attainment=good_share,
        slo_met=met,
        failing=goodput.failing(part.arrived, goodput.goals(slo, log)),
        **shares,
        **kv.figures(part),
        **encoders.figures(part),
        **images.figures(part, joule, money.cost_usd(paid, duration)),
        **streams.figures(part, slo),
        **responses.figures(part),
        **models.figures(part),
        **adapters.figures(part),
        **tuning.figures(part),
        **lanes.figures(part),
        by_category=responses.by_category(part),
        by_model=models.by_model(part, slo),
        **tenants.figures(part),
        by_tenant=tenants.by_tenant(part, slo),
        by_class=tenants.by_class(part, slo),
        energy_j=Figure(joule, "J", steps),
        power_w=Figure(ratio(joule, duration), "W", steps),
        energy_j_per_output_token=Figure(ratio(joule, n_out), "J/token", steps),
        **drawn.figures,
        power_by_pool=drawn.pools,
        usd=Figure(money.cost_usd(paid, duration), "USD", price),
        usd_per_hour=Figure(paid, "USD/h", price_source),
        usd_per_million_output_tokens=Figure(
            money.usd_per_million(paid, n_out, duration), "USD/Mtoken", price
        ),
        usd_per_million_tokens=Figure(
            money.usd_per_million(paid, n_all, duration), "USD/Mtoken", price
        ),
        gco2e=Figure(grams, "gCO2e", grid),
        gco2e_per_million_output_tokens=Figure(ratio(grams, n_out, 1e6), "gCO2e/Mtoken", grid),
        **rental.figures(part),
        by_replica=replicas,
        model_low=min((t.low for t in log.tables), default=1.0),
        model_high=max((t.high for t in log.tables), default=1.0),
        cost_sources=_cost_sources(log),
        notes=_notes(part, counts, done),
        workflows=workflows(part, rng),
    )


def _counts(part: View) -> Counts:
    rows, ended = part.arrived, part.ended
    made = part.log.requests if part.whole else ended
    n_out = int(made["n_out"].sum(dtype=np.int64))
    if not part.whole and part.leaps is not None:
        steps = part.leaps["n_seqs"].astype(np.int64) * part.leaps["n_steps"]
        n_out = int(np.sum(steps + part.leaps["n_extra"]))
        n_out += int(ended["n_out"][ended["replica"] < 0].sum(dtype=np.int64))  # kept answers
    ends = {status: count(rows, status) for status in STATUS}
    if part.whole:  # the core may count those it left behind without a row each
        ends["unfinished"] = max(ends["unfinished"], part.log.n_unfinished)
    failed = rows["status"] == STATUS["failed"]
    return Counts(
        n=sum(ends.values()),
        **ends,
        preemptions=int(rows["n_preempt"].sum(dtype=np.int64)),
        retries=int(rows["n_retries"].sum(dtype=np.int64)),
        recomputed_tokens=int(rows["recomputed"][~failed].sum(dtype=np.int64)),
        lost_tokens=int(rows["recomputed"][failed].sum(dtype=np.int64)),
        input_tokens=int(ended["isl"].sum(dtype=np.int64)),
        output_tokens=n_out,
    )


def _rates(part: View, slo: Slo, rng: np.random.Generator | None) -> dict[str, Any]:
    """Per-second figures with intervals from equal stretches of time drawn together."""
    ended, duration = part.ended, part.duration_s
    blocks = stats.n_blocks(len(ended))
    edges = np.linspace(part.start_ps, part.end_ps, blocks + 1) if blocks else np.zeros(1)
    block = np.clip(np.searchsorted(edges, ended["done_ps"], side="left") - 1, 0, blocks - 1)
    counts = _counts(part)

    def figure(total: float, each: np.ndarray, unit: str, scale: float = 1.0) -> Figure:
        value = ratio(total, duration, scale)
        if rng is None or value is None or len(ended) < stats.FEWEST or total == 0:
            return Figure(value, unit, "requests")
        by_block = np.bincount(block, weights=each, minlength=blocks)
        spread = stats.bootstrap_ratio(by_block, np.full(blocks, by_block.mean()), rng)
        if spread is None:
            return Figure(value, unit, "requests")
        return Figure(value, unit, "requests", value * spread[0], value * spread[1])

    n_out, n_in = ended["n_out"].astype(float), ended["isl"].astype(float)
    good = goodput.good(ended, goodput.goals(slo, part.log))
    out = counts.output_tokens
    a_device = 1 / max(rental.devices_rented(part), 1e-9)
    return {
        "requests_per_s": figure(len(ended), np.ones(len(ended)), "req/s"),
        "output_tokens_per_s": figure(out, n_out, "token/s"),
        "total_tokens_per_s": figure(out + counts.input_tokens, n_out + n_in, "token/s"),
        "output_tokens_per_s_per_device": figure(out, n_out, "token/s", a_device),
        "goodput_per_s": figure(float(good.sum()), good.astype(float), "req/s"),
    }


def _attainment(
    part: View, slo: Slo, rng: np.random.Generator | None
) -> tuple[bool | None, Figure]:
    """Whether enough requests were good, and their share of all that arrived."""
    rows = part.arrived
    goals = goodput.goals(slo, part.log)
    good = goodput.good(rows, goals)
    share = goodput.attainment(rows, goals)
    spread = None
    if rng is not None and len(rows) >= stats.FEWEST:
        blocks = stats.n_blocks(len(rows))
        block = np.arange(len(rows)) * blocks // len(rows)
        top = np.bincount(block, weights=good, minlength=blocks)
        spread = stats.bootstrap_ratio(top, np.bincount(block, minlength=blocks), rng)
    met = None
    if share is not None and goodput.bounds_any(slo):
        whole = share >= slo.attainment
        met = goodput.classes_met(rows, slo, part.log) if slo.classes else whole
    low, high = (spread[0], min(spread[1], 1.0)) if spread else (None, None)
    return met, Figure(share, "share", "requests", low, high)


def _utilisation(part: View) -> tuple[Utilisation, dict[str, Any]]:
    use, log = utilisation(part), part.log
    pools = log.pool_of_replica
    one = rental.share(part, rental.POWERED)
    flop = work.of_replica(log, "peak_flop_per_s") * one
    traffic = work.of_replica(log, "peak_hbm_bytes_per_s") * one
    blocks = np.where(encoders.encodes(log), 0.0, log.kv_blocks[pools] * lanes.counted(log)) * one
    steps = "steps x cost table"
    link = None if use.link_bytes_per_s is None else float(use.link_bytes_per_s.sum())
    peak = None
    if use.kv_peak is not None and len(use.kv_peak):
        peak = float(use.kv_peak[~encoders.encodes(log)].max())
    busy = one if use.busy is None else use.busy * one
    return use, {
        "busy": Figure(fleet_mean(use.busy, one), "share", "steps"),
        "hfu": Figure(fleet_mean(use.hfu, flop), "share", steps),
        "mfu": Figure(fleet_mean(use.mfu, flop), "share", f"{steps}, less recomputed tokens"),
        "mbu": Figure(fleet_mean(use.mbu, traffic), "share", steps),
        "link_bytes_per_s": Figure(link, "bytes/s", steps),
        "kv_peak": Figure(peak, "share", "steps, fullest replica"),
        "kv_mean": Figure(fleet_mean(use.kv_mean, blocks), "share", "steps"),
        "batch_mean": Figure(fleet_mean(use.batch_mean, busy), "requests", "steps, while busy"),
    }


def _cost_sources(log: Log) -> dict[str, float]:
    """Shares by source over all replicas, each weighing as long as it was busy."""
    busy = log.replicas["busy_ps"].astype(float)
    busy = busy if busy.sum() > 0 else np.ones(len(busy))
    out: dict[str, float] = {}
    for pool, share in zip(log.pool_of_replica, busy / busy.sum(), strict=True):
        for name, part in log.tables[pool].sources.items():
            out[name] = out.get(name, 0.0) + float(share) * part
    return dict(sorted(out.items(), key=lambda item: (-item[1], item[0])))


def _notes(part: View, counts: Counts, done: np.ndarray) -> tuple[str, ...]:
    notes = []
    if part.whole:
        notes.append("percentiles cover all finished requests, warm-up and drain included")
    else:
        notes.append("latencies are of requests that arrived in the window, rates of those ended")
    unlisted = part.log.n_unfinished - count(part.log.requests, "unfinished")
    if unlisted > 0:
        notes.append(
            f"the run stopped before {unlisted:,} requests had ended or arrived: they count as "
            "unfinished, and attainment, goodput and percentiles are of the others, which flatters "
            "an overloaded deployment"
        )
    if counts.cancelled:
        notes.append(
            f"{counts.cancelled:,} requests were never sent, because what they waited for gave no "
            "answer: they miss the SLO"
        )
    left = counts.rejected + counts.aborted + counts.failed + count(part.arrived, "unfinished")
    if left:
        lost = f"{counts.failed:,} failed, " if counts.failed else ""
        notes.append(
            f"{left:,} of {counts.n:,} requests have no full latency ({counts.rejected:,} "
            f"rejected, {counts.aborted:,} aborted, {lost}the rest unfinished): percentiles "
            "leave them out, they miss the SLO"
        )
    notes += responses.note(part)
    if len(done) < stats.FEWEST:
        notes.append(f"{len(done)} finished requests are too few for sampling intervals")
    elif len(done) < 1000:
        notes.append(f"a p99 of {len(done)} requests rests on the slowest {len(done) // 100 + 1}")
    change = stats.drift(latency.ttft_s(done))
    if change is not None and not 0.5 <= change <= 2:
        notes.append(
            f"not a steady state: the median ttft of the last third is {change:.3g} times that of "
            "the first, so a longer run would give other percentiles"
        )
    if part.leaps is None:
        notes.append("the log kept no steps: itl, utilisation and energy are unknown")
    return tuple(notes)


def model_band(metrics: Metrics, value: float | None) -> tuple[float, float] | None:
    """The 80 % band of the cost model around a latency, to first order; None for no value."""
    if value is None:
        return None
    return value * metrics.model_low, value * metrics.model_high


def rows(metrics: Metrics) -> list[Row]:
    """(group, name, value, low, high, unit, source) for every figure; low, high are sampling."""
    out: list[Row] = []
    for item in fields(Counts):
        unit = "token" if item.name.endswith("tokens") else "count"
        value = getattr(metrics.counts, item.name)
        out.append(("counts", item.name, value, None, None, unit, "requests"))
    for name in LATENCIES:
        found = getattr(metrics, name)
        if found is None:
            out.append(("latency", name, None, None, None, "s", "unknown: no steps kept"))
            continue
        for point in ("mean", "min", "p50", "p90", "p95", "p99", "max"):
            low, high = found.intervals.get(point, (None, None))
            value = getattr(found, point)
            out.append(("latency", f"{name}.{point}", value, low, high, found.unit, found.source))
    for group, names in GROUPS.items():
        for name in names:
            f = getattr(metrics, name)
            out.append((group, name, f.value, f.low, f.high, f.unit, f.source))
    if metrics.workflows is not None:
        out += workflow_rows(metrics.workflows)
    table = "cost tables, 80 % band on step time"
    low, high = metrics.model_low, metrics.model_high
    out.append(("model", "step_time_factor", 1.0, low, high, "factor", table))
    return out


def workflow_rows(found: Workflows) -> list[Row]:
    """The same rows for whole workflows."""
    out: list[Row] = [
        ("workflows", name, getattr(found, name), None, None, "count", "requests")
        for name in ("n", "finished")
    ]
    for point in ("mean", "min", "p50", "p90", "p95", "p99", "max"):
        low, high = found.e2el_s.intervals.get(point, (None, None))
        value = getattr(found.e2el_s, point)
        out.append(("workflows", f"e2el_s.{point}", value, low, high, "s", found.e2el_s.source))
    for name in WORKFLOWS:
        f = getattr(found, name)
        out.append(("workflows", name, f.value, f.low, f.high, f.unit, f.source))
    return out


WORKFLOWS = ("deadline_met", "path_queue_s", "path_service_s", "path_delay_s", "path_requests")
GROUPS: dict[str, tuple[str, ...]] = {
    "throughput": (
        "requests_per_s", "output_tokens_per_s", "total_tokens_per_s",
        "output_tokens_per_s_per_device",
    ),
    "goodput": ("attainment", "goodput_per_s"),
    "utilisation": (
        "busy", "hfu", "mfu", "mbu", "link_bytes_per_s", "kv_peak", "kv_mean", "batch_mean",
    ),
    "kv": (
        "kv_hit", "kv_moved_bytes_per_s", "kv_wait_s", "kv_wait_p99_s", "kv_hit_below",
        "kv_read_bytes_per_s", "kv_written_bytes_per_s", "kv_fetch_s",
    ),
    "encoders": (
        "items_encoded", "items_per_s", "encoding", "embeddings_moved_bytes_per_s",
    ),
    "images": (
        "images_per_s", "frames_per_s", "denoising_step_s", "showing", "energy_j_per_image",
        "usd_per_image", "energy_j_per_frame", "usd_per_frame",
    ),
    "streams": (
        "frame_p50_s", "frame_p99_s", "frames_in_time", "good_frames_per_s", "uneven_p99_s",
        "stream_fps",
    ),
    "responses": ("response_hit", "response_wrong", "response_missed"),
    "models": ("turns", "weights_loaded_bytes", "loading", "draining"),
    "adapters": (
        "adapter_hit", "adapter_loads", "adapter_bytes", "adapter_wait_s", "adapters_mean",
    ),
    "tuning": ("tuned_tokens", "tuned_tokens_per_s", "tuning_alone", "tuning_beside"),
    "lanes": (
        "prompts_busy", "answers_busy", "lanes_overlap", "prompts_slowdown", "answers_slowdown",
        "share_switches",
    ),
    "tenants": ("jain", "service_gap_tokens_per_s"),
    "energy": ("energy_j", "power_w", "energy_j_per_output_token"),
    "power": (
        "row_mean_w", "row_p99_w", "row_peak_w", "over_budget_s", "over_budget_longest_s",
        "over_budget_w", "slowed_s",
    ),
    "money": ("usd", "usd_per_hour", "usd_per_million_output_tokens", "usd_per_million_tokens"),
    "carbon": ("gco2e", "gco2e_per_million_output_tokens"),
    "fleet": (
        "replicas_mean", "replicas_peak", "device_hours", "cold_share", "availability", "lost_s",
    ),
}  # fmt: skip
