"""`score`: everything an answer says about a run, as one frozen value.

Percentiles cover all finished requests of the run, warm-up and drain included, unless a window is
given.  Rejected, aborted and unfinished requests have no latency: they are counted, they miss the
SLO, and a note says so.  A figure that the log cannot give is None.

Two uncertainties stand apart.  A figure's `low` and `high` are sampling (`stats`).  The cost model
may be off as a whole: `model_low` and `model_high` are the tables' 80 % factors on step time, and
to first order a latency scales with them (`model_band`); a queue near saturation scales faster.
"""

from __future__ import annotations

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
from forerun.metrics.answer import Counts, Metrics
from forerun.metrics.figure import Figure, ratio
from forerun.metrics.gaps import itl, itl_quantiles
from forerun.metrics.utilisation import Utilisation, fleet_mean, utilisation
from forerun.metrics.window import View, count, view
from forerun.metrics.workflows import workflows
from forerun.sim.core.rows_log import STATUS
from forerun.sim.log import Log
from forerun.spec.slo import Slo


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
