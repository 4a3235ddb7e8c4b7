"""Serving: values in, arrays through the core, a `Log` out.  `run` simulates a whole workload;
`Server` is the same core with its clock in the caller's hands."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from forerun.errors import SpecError
from forerun.sim import calls
from forerun.sim import embeddings as embedding_room
from forerun.sim import responses as response_room
from forerun.sim.collect import (
    assumed,
    client_counts,
    encoded,
    live_slots,
    unfinished,
    wrong_choice,
)
from forerun.sim.core import compile as compiler
from forerun.sim.core import serve as core_serve
from forerun.sim.core import state
from forerun.sim.core.jit import JIT
from forerun.sim.core.order import NEVER
from forerun.sim.intake import Intake
from forerun.sim.lanes import told
from forerun.sim.log import Log, Streams
from forerun.sim.room import wider
from forerun.sim.settings import Batches
from forerun.sim.setup import CHUNK, PS, Served
from forerun.sim.tiers import uses
from forerun.spec.requests import Requests


class Server(Intake):
    """A fleet of replicas with a clock that the caller advances, made of `Settings`."""

    # -- the clock -----------------------------------------------------------------------------

    @property
    def now_s(self) -> float:
        return int(self._clock.now_ps) / PS

    def inject(self, requests: Requests) -> None:
        """Put requests on their way; they are numbered on from those before.

        Raises SpecError if one arrives before the clock's time, or before an earlier one.
        """
        rows: Any = self._arrivals(requests)
        clock, old = self._clock, self._state.arrivals
        if len(rows) and self.concurrency is None:
            if rows.ready_ps.min() < clock.now_ps or rows.arrival_ps.min() < self._latest_ps:
                before = max(int(clock.now_ps), self._latest_ps)
                raise SpecError.one(
                    "requests",
                    f"one arrives at {rows.arrival_ps.min() / PS:.6f} s, before the clock or its "
                    f"predecessor at {before / PS:.6f} s",
                    "inject requests in the order of their arrival",
                )
            self._latest_ps = int(rows.arrival_ps.max())
        ahead = old[clock.next_arrival : clock.n_arrivals]
        self._fill([ahead, self._later, rows])

    def _fill(self, parts: Sequence[Any]) -> None:
        """Put rows into the buffer; those that one to come may overtake wait until that is known.

        A long prompt is ready later than a short one that was sent after it.
        """
        some = [part for part in parts if len(part)] or [parts[0]]
        buffer: Any = some[0] if len(some) == 1 else np.concatenate(some)  # they may be many
        buffer = buffer.view(np.recarray)
        n, clock = len(buffer), self._clock
        if self.concurrency is None and (np.diff(buffer.ready_ps) < 0).any():
            buffer = buffer[np.argsort(buffer.ready_ps, kind="stable")]
        host = self.pools[0].pool.engine
        unequal = host.host_prompt_token_s > 0 or self.responses is not None
        if unequal and clock.last_chunk == 0 and self.concurrency is None:
            sure_ps = self._latest_ps + round(host.host_request_s * PS)
            n = int(np.searchsorted(buffer.ready_ps, sure_ps, side="right"))
        self._later = buffer[n:]
        clock.next_arrival, clock.n_arrivals = 0, n
        self._put(arrivals=buffer[:n])

    def _all_are_known(self) -> None:
        """No requests come after those that were put in."""
        self._clock.last_chunk = 1
        if len(self._later):
            clock = self._clock
            ahead = self._state.arrivals[clock.next_arrival : clock.n_arrivals]
            self._fill([ahead, self._later])

    def command(self, time_s: float, verb: str, replica: int, value: int = 0) -> None:
        """Order something of a replica for a time not yet past (`VERBS` in `sim.core.state`).

        One that fails takes the other lane on its devices with it.
        Raises SpecError for a switch that would make a replica encode, or encode no more, and for
        one of a lane to another pool.
        """
        if verb == "switch":
            own = self.pools[self.pool_of_replica[replica]].pool.role
            if (own == "encode") != (self.pools[value].pool.role == "encode"):
                what = f"replica {replica} ({own}) cannot switch to {self.pools[value].pool.name}"
                raise SpecError.one("command", what, "a pool that encodes keeps to that")
            mine, other = self.pools[self.pool_of_replica[replica]], self.pools[value]
            if (mine.block, mine.lane % 4) != (other.block, other.lane % 4):
                what = f"replica {replica} cannot switch to {other.pool.name}"
                raise SpecError.one("command", what, "two lanes on the same devices stay together")
            if self.pools[self.pool_of_replica[replica]].denoises != self.pools[value].denoises:
                what = f"replica {replica} cannot switch to {self.pools[value].pool.name}"
                raise SpecError.one("command", what, "a pool that denoises keeps to that")
        if verb == "move" and self.pools[self.pool_of_replica[replica]].denoises:
            what = f"replica {replica} denoises, and latents do not move between replicas"
            raise SpecError.one("command", what, "drain it")
        clock, old = self._clock, self._state.commands
        row = state.rows(1, state.COMMAND)
        row.time_ps, row.verb = max(round(time_s * PS), int(clock.now_ps)), state.VERBS[verb]
        row.who, row.value = replica, value
        ahead = old[clock.next_command : clock.n_commands]
        at = int(np.searchsorted(ahead["time_ps"], row.time_ps[0], side="right"))
        buffer = np.concatenate([ahead[:at], row, ahead[at:]]).view(np.recarray)
        clock.next_command, clock.n_commands = 0, len(buffer)
        self._put(commands=buffer)

    def advance(self, until_s: float = np.inf) -> None:
        """Handle every event up to `until_s`; afterwards the clock stands there (or at the last
        event, when there is no limit).  Raises PolicyError if a policy made an impossible choice.
        """
        if self.concurrency is not None and not self._released:
            self._released = True
            compiler.entry("begin")(self._state, self.concurrency)
        self._advance_into(until_s)

    def _advance_into(self, until_s: float) -> None:
        """Advance until more arrivals are wanted, when more are to come."""
        until_ps = NEVER if np.isinf(until_s) else round(until_s * PS)
        with np.errstate(over="ignore"):
            while self._step(until_ps) not in (core_serve.REACHED, core_serve.WANT_ARRIVALS):
                pass

    def _step(self, until_ps: int) -> int:
        """Run until the core asks for something; give it that."""
        reason = int(self._advance_core(self._state, until_ps))
        if reason == core_serve.WANT_LOG:
            self._drain()
        elif reason == core_serve.WRONG:
            raise wrong_choice(self._clock, self._found)
        self._put(**wider(self._state, reason))
        return reason

    def abort(self, request: int) -> bool:
        """The client of a request goes away now.  False if the request is not in the system."""
        live: Any = self._state.live
        present = live_slots(self._state)
        found = present[(live.request[present] == request) & (live.aborted[present] == 0)]
        if not len(found):
            return False
        now = int(self._clock.now_ps)
        for r in found.tolist():  # copies of it, where clients send more than one
            if compiler.entry("abort")(self._state, r, now):
                compiler.entry("cut_leap")(self._state, int(live[r].replica), now)
        return True

    def _drain(self) -> None:
        """Move the core's log rows out."""
        clock, s = self._clock, self._state
        n_done = 0 if clock.by_request else clock.n_done
        rows = Batches(
            s.done[:n_done].copy(), s.leaps[: clock.n_leaps].copy(), s.gaps[: clock.n_gaps].copy()
        )
        clock.n_done -= n_done
        clock.n_leaps = clock.n_gaps = 0
        if self.sink is not None:
            self.sink(rows)
        else:
            self._kept.append(rows)

    # -- the answer ------------------------------------------------------------------------------

    def log_so_far(self) -> Log:
        """Everything up to now; requests in the system are listed as unfinished."""
        self._drain()
        kept = self._kept
        full = self.log == "full"
        under_way = unfinished(self._state)
        return Log(
            requests=self._rows(under_way),
            leaps=np.concatenate([rows.leaps for rows in kept]) if full and kept else None,
            gaps=np.concatenate([rows.gaps for rows in kept]) if full and kept else None,
            start_ps=0,
            end_ps=self._end_ps(under_way),
            n_unfinished=len(under_way),
            loads=np.array(self._state.loads),
            encodes=encoded(self._state) if self._has_items or self._clock.denoises else None,
            branched=np.array(self._state.branched) if len(self._state.controls) else None,
            tuned=np.array(self._state.tuned) if self._clock.tunes else None,
            fitted=np.array(self._state.fitted) if self._clock.has_adapters else None,
            netted=np.array(self._state.netted) if self._clock.has_nets else None,
            replicas=np.array(self._state.totals),
            pool_of_replica=self.pool_of_replica,
            tables=tuple(served.table for served in self.pools),
            pools=tuple(served.pool.name for served in self.pools),
            kv_blocks=np.array([served.n_blocks // served.pool.pp for served in self.pools]),
            seed=self.seed,
            tiers=uses(self._state, self.tiers),
            fetch_s=int(self._state.stores["wait_ps"].sum()) / PS,
            n_fetched=int(self._state.stores["n_waits"].sum()),
            graph=calls.graph_of(self._state) if len(self._state.calls) else None,
            meta={
                **({} if self.client is None else {"clients": client_counts(self._state)}),
                "policies": {
                    kind: sorted({f.name for f in found})
                    for kind, found in self._found.items()
                    if (kind != "speculate" or any(served.draft for served in self.pools))
                    and (kind != "tune" or self._clock.tunes)
                },
                "compiled": JIT,
                "encode_pools": tuple(
                    p
                    for p, served in enumerate(self.pools)
                    if served.pool.role == "encode" and served.n_blocks > 0
                ),
                "hash_tokens": self.hash_tokens,
                "embeddings": embedding_room.told(self._state),
                "tuning": [served.pool.engine.tuning for served in self.pools],
                "models": tuple(self.models),
                "tenants": tuple(self.tenants),
                "fair": {k: self._fair[k] for k in ("input", "output")},
                "port_bytes_per_s": [served.port_bytes_per_s for served in self.pools],
                **({"untied": int(n)} if (n := self._clock.n_untied) else {}),
                **({} if (lanes := told(self.pools, self._state)) is None else {"lanes": lanes}),
                "assumed": (
                    *assumed(self.pools, self.tiers, self._own_caps),
                    *response_room.assumed(self.responses),
                ),
            },
            answered=self._answered(),
            frames=np.concatenate(self._frames) if self._frames else None,
            streams=Streams(np.concatenate(self._sessions), *self._pace)
            if self._sessions
            else None,
        )

    def _end_ps(self, under_way: np.ndarray) -> int:
        """When the last event happened, or the last answer has been given: one that was kept, or
        one on its way back from another region."""
        now = int(self._clock.now_ps)
        if self.responses is None and len(self.way_s) == 1:
            return now
        return max(now, int(self._rows(under_way)["done_ps"].max(initial=0)))

    def _answered(self) -> response_room.Answered | None:
        """What the response cache did; None where there is none."""
        if not self._asked:
            return None
        wordings = self._asked[0].wordings
        assert wordings is not None
        texts = np.concatenate([np.asarray(one.wording) for one in self._asked])
        return response_room.answered(self._state, wordings, texts)

    def _rows(self, under_way: np.ndarray) -> np.ndarray:
        """All requests that have ended or are under way, by request number."""
        done = np.asarray(self._state.done)
        if self.n_requests is not None and self._clock.n_done == self.n_requests:
            return done  # every row is in its place
        if self.n_requests is not None:
            # rows not written yet are all zero; no request is done at 0 unless it was rejected
            parts = [done[(done["done_ps"] > 0) | (done["scheduled_ps"] < 0)]]
        else:
            parts = [done[:0], *(rows.requests for rows in self._kept)]
        rows = np.concatenate([*parts, under_way])
        return rows[np.argsort(rows["request"], kind="stable")]


def run(
    requests: Requests | Iterable[Requests],
    pools: Sequence[Served],
    *,
    until_s: float = np.inf,
    progress: Callable[[int], None] | None = None,
    **settings: Any,
) -> Log:
    """Simulate a workload to its end (or to `until_s`) and return its log.

    requests : the workload, or its parts in order for one too large to hold.
    settings : those of `Server`.
    progress : called now and then with the number of requests put in so far.
    """
    if isinstance(requests, Requests):
        named = requests.block_hashes is not None
        settings.setdefault("hash_tokens", requests.hash_tokens if named else 0)
        if settings.get("sink") is None:
            settings["n_requests"] = len(requests)
    server = Server(pools, **settings)
    if isinstance(requests, Requests):
        # taken whole where the moment at which a request leaves depends on the others
        whole = server.concurrency or calls.wanted_by(requests) or server.responses
        parts: Iterable[Requests] = [requests] if whole else _parts(requests)
    else:
        parts = requests
    server._clock.last_chunk = 0
    for part in parts:
        server.inject(part)
        if server.concurrency is None:
            server._advance_into(until_s)
        if progress is not None:
            progress(server.n_injected)
    server._all_are_known()
    server.advance(until_s)
    return server.log_so_far()


def _parts(requests: Requests) -> Iterable[Requests]:
    """The workload in pieces of CHUNK requests."""
    yield from (requests[i : i + CHUNK] for i in range(0, max(len(requests), 1), CHUNK))
