"""`explain`: why the figures are what they are, in sentences that carry their evidence."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from forerun.metrics import (
    adapters,
    encoders,
    fleet,
    images,
    lanes,
    power,
    responses,
    streams,
    tuning,
    waits,
    work,
)
from forerun.metrics.answer import Metrics
from forerun.metrics.figure import plural, ratio, text
from forerun.metrics.latency import PS, finished, queue_s, ttft_s
from forerun.metrics.window import View, view
from forerun.metrics.workflows import sentence
from forerun.sim.core.rows_log import STATUS
from forerun.sim.leaps import span_ps
from forerun.sim.log import Log

LOW = 0.3  # share of a peak below which it does not bound
WORDS = {
    "ttft_s": "time to first token",
    "tpot_s": "time per output token",
    "itl_s": "longest gap between tokens",
    "e2el_s": "end-to-end latency",
}


@dataclass(frozen=True)
class Steps:
    """What busy time went into, as shares of it."""

    compute: float  # time the flop would take at peak
    memory: float  # time the bytes would take at peak
    host: float
    prefill: float  # in steps that compute some prompt


def explain(log: Log, metrics: Metrics) -> list[str]:
    """Sentences that say what bounds a run, most telling first."""
    part = view(log, (metrics.start_s, metrics.end_s) if not _whole(log, metrics) else None)
    made = images.makes(log)  # what is said of tokens says nothing of images
    out = [*_misses(metrics), *([] if made else _first_token(part)), *_load(part, metrics)]
    steps = spent(part)
    if steps is None:
        out.append("What bounds the steps is unknown: the log kept no steps.")
    else:
        out += [*_waiting(part, metrics), *_bound(metrics, steps)]
        out += [] if made else [*_phases(metrics, steps), *_gaps(part, metrics)]
        out += _speculation(part)
    out += [*images.told(part), *streams.told(part)] if made else encoders.told(part)
    out += [*_moves(part, metrics), *_tiers(part), *_turns(part, metrics)]
    out += [*lanes.told(part, metrics), *_preemption(metrics)]
    out += adapters.told(part, metrics.adapter_hit, metrics.adapter_wait_s)
    out += tuning.told(part, metrics.tuned_tokens, metrics.tuning_alone, metrics.tuning_beside)
    out += [*sentence(metrics.workflows), *_clients(log), *responses.told(part)]
    out += power.sentences(metrics.power_by_pool, metrics, log)
    return out + fleet.told(part, metrics)


def _clients(log: Log) -> list[str]:
    """What clients did beside waiting, and what that cost."""
    did = log.meta.get("clients")
    if did is None:
        return []
    computed = int(log.replicas["n_tokens"].sum())
    told = (
        f"Clients gave up {plural(did['given_up'], 'time')}, sent "
        f"{plural(did['sent_again'], 'request')} again and {did['hedged']:,} to a second replica"
    )
    if not did["wasted_tokens"] or not computed:
        return [told + "; nothing was computed in vain."]
    share = text(did["wasted_tokens"] / computed, "share")
    return [f"{told}; copies whose answer nobody took cost {share} of all computed tokens."]


def spent(part: View) -> Steps | None:
    """Where busy time went; None when the log kept no steps."""
    log, leaps = part.log, part.leaps
    if leaps is None:
        return None
    span = span_ps(leaps) * PS
    busy = float(span.sum())
    if busy <= 0:
        return Steps(0, 0, 0, 0)
    pool = leaps["pool"]
    host = sum(work.host_s(leaps[pool == p], t).sum() for p, t in enumerate(log.tables))
    at = leaps["replica"]
    flop_s = work.by_leap(leaps, log, "flop") / work.of_replica(log, "peak_flop_per_s")[at]
    traffic = work.of_replica(log, "peak_hbm_bytes_per_s")[at]
    traffic_s = work.by_leap(leaps, log, "hbm_bytes") / traffic
    return Steps(
        compute=float(flop_s.sum()) / busy,
        memory=float(traffic_s.sum()) / busy,
        host=float(host) / busy,
        prefill=float(span[leaps["n_chunks"] > 0].sum()) / busy,
    )


def _whole(log: Log, metrics: Metrics) -> bool:
    return metrics.start_s == log.start_ps * PS and metrics.end_s == log.end_ps * PS


def _misses(m: Metrics) -> list[str]:
    if m.slo_met is None or m.attainment.value is None:
        return []
    out = []
    if m.binding:
        f = m.failing[0]
        out.append(
            f"Most misses are of the {WORDS[f.term]}: {text(f.share, 'share')} of finished "
            f"requests took more than "
            f"{text(f.bound, 's') if f.same else 'their class allows'}, "
            f"{text(f.alone, 'share')} missed nothing else."
        )
    names = ("rejected", "aborted", "cancelled", "failed")
    lost = {name: getattr(m.counts, name) for name in names}
    if any(lost.values()):
        ends = ", ".join(f"{n:,} {name}" for name, n in lost.items() if n)
        out.append(f"Requests without a full answer count as misses: {ends} of {m.counts.n:,}.")
    return out


def _first_token(part: View) -> list[str]:
    done = part.arrived[finished(part.arrived) & (part.arrived["replica"] >= 0)]
    if not len(done):
        return []
    wait, total = queue_s(done), ttft_s(done)
    mean, queued = float(total.mean()), float(wait.mean())
    if mean <= 0:
        return []
    slow = total >= np.quantile(total, 0.99)
    tail = float(wait[slow].sum() / total[slow].sum())
    kind = "queueing" if queued > mean / 2 else "computing the prompt"
    return [
        f"The first token is mostly {kind}: of {text(mean, 's')} on average, {text(queued, 's')} "
        f"({text(queued / mean, 'share')}) is waiting to be scheduled; among the slowest 1 % it is "
        f"{text(tail, 'share')}."
    ]


def _load(part: View, m: Metrics) -> list[str]:
    """Overload, or how full the replicas are.  A replica in steps all the time need not be full."""
    rates = overload(part)
    if rates:
        return [
            f"The deployment is overloaded: after the first quarter, requests arrive at "
            f"{text(rates[0], 'req/s')} and end at {text(rates[1], 'req/s')}, and waits grow as "
            "long as the load lasts."
        ]
    if m.busy.value is None:
        return []
    busy = f"The replicas are in a step {text(m.busy.value, 'share')} of the time"
    if m.batch_mean.value is None:
        return [f"{busy}."]
    seats = "/".join(sorted({str(t.max_seqs) for t in part.log.tables}))
    if images.makes(part.log):
        return [f"{busy}, with {text(m.batch_mean.value, 'factor')} requests each on average."]
    return [
        f"{busy}, with {text(m.batch_mean.value, 'factor')} of at most {seats} requests each and "
        f"{text(m.kv_mean.value, 'share')} of the KV blocks in use on average."
    ]


def overload(part: View) -> tuple[float, float] | None:
    """(arrivals, ends) a second after the first quarter of the arrivals' span, if a queue grows.

    It grows when ends fall short of arrivals by more than 5 % and three standard deviations of a
    Poisson count, and the last quarter's requests wait 1.5 times as long as the second's.
    """
    rows = part.arrived
    if len(rows) < 8:
        return None
    first, last = int(rows["arrival_ps"][0]), int(rows["arrival_ps"][-1])
    begin, seconds = first + (last - first) // 4, (last - first) * 0.75 * PS
    if seconds <= 0:
        return None
    left = part.log.requests
    left = left["done_ps"][left["status"] != STATUS["unfinished"]]
    came = int(np.sum(rows["arrival_ps"] > begin))
    went = int(np.sum((left > begin) & (left <= last)))
    wait = queue_s(rows)
    wait = np.where(np.isnan(wait), (part.end_ps - rows["arrival_ps"]) * PS, wait)
    at_once = (rows["status"] == STATUS["rejected"]) | (finished(rows) & (rows["replica"] < 0))
    wait = np.where(at_once, 0.0, wait)
    quarter = len(rows) // 4
    longer = wait[-quarter:].mean() > 1.5 * wait[quarter : 2 * quarter].mean()
    if came - went <= max(0.05 * came, 3 * came**0.5) or not longer:
        return None
    return came / seconds, went / seconds


def _waiting(part: View, m: Metrics) -> list[str]:
    found = waits.waited_s(part)
    total = sum(found.values()) if found else 0.0
    if not found or total <= 0:
        return []
    tables = part.log.tables
    seats = "/".join(sorted({str(t.max_seqs) for t in tables}))
    tokens = "/".join(sorted({str(t.max_tokens) for t in tables}))
    words = {
        waits.STEP: "for the step in progress to end",
        waits.KV: f"while {text(waits.KV_FULL, 'share')} or more of the KV blocks were in use",
        waits.SEATS: f"while the batch was full (max_num_seqs {seats})",
        waits.TOKENS: f"while steps used up their tokens (max_num_batched_tokens {tokens})",
        waits.POLICY: "below these limits (the batch policy, the order, or a prompt too long for "
        "the free blocks)",
        waits.OUTSIDE: "outside steps (API server and tokenizer)"
        if m.kv_wait_s.value is None
        else "while no step ran (the API server, or memory full of KV that waits to be moved)",
    }
    if images.makes(part.log):
        most = "/".join(sorted({f"{t.max_tokens:,}" for t in tables if t.max_seqs > 1}))
        words[waits.TOKENS] = words[waits.POLICY] = (
            f"for room in a step, which computes {most} tokens at most"
        )
    if m.turns.value is not None:
        words[waits.POLICY] = "while other models ran or were drained for theirs"
        words[waits.OUTSIDE] = "while no step ran (weights were loaded, or the API server)"
    shares: dict[str, float] = {}
    for name, seconds in found.items():
        shares[words[name]] = shares.get(words[name], 0.0) + seconds / total
    parts = sorted(((share, why) for why, share in shares.items()), reverse=True)
    told = [f"{text(share, 'share')} is {why}" for share, why in parts if share >= 0.01]
    return [f"Of the time requests wait to be scheduled, {_listed(told)}."]


def _listed(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]


def _bound(m: Metrics, s: Steps) -> list[str]:
    if not m.busy.value:
        return []
    parts = {"compute": s.compute, "HBM bandwidth": s.memory, "host overhead": s.host}
    name, share = max(parts.items(), key=lambda item: item[1])
    figures = (
        f"While busy, steps run at {text(s.compute, 'share')} of peak compute and "
        f"{text(s.memory, 'share')} of peak HBM bandwidth, and {text(s.host, 'share')} of the time "
        "is host work"
    )
    if share < LOW:
        why = (
            "none of these fills it; the rest is launches, communication and work below peak "
            "efficiency, which the log does not tell apart"
        )
    else:
        why = f"{name} bounds them"
    return [f"{figures}: {why}."]


def _phases(m: Metrics, s: Steps) -> list[str]:
    if not m.busy.value:
        return []
    return [
        f"{text(s.prefill, 'share')} of busy time is in steps that compute prompts, "
        f"{text(1 - s.prefill, 'share')} in steps that only decode.",
    ]


def _gaps(part: View, m: Metrics) -> list[str]:
    """Whether decoding is uneven, and how much of that comes from steps that compute prompts."""
    q, leaps = m.itl_s, part.leaps
    if leaps is None or part.gaps is None or q is None or not q.p50 or q.p99 is None:
        return []
    if q.p99 < 3 * q.p50:
        return []
    long = (span_ps(leaps) * PS / leaps["n_steps"]) > 3 * q.p50
    n = (leaps["n_decode"].astype(float) * leaps["n_steps"])[long]
    waited = float(part.gaps["count"].sum())
    mixed = float(n[leaps["n_chunks"][long] > 0].sum())
    total = max(float(n.sum()) + waited, 1.0)
    return [
        f"Decoding is uneven: the p99 gap between tokens, {text(q.p99, 's')}, is "
        f"{text(q.p99 / q.p50, 'factor')} times the median, {text(q.p50, 's')}; of the gaps beyond "
        f"3 medians {text(min(mixed / total, 1.0), 'share')} are in steps that also compute "
        f"prompts, {text(min(waited / total, 1.0), 'share')} waited for whole other steps."
    ]


def _moves(part: View, m: Metrics) -> list[str]:
    """How long KV that moved kept its requests, and how much of the links it took."""
    if m.kv_wait_s.value is None or m.kv_moved_bytes_per_s.value is None:
        return []
    sent = (part.log.replicas["moved_bytes"] > 0) & ~encoders.encodes(part.log)
    ports = np.array(part.log.meta["port_bytes_per_s"])[part.log.pool_of_replica]
    use = m.kv_moved_bytes_per_s.value / float(ports[sent].sum())
    return [
        f"Requests that went on elsewhere waited {text(m.kv_wait_s.value, 's')} on average for "
        f"room there and their KV; the links that sent it were in use {text(use, 'share')} of the "
        "time."
    ]


def _tiers(part: View) -> list[str]:
    """What each tier of KV gave and took, and what it lost."""
    if not part.log.tiers or not part.whole:
        return []
    tokens = max(int(part.log.requests["isl"].sum(dtype=np.int64)), 1)
    told = []
    for tier in part.log.tiers:
        gave = f"{tier.name} gave {text(tier.hit_tokens / tokens, 'share')} of all prompt tokens"
        took = f"took {text(tier.written_bytes, 'bytes')} and is {text(tier.kept, 'share')} full"
        swap = f", brought back {plural(tier.swap_tokens, 'swapped token')}"
        lost = f", lost {plural(tier.n_refused, 'block')} that it could not take in time"
        rest = (swap if tier.swap_tokens else "") + (lost if tier.n_refused else "")
        told.append(f"{gave}, {took}{rest}")
    wait = text(ratio(part.log.fetch_s, part.log.n_fetched), "s")
    waited = f"; {plural(part.log.n_fetched, 'wait')} for it took {wait} on average"
    return [f"KV below memory: {'; '.join(told)}{waited if part.log.n_fetched else ''}."]


def _speculation(part: View) -> list[str]:
    """What proposals gave, and how much they added to what steps compute."""
    leaps = part.leaps
    if leaps is None or not leaps["n_draft"].any():
        return []
    proposed, right = float(leaps["n_draft"].sum()), float(leaps["n_extra"].sum())
    rounds = leaps[leaps["n_draft"] > 0]
    n = float(rounds["n_decode"].sum())
    steps = leaps[leaps["n_decode"] > 0]["n_steps"].astype(float)
    share = len(rounds) / max(float(steps.sum()), 1.0)
    computed = float((leaps["n_tokens"].astype(float) * leaps["n_steps"]).sum())
    return [
        f"Speculation: {text(right / proposed, 'share')} of {proposed:,.0f} proposed tokens were "
        f"accepted, {text(1 + right / n, 'factor')} tokens a request in each of the "
        f"{text(share, 'share')} of decode steps that verified any; rejected ones are "
        f"{text((proposed - right) / computed, 'share')} of the tokens computed."
    ]


def _turns(part: View, m: Metrics) -> list[str]:
    """What it took to have more models than fit."""
    loads = part.log.loads
    if loads is None or m.turns.value is None or m.loading.value is None:
        return []
    cold = int(loads["n_cold"].sum())
    mean = (
        ", no weights had to come"
        if not cold
        else (
            f", {cold:,} times its weights had to come, which took "
            f"{text(float(loads['load_ps'].sum()) * PS / cold, 's')} each"
        )
    )
    return [
        f"Replicas took up another model {plural(int(m.turns.value), 'time')}{mean}: "
        f"{text(m.loading.value, 'share')} of their time went into loading and "
        f"{text(m.draining.value, 'share')} passed while the model before was being drained."
    ]


def _preemption(m: Metrics) -> list[str]:
    c = m.counts
    if not c.preemptions:
        return []
    peak = "unknown" if m.kv_peak.value is None else text(m.kv_peak.value, "share")
    words = plural(c.preemptions, "preemption")
    if c.retries:
        words += f" and {c.retries:,} retries"
    return [
        f"{words} recomputed {plural(c.recomputed_tokens, 'token')}: the KV cache ran out (peak "
        f"use {peak})."
    ]
