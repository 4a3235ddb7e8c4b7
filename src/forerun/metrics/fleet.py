"""Sentences about a fleet that changed: how much of it there was, what starts took, what failed."""

from __future__ import annotations

from collections.abc import Mapping

from forerun import units
from forerun.metrics.answer import Metrics
from forerun.metrics.figure import plural, text
from forerun.metrics.window import View

WORDS = {"crash": ("crash", "crashes"), "loss": ("loss of capacity", "losses of capacity"),
         "upgrade": ("upgrade", "upgrades")}  # fmt: skip


def told(part: View, m: Metrics) -> list[str]:
    """Nothing for a fleet that was there all the time."""
    control = part.log.meta.get("control")
    if control is None:
        return []
    moved = _moved(part, control)
    if m.replicas_mean.value is None:
        return moved
    return [*_rented(control, m), *_went(control, m), *moved]


def _moved(part: View, control: Mapping) -> list[str]:
    """How often requests were to change replicas, and did; prompts that are sent on count apart."""
    said = control.get("rebalance")
    if said is None:
        return []
    log = part.log
    sent_on = int((log.requests["prefill_replica"] >= 0).sum())
    moved = int(log.replicas["n_moved"].sum()) - sent_on
    return [
        f"Rebalancing ({said['policy']}) looked {plural(said['looks'], 'time')} and ordered "
        f"{plural(said['ordered'], 'move')}; {plural(max(moved, 0), 'request')} went on elsewhere "
        "with their KV."
    ]


def _rented(control: Mapping, m: Metrics) -> list[str]:
    mean, peak = (text(f.value, "factor") for f in (m.replicas_mean, m.replicas_peak))
    hours = text(m.device_hours.value, m.device_hours.unit)
    out = [f"{mean} replicas were rented on average, at most {peak}: {hours}."]
    if not control["n_starts"]:
        return out
    some = [pool for pool, stages in control["cold_starts"].items() if sum(stages.values()) > 0]
    for pool, stages in control["cold_starts"].items():
        parts = [f"{name} {units.show(s, 'time')}" for name, s in stages.items() if s > 0]
        if not parts:
            continue
        of = "" if len(control["cold_starts"]) == 1 else f" of {pool}"
        whole = units.show(sum(stages.values()), "time")
        took = (
            f"; {plural(control['n_starts'], 'start')} took {text(m.cold_share.value, 'share')} "
            "of the time rented"
        )
        all_of_them = took if pool == some[-1] else ""
        out.append(f"A cold start{of} takes {whole} ({', '.join(parts)}){all_of_them}.")
    return out


def _went(control: Mapping, m: Metrics) -> list[str]:
    ends = [(control[f"n_{why}"], words) for why, words in WORDS.items()]
    if not any(n for n, _ in ends):
        return []
    what = " and ".join(f"{n:,} {words[n != 1]}" for n, words in ends if n)
    c = m.counts
    done = [f"cut {text(m.lost_s.value, 's')} of steps short"]
    if c.retries:
        done.append(f"had requests sent again {c.retries:,} times")
    if c.recomputed_tokens and not c.preemptions:  # else the sentence about these says so
        done.append(f"{plural(c.recomputed_tokens, 'token')} computed again")
    if c.failed:
        done.append(
            f"ended {plural(c.failed, 'request')} without an answer, and "
            f"{plural(c.lost_tokens, 'computed token')} were lost with them"
        )
    available = text(m.availability.value, "share")
    return [f"{what[0].upper()}{what[1:]} {', '.join(done)}; availability was {available}."]
