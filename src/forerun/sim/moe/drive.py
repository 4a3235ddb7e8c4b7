"""`advance`: a server whose replicas change rows as their experts' load changes.

At the start of a window every replica of a pool gets the row of the window's level, by command:
it takes effect at its next step boundary.  Windows in which nothing happens are skipped.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from forerun import units
from forerun.errors import SpecError
from forerun.sim.control.peek import end_at_last_event
from forerun.sim.core.order import NEVER
from forerun.sim.serve import Server
from forerun.sim.setup import PS, Served


def has_course(pools: Sequence[Served]) -> bool:
    """Whether some pool's experts are loaded otherwise later on."""
    return any(served.levels[1:] for served in pools)


def check_alone(pools: Sequence[Served]) -> None:
    """Raises SpecError where something else would also change the rows of a pool's replicas."""
    if has_course(pools):
        raise SpecError.one(
            "deployment.pools.moe", "experts whose load changes cannot yet be combined with "
            "autoscaling, faults, moving requests or power control: all change what a replica runs",
            "no drift and no rebalance_s (one load for the whole run), or no autoscale, no faults, "
            "no deployment.rebalance and no power policy",
        )  # fmt: skip


def advance(server: Server, until_s: float = np.inf) -> None:
    """As `Server.advance`, window by window."""
    if not has_course(server.pools):
        server.advance(until_s)
        return
    server.advance(min(until_s, server.now_s))  # a closed loop releases its first requests
    while (event := next_event_s(server)) <= until_s and event < np.inf:
        # while a replica is in a step no window is skipped: how far its leap goes is no event
        now = server.now_s if server._state.agenda_ps[0] != NEVER else max(event, server.now_s)
        _order(server, now)
        server.advance(min(until_s, _next_boundary_s(server, now)))
    if np.isinf(until_s):
        end_at_last_event(server)
    else:
        server.advance(until_s)


def next_event_s(server: Server) -> float:
    """When something happens next; infinity when nothing will."""
    state, clock = server._state, server._clock
    ready = int(state.pending["ready_ps"][0]) if clock.n_pending else NEVER
    if not clock.closed and clock.next_arrival < clock.n_arrivals:
        ready = min(ready, int(state.arrivals["ready_ps"][clock.next_arrival]))
    at = min(int(state.agenda_ps[0]), int(clock.next_move_ps), ready)
    if clock.next_command < clock.n_commands:
        at = min(at, int(state.commands["time_ps"][clock.next_command]))
    return np.inf if at == NEVER else at / PS


def _order(server: Server, now_s: float) -> None:
    """Each replica that runs a row of another level of its pool goes on with the right one."""
    replicas: Any = server._state.replicas
    for served in server.pools:
        if not served.levels[1:]:
            continue
        window = int(now_s / served.course.window_s + 1e-9)
        row = served.levels[served.course.level(window)]
        rows = set(served.levels)
        for i in range(len(replicas)):
            if int(replicas.next_pool[i]) in rows - {row}:
                server.command(max(window * served.course.window_s, server.now_s), "switch", i, row)


def _next_boundary_s(server: Server, now_s: float) -> float:
    """The first start of a window after a time."""
    each = [served.course.window_s for served in server.pools if served.levels[1:]]
    return min((int(now_s / w + 1e-9) + 1) * w for w in each)


def explain(pools: Sequence[Served], until_s: float) -> list[str]:
    """What experts did in a run, in sentences."""
    out = []
    for served in pools:
        if served.course is None:
            continue
        seen = served.course.seen(until_s)
        load = np.array([w.spread.load for w in seen])
        if load.max() > 1:
            out.append(
                f"Experts of {served.pool.name}: the busiest device has {load.mean():.2f} times "
                f"the mean load on average, {load.max():.2f} times at most, over {len(seen):,} "
                f"windows; steps were priced at {len(served.levels)} levels."
                if len(seen) > 1
                else f"Experts of {served.pool.name}: the busiest device has {load[0]:.2f} times "
                "the mean load all the time."
            )
        n = sum(w.rebalanced for w in seen)
        if n:
            wait = float(np.mean([w.move_s for w in seen if w.rebalanced]))
            out.append(
                f"They were placed anew {n} times; moving them took {units.show(wait, 'time')} on "
                "average, until when the old placement held."
            )
        if served.waits is not None:
            tokens = [b for b in served.waits.hit if b <= served.table.max_tokens]
            b = min(64, max(tokens))
            step = float(served.waits.step_s[b])
            share = step / served.table.time_s.tokens[b]
            out.append(
                f"Of the experts that a step of {b} tokens wants, "
                f"{100 * served.waits.hit[b]:.3g} % are in device memory; it waits "
                f"{units.show(step, 'time')} for the others, {100 * share:.3g} % of its time "
                "without attention."
            )
    return out
