"""What control reads of a server's arrays, and the two things it sets there that are no commands.

All of it is the same at a moment whether steps are leapt over or taken one by one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from forerun.sim.collect import live_slots
from forerun.sim.core import compile as compiler
from forerun.sim.core.order import NEVER
from forerun.sim.core.rows_request import HELD, PLAIN, WAITING
from forerun.sim.core.signatures import OUTSTANDING
from forerun.sim.serve import PS, Server


def shut(server: Server, replicas: Iterable[int]) -> None:
    """These replicas take nothing from the start."""
    rows = list(replicas)
    server._state.replicas["accepts"][rows] = 0
    if rows:
        server._clock.restricted = 1


def end_at_last_event(server: Server) -> None:
    """The run ended with its last event, not when somebody looked again; steps that replicas are
    in though nobody waits for them (fine-tuning) are ended as in a run without controllers."""
    if at_rest(server) and in_a_step(server):
        server.advance()
    server._clock.now_ps = server._clock.event_ps


def at_rest(server: Server) -> bool:
    """Whether every request has ended and none is on its way."""
    clock = server._clock
    unreleased = server.concurrency is not None and not server._released
    left = clock.n_arrivals - clock.next_arrival + clock.n_pending
    return not unreleased and clock.n_live == 0 and left == 0


def n_arrived(server: Server) -> int:
    """Requests that have reached the front so far."""
    clock = server._clock
    kept = 0 if clock.by_request else sum(len(rows.requests) for rows in server._kept)
    return int(clock.n_live + clock.n_done) + kept


def next_arrival_s(server: Server) -> float:
    """When the next request reaches the front; infinite when none is on its way."""
    clock, state = server._clock, server._state
    if server.concurrency is not None and not server._released:
        return 0.0
    known = []
    if clock.n_pending:
        known.append(int(state.pending["ready_ps"][0]))
    if server.concurrency is None and clock.next_arrival < clock.n_arrivals:
        known.append(int(state.arrivals["ready_ps"][clock.next_arrival]))
    return not_before(min(known)) if known else np.inf


def not_before(time_ps: int) -> float:
    """The first number of seconds that is read as this time or a later one."""
    time_s = time_ps / PS
    while round(time_s * PS) < time_ps:
        time_s = float(np.nextafter(time_s, np.inf))
    return time_s


def anybody_takes(server: Server, models: Sequence[int]) -> bool:
    """Whether each of these models has a replica that is open."""
    now = server._state
    rows = now.replicas["pool"][now.replicas["accepts"] == 1]
    return bool((now.serves[rows][:, list(models)] >= 0).any(axis=0).all())


def load(server: Server, field: int, lanes: Sequence[int]) -> int:
    """A row of the routers' `load`, summed over some replicas."""
    return int(server._state.load[field, list(lanes)].sum())


def empty_since_s(server: Server, lanes: Sequence[int]) -> float | None:
    """When these replicas ended their last step, if they have nothing left to do; else None."""
    rows = server._state.replicas[list(lanes)]
    if load(server, OUTSTANDING, lanes) or (rows["n_steps"] > 0).any() or rows["n_away"].any():
        return None
    return int(rows["ended_ps"].max()) / PS


def blocks_in_use(server: Server) -> np.ndarray:
    """KV blocks in use on each replica at this moment: int64 [replicas]."""
    compiler.entry("look")(server._state)
    return np.array(server._state.offered_of)


def waiting_blocks(server: Server) -> np.ndarray:
    """KV blocks that those who wait to start will need for what is known of them: by replica."""
    now = server._state
    slots = live_slots(now)
    slots = slots[now.live["phase"][slots] == WAITING]
    i = now.live["replica"][slots]
    block = now.engines["block_tokens"][now.replicas["pool"][i]]
    need = -(-now.live["n_known"][slots] // block)
    return np.bincount(i, weights=need, minlength=len(now.replicas)).astype(np.int64)


def held(server: Server) -> np.ndarray:
    """Requests that wait in front of the fleet, without any KV and with a computed prompt: int64
    [2, models]."""
    live = server._state.live
    r = int(server._clock.held_head)
    counts = np.zeros((2, n_models(server)), dtype=np.int64)
    while r >= 0:
        if live["phase"][r] == HELD and live["aborted"][r] == 0:
            counts[int(live["source"][r] >= 0 and live["stage"][r] == PLAIN), live["model"][r]] += 1
        r = int(live["next"][r])
    return counts


def n_models(server: Server) -> int:
    return int(server._state.serves.shape[1])


def asked(server: Server, replicas: Iterable[int]) -> np.ndarray:
    """Requests that are with these replicas: int64 [models]."""
    live = server._state.live
    slots = live_slots(server._state)
    slots = slots[(live["aborted"][slots] == 0) & (live["phase"][slots] != HELD)]
    here = np.isin(live["replica"][slots], list(replicas))
    return np.bincount(live["model"][slots[here]], minlength=n_models(server))


def arrived(server: Server) -> np.ndarray:
    """Requests that have reached the front so far: int64 [models]."""
    n = n_models(server)
    if n == 1:
        return np.array([n_arrived(server)])
    live = server._state.live["model"][live_slots(server._state)]
    return np.bincount(live, minlength=n) + np.bincount(ended_rows(server)["model"], minlength=n)


def ended_rows(server: Server) -> np.ndarray:
    """Rows of dtype DONE of the requests that have ended so far, in no order."""
    done = np.asarray(server._state.done)
    if server._clock.by_request:
        return done[done["done_ps"] > 0]
    return np.concatenate([*(rows.requests for rows in server._kept), done[: server._clock.n_done]])


def progress(server: Server) -> tuple[int, int]:
    """Two numbers of which one grows as long as anything happens to requests."""
    return int(server._clock.n_done), int(server._state.totals["n_tokens"].sum())


def in_a_step(server: Server) -> bool:
    """Whether some replica is in a step."""
    return bool(server._state.agenda_ps[0] != NEVER)


def next_event_s(server: Server) -> float:
    """When something happens next, if nobody orders anything; infinite when nothing will."""
    state, clock = server._state, server._clock
    if server.concurrency is not None and not server._released:
        return 0.0
    ready = int(state.pending["ready_ps"][0]) if clock.n_pending else NEVER
    if not clock.closed and clock.next_arrival < clock.n_arrivals:
        ready = min(ready, int(state.arrivals["ready_ps"][clock.next_arrival]))
    at = min(int(state.agenda_ps[0]), int(clock.next_move_ps), ready)
    if clock.next_command < clock.n_commands:
        at = min(at, int(state.commands["time_ps"][clock.next_command]))
    if clock.n_timers:
        at = min(at, int(state.timers["time_ps"][0]))
    return np.inf if at == NEVER else at / PS
