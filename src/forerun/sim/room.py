"""More room for what the core keeps: slots of live requests, timers, stacks of gaps, calls."""

from __future__ import annotations

import numpy as np

from forerun.sim.core import rows_fleet, rows_request, state
from forerun.sim.core import serve as core_serve
from forerun.sim.core.order import NEVER
from forerun.sim.core.signatures import GATE_OF_TENANT
from forerun.sim.tables import PS

MILLION = 1e6  # of the units of a counter in a token of weight 1


def wider(now: state.State, reason: int) -> dict[str, np.ndarray]:
    """Arrays of State with room for what `advance` came back for; none when that was no room."""
    if reason == core_serve.WANT_SLOTS:
        n = len(now.live)
        live = state.rows(2 * n, rows_request.LIVE)
        live[:n] = now.live
        state.free_slots(live, n)
        now.clock[0].free = n
        to_fetch = np.pad(now.to_fetch, [(0, n), (0, 0)])
        moving = np.resize(now.moving, len(live))
        out: dict[str, np.ndarray] = {"live": live, "moving": moving, "to_fetch": to_fetch}
        if len(now.way_ps) > 1:  # each of them may be on its way
            out["pending"] = pending_for(now, len(now.pending) - 2 + n)
        return out
    if reason == core_serve.WANT_TIMERS:
        n = len(now.timers)
        timers = state.rows(2 * n + 8 * now.last_step.shape[1] + 64, rows_request.TIMER)
        timers[:n] = now.timers
        return {"timers": timers}
    if reason == core_serve.WANT_GAPS:
        names = ("gap_step", "gap_ps")
        more = (0, now.gap_step.shape[1])
        return {name: np.pad(getattr(now, name), [(0, 0), more]) for name in names}
    return {}


def pending_for(now: state.State, n: int) -> np.recarray:
    """The heap of released requests with room for n of them, and the two spare rows."""
    held = int(now.clock[0].n_pending)
    rows = state.rows(max(n + 2, len(now.pending)), rows_request.ARRIVAL)
    rows[:held] = now.pending[:held]
    return rows


def gate_memory_for(now: state.State, n_tenants: int) -> np.ndarray:
    """The memory of the gate's policy, with two integers for each tenant."""
    missing = GATE_OF_TENANT + 2 * n_tenants - len(now.gate_memory)
    return np.pad(now.gate_memory, (0, max(missing, 0)))


def tenants_for(
    now: state.State,
    n_tenants: int,
    weights: np.ndarray,
    fair: dict[str, float],
    ttft_s: np.ndarray,
) -> dict[str, np.ndarray]:
    """Rows for so many tenants, each counting tokens by its weight (1 where none is given).

    ttft_s : float64, when first tokens are due, by tenant; inf or none where that is not said.
    """
    old = len(now.tenants)
    if n_tenants <= old:
        return {}
    weight = np.ones(n_tenants)
    weight[: len(weights)] = weights[:n_tenants]
    tenants = state.rows(n_tenants, rows_fleet.TENANT)
    tenants.in_cost = np.rint(MILLION * fair["input"] / weight)
    tenants.out_cost = np.rint(MILLION * fair["output"] / weight)
    tenants.ttft_ps = NEVER
    known = np.flatnonzero(np.isfinite(ttft_s[:n_tenants]))
    tenants.ttft_ps[known] = np.rint(ttft_s[known] * PS)
    n_replicas = len(now.replicas)
    lines = state.rows(n_replicas * n_tenants, rows_fleet.LINE)
    lines.head = -1
    lines.reshape(n_replicas, n_tenants)[:, :old] = now.lines.reshape(n_replicas, old)
    return {"tenants": tenants, "lines": lines}
