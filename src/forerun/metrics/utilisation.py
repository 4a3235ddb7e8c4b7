"""How busy the hardware was: over the run, by replica, and over time.

Shares are 0 to 1 of the time a replica was rented and powered unless they say `_busy`.  What only
steps can tell is None when the log kept none; a device's peak link rate is not in a cost table, so
link use is a rate, and a share only when the caller gives the peak.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from forerun.metrics import lanes, rental, work
from forerun.metrics.latency import PS
from forerun.metrics.window import View
from forerun.sim.core.rows_log import STATUS
from forerun.sim.leaps import amount_by, end_ps, span_ps


@dataclass(frozen=True, eq=False)
class Utilisation:
    """One entry a replica: float64 [replicas], or None when the log kept no steps.

    busy : share of time in a step.                    hfu  : flop done / peak flop of the time.
    mfu  : the same without recomputed and rejected tokens (their share of all computed tokens is
    taken off) and without the work of drafts.
    mbu  : memory bytes moved / peak of the time.      link_bytes_per_s : sent by all its devices.
    kv_peak, kv_mean : KV blocks in use over capacity; the mean is over elapsed time.
    batch_mean : running requests, over busy time.
    """

    busy: np.ndarray | None
    hfu: np.ndarray | None
    mfu: np.ndarray | None
    mbu: np.ndarray | None
    link_bytes_per_s: np.ndarray | None
    kv_peak: np.ndarray | None
    kv_mean: np.ndarray | None
    batch_mean: np.ndarray | None


def utilisation(part: View) -> Utilisation:
    """By replica; see Utilisation."""
    log, leaps, seconds = part.log, part.leaps, part.duration_s
    blocks = log.kv_blocks[log.pool_of_replica].astype(float)
    if seconds <= 0:
        return Utilisation(*[None] * 8)
    share = rental.share(part, rental.POWERED)
    there_s = seconds * np.where(share > 0, share, 1.0)  # one that never was there did nothing
    peak = log.replicas["peak_blocks"] / np.maximum(blocks, 1) if part.whole else None
    if leaps is None:
        busy = log.replicas["busy_ps"] * PS / there_s if part.whole else None
        return Utilisation(busy, None, None, None, None, peak, None, None)

    def total(amounts: np.ndarray) -> np.ndarray:
        out = np.zeros(len(log.pool_of_replica))
        np.add.at(out, leaps["replica"], amounts)
        return out

    span = span_ps(leaps) * PS
    busy_s = total(span)
    flop = total(work.by_leap(leaps, log, "flop"))
    drafts = any(table.draft is not None for table in log.tables)
    own = flop if not drafts else total(work.by_leap(leaps, log, "flop", drafts=False))
    peak_flop = work.of_replica(log, "peak_flop_per_s") * there_s
    peak_bytes = work.of_replica(log, "peak_hbm_bytes_per_s") * there_s
    hfu = flop / peak_flop
    if not part.whole:
        peak = np.zeros(len(blocks))
        np.maximum.at(peak, leaps["replica"], leaps["n_blocks"])
        peak = peak / np.maximum(blocks, 1)
    return Utilisation(
        busy=busy_s / there_s,
        hfu=hfu,
        mfu=own / peak_flop * (1 - recomputed_share(part)),
        mbu=total(work.by_leap(leaps, log, "hbm_bytes")) / peak_bytes,
        link_bytes_per_s=total(work.by_leap(leaps, log, "link_bytes")) / seconds,
        kv_peak=peak,
        kv_mean=total(span * leaps["n_blocks"]) / np.maximum(blocks, 1) / there_s,
        batch_mean=total(span * leaps["n_running"]) / np.where(busy_s > 0, busy_s, 1),
    )


def recomputed_share(part: View) -> float:
    """Tokens computed again after preemption, or proposed and wrong, over all computed, of the
    whole run."""
    replicas = part.log.replicas
    computed = float(replicas["n_tokens"].sum())
    rejected = float((replicas["n_drafted"] - replicas["n_extra"]).sum())
    lost = float(part.log.requests["recomputed"].sum()) + rejected
    return lost / computed if computed else 0.0


def link_utilisation(part: View, peak_link_bytes_per_s: float) -> np.ndarray | None:
    """Share of a replica's links in use, given the peak of all its devices together: [replicas]."""
    rate = utilisation(part).link_bytes_per_s
    return None if rate is None else rate / peak_link_bytes_per_s


def fleet_mean(values: np.ndarray | None, weights: np.ndarray) -> float | None:
    """A share over all replicas, weighted by what it is a share of; None when unknown."""
    if values is None or not len(values) or weights.sum() <= 0:
        return None
    return float(np.average(values, weights=weights))


@dataclass(frozen=True, eq=False)
class Timeline:
    """Means over equal bins of time: t_s [N + 1] are the edges, the rest [N] or None (unknown).

    waiting counts requests that arrived and were never scheduled yet; running those scheduled and
    not ended (a preempted one stays running).  kv and busy are shares of the whole fleet's.
    """

    t_s: np.ndarray
    waiting: np.ndarray
    running: np.ndarray
    finished_per_s: np.ndarray
    arrived_per_s: np.ndarray
    output_tokens_per_s: np.ndarray | None
    busy: np.ndarray | None
    kv: np.ndarray | None
    hfu: np.ndarray | None
    mbu: np.ndarray | None


FROM_STEPS = ("output_tokens_per_s", "busy", "kv", "hfu", "mbu")


def timeline(part: View, bins: int = 120) -> Timeline:
    """How the run went, by time; tokens of a leap are spread evenly over it."""
    log, leaps = part.log, part.leaps
    edges = np.linspace(part.start_ps, part.end_ps, bins + 1).astype(np.int64)
    width = np.maximum(np.diff(edges), 1) * PS

    def rate(start: np.ndarray, stop: np.ndarray, amount: np.ndarray) -> np.ndarray:
        return np.diff(amount_by(edges, start, stop, amount)) / width

    rows = log.requests
    arrival, scheduled = rows["arrival_ps"], rows["scheduled_ps"]
    ended = np.where(rows["done_ps"] >= 0, rows["done_ps"], log.end_ps)
    ended = np.where(
        rows["status"] == STATUS["unfinished"], log.end_ps, ended
    )  # left behind: there to the end
    left = np.where(scheduled >= 0, scheduled, ended)
    began = np.where(scheduled >= 0, scheduled, ended)
    done = part.ended["done_ps"]
    per_s = {
        "waiting": rate(arrival, left, (left - arrival) * PS),
        "running": rate(began, ended, (ended - began) * PS),
        "finished_per_s": np.histogram(done, edges)[0] / width,
        "arrived_per_s": np.histogram(part.arrived["arrival_ps"], edges)[0] / width,
    }
    if leaps is None:
        unknown: dict[str, Any] = dict.fromkeys(FROM_STEPS)
        return Timeline(edges * PS, **per_s, **unknown)
    start, stop, span = leaps["start_ps"], end_ps(leaps), span_ps(leaps) * PS
    pools, own = log.pool_of_replica, lanes.counted(log)
    peak_flop = work.of_replica(log, "peak_flop_per_s").sum()
    peak_bytes = work.of_replica(log, "peak_hbm_bytes_per_s").sum()
    tokens = leaps["n_seqs"].astype(float) * leaps["n_steps"] + leaps["n_extra"]
    return Timeline(
        edges * PS,
        **per_s,
        output_tokens_per_s=rate(start, stop, tokens),
        busy=rate(start, stop, span) / len(pools),
        kv=rate(start, stop, span * leaps["n_blocks"] * own[leaps["replica"]])
        / max(int((log.kv_blocks[pools] * own).sum()), 1),
        hfu=rate(start, stop, work.by_leap(leaps, log, "flop")) / peak_flop,
        mbu=rate(start, stop, work.by_leap(leaps, log, "hbm_bytes")) / peak_bytes,
    )
