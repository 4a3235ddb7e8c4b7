"""Serving: values in, arrays through the core, a `Log` out.  `run` simulates a whole workload;
`Server` is the same core with its clock in the caller's hands."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from forerun.errors import SpecError
from forerun.sim import calls
from forerun.sim import policy as policy_room
from forerun.sim import responses as response_room
from forerun.sim import tables as table_arrays
from forerun.sim.check import (
    check_adapters,
    check_caps,
    check_drafts,
    check_encoders,
    check_fair,
    check_hashes,
    check_items,
    check_lanes,
    check_models,
    check_regions,
    check_reuse,
    check_roles,
    check_tuning,
    check_weights,
    check_widths,
)
from forerun.sim.check_denoise import check_denoisers
from forerun.sim.collect import (
    assumed,
    client_counts,
    encoded,
    live_slots,
    unfinished,
    wrong_choice,
)
from forerun.sim.core import compile as compiler
from forerun.sim.core import rows_request, state
from forerun.sim.core import serve as core_serve
from forerun.sim.core.jit import JIT
from forerun.sim.core.order import NEVER
from forerun.sim.core.rows_fleet import NO_CAP
from forerun.sim.core.signatures import KINDS
from forerun.sim.lanes import told
from forerun.sim.log import Log, Streams, Tenant
from forerun.sim.room import gate_memory_for, pending_for, tenants_for, wider
from forerun.sim.setup import CHUNK, PS, Options, Served, new_state, pool_of_replica
from forerun.sim.tiers import Tier, check_tiers, uses
from forerun.spec.deployment import Engine, Policy, ResponseCache
from forerun.spec.requests import CONTENT, STREAMS, Requests, chained
from forerun.spec.workload import Client

LONGEST_S = 9.2e6  # int64 picoseconds
LEAST_OUTSTANDING = Policy(name="least_outstanding")
ALWAYS = Policy(name="always")
EVERYONE = Policy(name="everyone")


@dataclass(frozen=True)
class Batches:
    """What leaves the core when a log buffer is full; arrays of dtype DONE, LEAP, GAP."""

    requests: np.ndarray
    leaps: np.ndarray
    gaps: np.ndarray


@dataclass
class Server:
    """A fleet of replicas with a clock that the caller advances.

    log : "full" keeps leaps and gaps, "requests" only one row a request.
    sink : receives log rows as they leave the core, instead of their being kept (endless runs).
    leap : False takes every step by itself; the log says the same.
    policies : functions by kind that replace those of the engines or the router.
    """

    pools: Sequence[Served]
    route: Policy | Callable[..., Any] = LEAST_OUTSTANDING
    place: Policy | Callable[..., Any] = LEAST_OUTSTANDING
    fetch: Policy | Callable[..., Any] = ALWAYS
    tiers: Sequence[Tier] = ()  # below the replicas' memory, the nearest first
    gate: Policy | Callable[..., Any] = EVERYONE
    responses: ResponseCache | None = None  # answers kept in front, given again
    seed: int = 0
    log: str = "full"
    leap: bool = True
    policies: Mapping[str, Callable[..., Any]] = field(default_factory=dict)
    concurrency: int | None = None
    think_s: float = 0.0
    sink: Callable[[Batches], None] | None = None
    n_requests: int | None = None  # how many will come, when known: their rows need no sorting
    hash_tokens: int = 0  # of the prefix blocks that requests will name; 0: none do
    client: Client | None = None  # how patient clients are, and what they do then
    go_on: bool = False  # successors of a request that gave no answer are sent all the same
    announce: Callable[[str], None] | None = None
    models: Sequence[str] = ()  # their names, for the log
    way_s: Sequence[Sequence[float]] = ((0.0,),)  # one way between the regions of clients, replicas
    tenants: Sequence[Tenant] = ()  # by number; those that are not told of have weight 1

    def __post_init__(self) -> None:
        self._check()
        self._kept: list[Batches] = []
        self._has_items = False
        self._frames: list[np.ndarray] = []
        self._sessions: list[np.ndarray] = []  # of chunks of streams
        self._pace = (0.0, 0)
        self.pool_of_replica = pool_of_replica(self.pools)
        self._state = new_state(
            self.pools,
            Options(
                seed=self.seed,
                keep_leaps=self.log == "full",
                leap=self.leap,
                concurrency=self.concurrency,
                think_s=self.think_s,
                n_requests=self.n_requests,
                every_step=[
                    batch.every_step or (served.draft is not None and speculate.every_step)
                    for served, batch, speculate in zip(
                        self.pools, self._found["batch"], self._found["speculate"], strict=True
                    )
                ],
                priced=[speculate.priced for speculate in self._found["speculate"]],
                every_turn=[turn.every_step for turn in self._found["turn"]],
                fair=[order.again for order in self._found["order"]],
                every_order=[order.again and order.every_step for order in self._found["order"]],
                fair_shared=self._fair["shared"] > 0,
                fair_lift=self._fair["lift"] > 0,
                fresh=any(self._found[kind][0].fresh for kind in ("route", "place")),
                cached=any(self._found[kind][0].cached for kind in ("route", "place")),
                hash_tokens=self.hash_tokens,
                tiers=self.tiers,
                go_on=self.go_on,
                client=self.client,
                gated=self._found["gate"][0].name != EVERYONE.name,
                way_s=self.way_s,
                responses=self.responses,
            ),
        )
        self._asked: list[Requests] = []
        self._own_caps = False  # some request has caps of its own
        if JIT and not compiler.is_cached():
            say = self.announce or (lambda text: print(text, file=sys.stderr, flush=True))
            say("compiling the simulator for this machine (once, about 15 s) ...")
        self._advance_core = compiler.entry("advance")
        chosen = {kind: policy_room.by_pool(self._found[kind]) for kind in KINDS}
        self._put(**{kind: function for kind, (function, _) in chosen.items()})
        self._put(**{f"{kind}_params": params for kind, (_, params) in chosen.items()})
        self.n_injected = 0
        self._clock.last_chunk = 1
        self._released = False

    # -- set-up ------------------------------------------------------------------------------

    def _check(self) -> None:
        if not self.pools:
            raise SpecError.one("deployment.pools", "there is no pool", "give one with a device")
        check_widths(self.pools)
        self._found = {
            kind: [self._policy(kind, served.pool.engine) for served in self.pools]
            for kind in ("order", "admit", "batch", "preempt", "speculate", "turn", "tune")
        }
        fleet = {"route": self.route, "place": self.place, "fetch": self.fetch, "gate": self.gate}
        for kind, chosen in fleet.items():
            self._found[kind] = [policy_room.find(kind, self.policies.get(kind, chosen))]
        again = [order.again for order in self._found["order"]]
        cached = self.responses is not None
        check_denoisers(self.pools, again, n_tiers=len(self.tiers), cached=cached)
        check_encoders(self.pools, again, cached=cached)
        self._fair = policy_room.fair_knobs(self._found["order"])
        check_weights(self.tenants, any(again))
        check_fair(self.pools, again)
        check_roles(self.pools)
        check_lanes(self.pools, len(self.tiers))
        check_drafts(self.pools)
        check_reuse(self.pools, len(self.tiers))
        check_caps(self.pools, self.hash_tokens)
        check_hashes(self.pools, self.hash_tokens)
        check_tiers(self.pools, self.tiers, self.hash_tokens)
        check_models(self.pools)
        check_regions(self.pools, self.way_s)
        check_adapters(self.pools)
        check_tuning(self.pools)

    def _policy(self, kind: str, engine: Engine) -> policy_room.Found:
        return policy_room.find(kind, self.policies.get(kind, getattr(engine, kind)))

    def _put(self, **fields: Any) -> None:
        self._state = self._state._replace(**fields)

    @property
    def _clock(self) -> Any:
        return self._state.clock[0]

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
            latest = old["ready_ps"][clock.n_arrivals - 1] if clock.n_arrivals else 0
            if rows.ready_ps[0] < max(clock.now_ps, latest):
                raise SpecError.one(
                    "requests",
                    f"one arrives at {rows.ready_ps[0] / PS:.6f} s, before the clock or its "
                    f"predecessor at {max(clock.now_ps, latest) / PS:.6f} s",
                    "inject requests in the order of their arrival",
                )
        ahead = old[clock.next_arrival : clock.n_arrivals]
        buffer = rows if not len(ahead) else np.concatenate([ahead, rows]).view(np.recarray)
        clock.next_arrival, clock.n_arrivals = 0, len(buffer)
        self._put(arrivals=buffer)

    def command(self, time_s: float, verb: str, replica: int, value: int = 0) -> None:
        """Order something of a replica for a time not yet past (`VERBS` in `sim.core.state`).

        Raises SpecError for a switch that would make a replica encode, or encode no more.
        """
        if verb == "switch":
            own = self.pools[self.pool_of_replica[replica]].pool.role
            if (own == "encode") != (self.pools[value].pool.role == "encode"):
                what = f"replica {replica} ({own}) cannot switch to {self.pools[value].pool.name}"
                raise SpecError.one("command", what, "a pool that encodes keeps to that")
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

    def _arrivals(self, requests: Requests) -> np.recarray:
        n = len(requests)
        rows = state.rows(n, rows_request.ARRIVAL)
        engine = self.pools[0].pool.engine
        rows.request = np.arange(self.n_injected, self.n_injected + n)
        self.n_injected += n
        if n and requests.arrival_s[-1] > LONGEST_S:
            raise SpecError.one(
                "requests",
                f"they go on for {requests.arrival_s[-1] / 86400:.0f} days; the clock counts "
                f"picoseconds and runs for {LONGEST_S / 86400:.0f}",
                "simulate a part of the trace (n_requests or duration_s)",
            )
        rows.arrival_ps = table_arrays.picoseconds(requests.arrival_s)
        delay = round(engine.host_request_s * PS)
        per_token = round(engine.host_prompt_token_s * PS)
        rows.ready_ps = rows.arrival_ps + delay + per_token * requests.isl
        if self.responses is not None:
            rows.ready_ps += self._asks(self.responses, requests)
        rows.isl, rows.osl = requests.isl, requests.osl
        rows.priority = 0 if requests.priority is None else requests.priority
        rows.tenant = 0 if requests.tenant is None else requests.tenant
        if n:
            n_tenants = int(rows.tenant.max()) + 1
            self._put(gate_memory=gate_memory_for(self._state, n_tenants))
            if self._clock.fair or self.tenants:
                weights = np.array([one.weight for one in self.tenants])
                ttft_s = np.array([one.ttft_s for one in self.tenants])
                more = tenants_for(self._state, n_tenants, weights, self._fair, ttft_s)
                self._put(**more)
        rows.session = -1 if requests.session is None else requests.session
        rows.model = self._models(requests)
        rows.region = self._regions(requests)
        rows.adapter = self._adapters(requests)
        if requests.frames is not None:
            self._frames.append(np.asarray(requests.frames))
            if STREAMS in requests.meta and requests.session is not None:
                self._sessions.append(requests.session)
                self._pace = requests.meta[STREAMS]
        if requests.n_items is not None:
            check_items(self.pools, requests)
            rows.n_items, rows.item_units = requests.n_items, requests.item_units
            rows.item_tokens = requests.item_tokens
            self._has_items = True
        self._name_prefixes(rows, requests)
        self._cap(rows, requests)
        rows.workflow = -1
        rows.acceptance = -1.0 if requests.acceptance is None else requests.acceptance
        rows.deadline_ps = NEVER
        if requests.deadline_s is not None:
            known = np.isfinite(requests.deadline_s)
            deadline = table_arrays.picoseconds(np.where(known, requests.deadline_s, 0.0))
            rows.deadline_ps = np.where(known, deadline, NEVER)
        if calls.wanted_by(requests) or self.client is not None or len(self._state.calls):
            rows = self._with_calls(rows, requests)
        if self.concurrency is None:
            rows.deadline_ps = calls.later(rows.arrival_ps, rows.deadline_ps)
            if per_token or self.responses is not None:
                rows = rows[np.argsort(rows.ready_ps, kind="stable")]
        return rows

    def _with_calls(self, rows: Any, requests: Requests) -> Any:
        """Note who waits for whom; the rows of those that wait for nobody."""
        more, roots = calls.calls_of(rows, requests, self._state)
        self._put(**more)
        self._clock.has_calls = 1
        if requests.meta.get("on_failure") == "go_on":
            self._clock.go_on = 1
        n = len(more["calls"]) + (self.concurrency or 0)
        n += len(self._state.live) if len(self.way_s) > 1 else 0
        self._put(pending=pending_for(self._state, n))
        if self.concurrency is not None:  # a workflow is released as a whole
            return rows[roots[np.argsort(calls.first_of(rows.workflow)[roots], kind="stable")]]
        return rows[roots]

    def _cap(self, rows: Any, requests: Requests) -> None:
        """Give each row its own caps on KV.  Raises SpecError where they cannot be kept."""
        rows.most_kept = rows.most_read = NO_CAP
        own = requests.kept_tokens, requests.attended_tokens
        kept, read = (caps is not None and bool(caps.any()) for caps in own)
        if kept or read:
            self._own_caps = True
            check_caps(self.pools, self.hash_tokens, kept=kept, read=read)
        if requests.kept_tokens is not None:
            rows.most_kept = np.where(requests.kept_tokens > 0, requests.kept_tokens, NO_CAP)
        if requests.attended_tokens is not None:
            most = requests.attended_tokens
            rows.most_read = np.where(most > 0, most, NO_CAP)
        if self._clock.denoises:
            denoised = [one.model for one in self.pools if one.denoises]
            asked = np.broadcast_to(rows.model, len(rows))
            rows.most_kept = np.where(np.isin(asked, denoised), rows.isl, rows.most_kept)

    def _asks(self, cache: ResponseCache, requests: Requests) -> np.ndarray:
        """Note what these requests ask of the response cache; how long it takes to look."""
        asks: Any = response_room.asks_of(cache, requests)
        assert requests.wordings is not None
        if not self._asked:
            n_models = self._state.serves.shape[1]
            self._put(**response_room.arrays(cache, requests.wordings, n_models))
        elif requests.wordings is not self._asked[0].wordings:
            what = "name other texts than those before"
            raise SpecError.one("requests", what, "one table of wordings in a run")
        self._asked.append(requests)
        joined = np.concatenate([self._state.asks, asks]).view(np.recarray)
        self._put(asks=joined)
        return asks.lookup_ps

    def _models(self, requests: Requests) -> np.ndarray | int:
        """The model that each request asks for.  Raises SpecError for one that nobody serves."""
        if requests.model is None:
            return 0
        known = self._state.serves.shape[1]
        if len(requests) and not 0 <= requests.model.min() <= requests.model.max() < known:
            what = f"ask for models {requests.model.min()} to {requests.model.max()}"
            raise SpecError.one("requests", what, f"models 0 to {known - 1}, which pools serve")
        return requests.model

    def _regions(self, requests: Requests) -> np.ndarray | int:
        """The region that each request comes from.  Raises SpecError for one that is not known."""
        if requests.region is None or not len(requests) or len(self.way_s) == 1:
            return 0
        low, high = int(requests.region.min()), int(requests.region.max())
        if not 0 <= low <= high < len(self.way_s):
            what = f"come from regions {low} to {high}"
            raise SpecError.one("requests", what, f"regions 0 to {len(self.way_s) - 1}")
        return requests.region

    def _adapters(self, requests: Requests) -> np.ndarray | int:
        """The adapter that each request names; -1 none.  Raises SpecError for unknown ones."""
        if requests.adapter is None:
            return -1
        known = len(self._state.adapters)
        if len(requests) and not -1 <= requests.adapter.min() <= requests.adapter.max() < known:
            what = f"name adapters up to {requests.adapter.max()}, and there are {known}"
            raise SpecError.one("requests", what, f"deployment.adapters.n: {known + 1} or more")
        return requests.adapter

    def _name_prefixes(self, rows: Any, requests: Requests) -> None:
        """Give each row its whole prefix blocks; blocks of requests that ended are forgotten."""
        if self.hash_tokens == 0 or requests.block_hashes is None:
            return
        if requests.hash_tokens != self.hash_tokens:
            what = f"have prefix blocks of {requests.hash_tokens} tokens, not {self.hash_tokens}"
            raise SpecError.one("requests", what, "one size of prefix blocks in a run")
        assert requests.block_starts is not None
        old = self._state.hashes
        named = np.diff(requests.block_starts)
        rows.hash_at = len(old) + requests.block_starts[:-1]
        computed = requests.isl + (requests.osl - 1 if requests.answers_named else 0)
        rows.n_hash = np.minimum(named, computed // self.hash_tokens)
        names = requests.block_hashes.astype(np.int64)
        if requests.meta.get("blocks") == CONTENT and not self._anywhere:
            names = chained(names, requests.block_starts)
        if requests.model is not None:  # one prefix of two models is two blocks of KV
            names = names ^ (np.repeat(requests.model, named) << 50)
        if requests.adapter is not None:  # so it is with adapters (vLLM hashes their name too)
            other = np.where(requests.adapter < 0, 0, (requests.adapter + 1) * 0x9E3779B97F4A7C1)
            names = names ^ np.repeat(other, named)
        self._put(hashes=np.concatenate([old, names]))

    @property
    def _anywhere(self) -> bool:
        return any(served.pool.engine.reuse == "anywhere" for served in self.pools)

    def advance(self, until_s: float = np.inf) -> None:
        """Handle every event up to `until_s`; afterwards the clock stands there (or at the last
        event, when there is no limit).  Raises PolicyError if a policy made an impossible choice.
        """
        if self.concurrency is not None and not self._released:
            self._release_first()
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

    def _release_first(self) -> None:
        """Closed loop: every client sends its first request at the start."""
        self._released = True
        for _ in range(self.concurrency or 0):
            compiler.entry("release")(self._state, 0)

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
            tuned=np.array(self._state.tuned) if self._clock.tunes else None,
            fitted=np.array(self._state.fitted) if self._clock.has_adapters else None,
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
                **({} if self.client is None else {"clients": client_counts(self._clock)}),
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
                "tuning": [served.pool.engine.tuning for served in self.pools],
                "models": tuple(self.models),
                "tenants": tuple(self.tenants),
                "fair": {k: self._fair[k] for k in ("input", "output")},
                "port_bytes_per_s": [served.port_bytes_per_s for served in self.pools],
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
    server._clock.last_chunk = 1
    server.advance(until_s)
    return server.log_so_far()


def _parts(requests: Requests) -> Iterable[Requests]:
    """The workload in pieces of CHUNK requests."""
    yield from (requests[i : i + CHUNK] for i in range(0, max(len(requests), 1), CHUNK))
