"""What prompts and answers did on shares of the same devices: how busy each, how much slower."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np

from forerun.metrics import rental
from forerun.metrics.figure import Figure, plural, ratio, text
from forerun.metrics.latency import PS
from forerun.metrics.window import View
from forerun.sim.leaps import end_ps, span_ps
from forerun.sim.log import Log

NAMES = (
    "prompts_busy", "answers_busy", "lanes_overlap", "prompts_slowdown", "answers_slowdown",
    "share_switches",
)  # fmt: skip


def counted(log: Log) -> np.ndarray:
    """Whose KV blocks are to be counted: bool [replicas].  Of two lanes with one memory, one."""
    n = len(log.pool_of_replica)
    return np.ones(n, dtype=bool) if "lanes" not in log.meta else ~_of_role(log, "prefill")


def _of_role(log: Log, role: str) -> np.ndarray:
    """The lanes that compute prompts ("prefill") or answers ("decode"): bool [replicas]."""
    told = log.meta["lanes"]
    rows = np.array([row is not None and row["role"] == role for row in told["rows"]])
    return rows[log.pool_of_replica] & (np.array(told["partner"]) >= 0)


def figures(part: View) -> dict[str, Any]:
    """All figures of the group lanes; None where no devices are shared by phase.

    A slowdown is the time of all steps over what they would have taken with the other lane idle;
    times busy are over those in which replicas were there.
    """
    out: dict[str, float | None] = dict.fromkeys(NAMES)
    told = part.log.meta.get("lanes")
    if told is not None and part.duration_s > 0:
        busy, alone = np.array(told["busy_s"]), np.array(told["alone_s"])
        there_s = rental.time_s(part, rental.POWERED)
        for role, word in (("prefill", "prompts"), ("decode", "answers")):
            mine = _of_role(part.log, role)
            if part.whole:
                out[f"{word}_busy"] = ratio(float(busy[mine].sum()), float(there_s[mine].sum()))
                out[f"{word}_slowdown"] = ratio(float(busy[mine].sum()), float(alone[mine].sum()))
        out["lanes_overlap"] = overlap(part)
        out["share_switches"] = float(len(told.get("switches", ())))
    units = {"share_switches": "count", "prompts_slowdown": "factor", "answers_slowdown": "factor"}
    return {name: Figure(out[name], units.get(name, "share"), "lanes") for name in NAMES}


def overlap(part: View) -> float | None:
    """Share of the time in which replicas were there with both lanes in a step; None without
    steps."""
    if part.leaps is None:
        return None
    leaps, both, there_s = part.leaps, 0, 0.0
    each_s = rental.time_s(part, rental.POWERED)
    for i, j in enumerate(part.log.meta["lanes"]["partner"]):
        if j <= i:
            continue
        rows = leaps[np.isin(leaps["replica"], (i, j))]
        times = np.concatenate([rows["start_ps"], end_ps(rows)])
        steps = np.concatenate([np.ones(len(rows)), -np.ones(len(rows))])
        order = np.lexsort((steps, times))
        deep = np.cumsum(steps[order])[:-1] >= 2
        both += int(np.sum(np.diff(times[order])[deep]))
        there_s += float(each_s[i])
    return ratio(both * PS, there_s)


def at_shares(part: View) -> dict[tuple[float, float], float]:
    """Share of the steps' time at each (prefill, decode); empty without steps."""
    told = part.log.meta["lanes"]
    out: dict[tuple[float, float], float] = defaultdict(float)
    if part.leaps is None:
        return {}
    span = span_ps(part.leaps) * PS
    for p, row in enumerate(told["rows"]):
        if row is not None:
            out[tuple(row["shares"])] += float(span[part.leaps["pool"] == p].sum())
    total = sum(out.values()) or 1.0
    return {shares: s / total for shares, s in out.items() if s > 0}


def told(part: View, m: Any) -> list[str]:
    """How the lanes shared their devices, in a sentence or two."""
    if "lanes" not in part.log.meta or m.prompts_busy.value is None:
        return []
    out = (
        f"Prompts and answers share their devices: prompts are in a step "
        f"{text(m.prompts_busy.value, 'share')} of the time, answers "
        f"{text(m.answers_busy.value, 'share')}"
    )
    if m.lanes_overlap.value is not None:
        out += f", both at once {text(m.lanes_overlap.value, 'share')}"
    slower = [
        f"those of {word} {text(value - 1, 'share')}"
        for word, value in (
            ("prompts", m.prompts_slowdown.value), ("answers", m.answers_slowdown.value)
        )
        if value is not None
    ]  # fmt: skip
    if slower:
        out += f"; beside each other their steps take longer than alone, {' and '.join(slower)}"
    shares = at_shares(part)
    if len(shares) < 2:
        return [f"{out}."]
    at = ", ".join(
        f"{text(part_of, 'share')} at {p:.0%} for prompts and {d:.0%} for answers"
        for (p, d), part_of in sorted(shares.items(), key=lambda item: -item[1])
    )
    n = int(m.share_switches.value or 0)
    return [f"{out}.", f"Shares of the SMs changed {plural(n, 'time')}; of the steps' time, {at}."]
