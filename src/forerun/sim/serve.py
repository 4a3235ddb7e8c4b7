"""Serving: values in, arrays through the core, a `Log` out.

`run` simulates a whole workload; `Server` is the same core with its clock in the caller's hands.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from forerun.cost.table import CostTable
from forerun.errors import ForerunError, PolicyError, Problem, SpecError
from forerun.sim import policy as policy_room
from forerun.sim import tables as table_arrays
from forerun.sim.core import compile as compiler
from forerun.sim.core import serve as core_serve
from forerun.sim.core import signatures, state
from forerun.sim.core.batch import BAD_BATCH, BAD_ROUTE, STUCK
from forerun.sim.core.jit import JIT
from forerun.sim.core.order import NEVER
from forerun.sim.log import Log
from forerun.spec.deployment import Engine, Policy, Pool
from forerun.spec.requests import Requests
from forerun.spec.streams import stream

CHUNK = 1 << 16  # arrivals put into the core at a time
PS = table_arrays.PS
LEAST_OUTSTANDING = Policy(name="least_outstanding")


@dataclass(frozen=True)
class Served:
    """A pool ready to run: its settings, its costs, its memory."""

    pool: Pool
    table: CostTable
    n_blocks: int  # KV blocks of one replica
    max_len: int  # longest request in tokens, prompt and answer


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
    seed: int = 0
    log: str = "full"
    leap: bool = True
    policies: Mapping[str, Callable[..., Any]] = field(default_factory=dict)
    concurrency: int | None = None
    think_s: float = 0.0
    sink: Callable[[Batches], None] | None = None
    n_requests: int | None = None  # how many will come, when known: their rows need no sorting
    announce: Callable[[str], None] | None = None

    def __post_init__(self) -> None:
        self._check()
        self._kept: list[Batches] = []
        self._state = self._new_state()
        if JIT and not compiler.is_cached():
            say = self.announce or (lambda text: print(text, file=sys.stderr, flush=True))
            say("compiling the simulator for this machine (once, about 15 s) ...")
        self._core = compiler.core()
        chosen = {kind: policy_room.by_pool(self._found[kind]) for kind in compiler.POLICIES}
        self._functions = [function for function, _ in chosen.values()]
        self._put(**{f"{kind}_params": params for kind, (_, params) in chosen.items()})
        self.n_injected = 0
        self._clock.last_chunk = 1
        self._released = False

    # -- set-up ------------------------------------------------------------------------------

    def _check(self) -> None:
        if not self.pools:
            raise SpecError.one("deployment.pools", "there is no pool", "give one with a device")
        narrow = [s.pool for s in self.pools if _seats(s) > _budget(s)]
        if narrow:
            raise SpecError(
                *(
                    Problem(
                        f"deployment.pools.{pool.name}.engine.max_num_batched_tokens",
                        f"{pool.engine.max_num_batched_tokens} tokens a step cannot give each of "
                        f"{pool.engine.max_num_seqs} sequences one",
                        f"max_num_seqs: {pool.engine.max_num_batched_tokens}, or more tokens",
                    )
                    for pool in narrow
                )
            )
        self._found = {
            kind: [self._policy(kind, served.pool.engine) for served in self.pools]
            for kind in ("order", "admit", "batch", "preempt")
        }
        self._found["route"] = [policy_room.find("route", self.policies.get("route", self.route))]

    def _policy(self, kind: str, engine: Engine) -> policy_room.Found:
        return policy_room.find(kind, self.policies.get(kind, getattr(engine, kind)))

    def _new_state(self) -> state.State:
        self.pool_of_replica = np.concatenate(
            [
                np.full(s.pool.replicas * s.pool.pp, p, dtype=np.int64)
                for p, s in enumerate(self.pools)
            ]
        )
        replicas = state.new_replicas(self.pool_of_replica)
        n = len(replicas)
        engines = state.rows(len(self.pools), state.ENGINE)
        for p, served in enumerate(self.pools):
            self._fill_engine(engines[p], served, self._found["batch"][p].every_step)
        most = int(engines.max_seqs.max())
        n_done = 4 * most + 4096
        load = np.zeros((signatures.LOAD_FIELDS, n), dtype=np.int64)
        load[signatures.POOL] = self.pool_of_replica
        load[signatures.KV_CAPACITY] = engines.n_blocks[self.pool_of_replica]
        load[signatures.SPEED] = self._speeds()[self.pool_of_replica]
        live = state.rows(1024, state.LIVE)
        state.free_slots(live, 0)
        clock = state.rows(1, state.CLOCK)
        clock[0].keep_leaps = int(self.log == "full")
        clock[0].refresh_load = int(self._found["route"][0].fresh)
        clock[0].by_request = int(self.n_requests is not None)
        clock[0].closed = int(self.concurrency is not None)
        clock[0].think_ps = round(self.think_s * PS)
        host = self.pools[0].pool.engine
        clock[0].host_request_ps = round(host.host_request_s * PS)
        clock[0].host_prompt_token_ps = round(host.host_prompt_token_s * PS)
        rng = stream(self.seed, "routing").integers(0, 2**63, 1, dtype=np.uint64)
        n_leaps = max(n_done, CHUNK) if self.log == "full" else 1
        nothing = np.zeros(0)
        return state.State(
            clock=clock,
            arrivals=state.rows(0, state.ARRIVAL),
            pending=state.rows((self.concurrency or 0) + 2, state.ARRIVAL),
            live=live,
            replicas=replicas,
            totals=state.rows(n, state.TOTALS),
            engines=engines,
            load=load,
            agenda=np.arange(n, dtype=np.int32),
            agenda_ps=np.full(n, NEVER),
            residue=np.zeros((n, int(engines.block_tokens.max())), dtype=np.int32),
            last_step=np.zeros((n, most), dtype=np.int64),
            last_member=np.zeros((n, most), dtype=np.int32),
            fresh=np.zeros((n, most), dtype=np.int32),
            gap_step=np.zeros((n, 64), dtype=np.int64),
            gap_ps=np.zeros((n, 64), dtype=np.int64),
            done=state.rows(self.n_requests or max(n_done, CHUNK), state.DONE),
            leaps=state.rows(n_leaps, state.LEAP),
            gaps=state.rows(n_leaps, state.GAP),
            **table_arrays.arrays([served.table for served in self.pools]),
            **{f"{kind}_params": nothing for kind in signatures.KINDS},
            route_memory=np.zeros(signatures.MEMORY, dtype=np.int64),
            route_rng=rng,
        )

    def _fill_engine(self, row: Any, served: Served, every_step: bool) -> None:
        engine, table, lanes = served.pool.engine, served.table, served.pool.pp
        row.max_seqs, row.max_tokens = _seats(served), _budget(served)
        row.max_len = served.max_len
        row.n_blocks = served.n_blocks // lanes
        row.block_tokens = engine.block_tokens
        row.watermark = int(engine.watermark * row.n_blocks)
        row.reserve = state.RESERVE[engine.reserve]
        row.host_step_ps = round(table.host_step_s * PS)
        row.host_seq_ps = round(table.host_seq_s * PS)
        row.every_step = int(every_step)
        row.max_leap = (1 << 40) if self.leap else 1
        if table.mixed_prefill == "root_sum_square":
            row.mixed_num, row.mixed_den = round(1000 * table.mixed_factor), 1000
        row.n_ctx, row.n_past = len(table.knots_ctx), len(table.knots_past)

    def _speeds(self) -> np.ndarray:
        """Decode speed of each pool at 16 sequences, in thousandths of the fastest."""
        times = []
        for served in self.pools:
            n = min(16, served.table.max_seqs)
            work = served.table.time_s
            times.append(work.tokens[n] + work.seqs[n] + work.decode[n, len(work.decode[n]) // 2])
        step = np.maximum(np.array(times), 1e-12)
        return np.rint(1000 * step.min() / step).astype(np.int64)

    def _put(self, **arrays: np.ndarray) -> None:
        self._state = self._state._replace(**arrays)

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

    def _arrivals(self, requests: Requests) -> np.recarray:
        n = len(requests)
        rows = state.rows(n, state.ARRIVAL)
        engine = self.pools[0].pool.engine
        rows.request = np.arange(self.n_injected, self.n_injected + n)
        self.n_injected += n
        rows.arrival_ps = table_arrays.picoseconds(requests.arrival_s)
        delay = round(engine.host_request_s * PS)
        per_token = round(engine.host_prompt_token_s * PS)
        rows.ready_ps = rows.arrival_ps + delay + per_token * requests.isl
        rows.isl, rows.osl = requests.isl, requests.osl
        rows.priority = 0 if requests.priority is None else requests.priority
        rows.tenant = 0 if requests.tenant is None else requests.tenant
        rows.session = -1 if requests.session is None else requests.session
        rows.deadline_ps = NEVER
        if requests.deadline_s is not None:
            known = np.isfinite(requests.deadline_s)
            deadline = table_arrays.picoseconds(np.where(known, requests.deadline_s, 0.0))
            if self.concurrency is None:
                deadline = deadline + rows.arrival_ps
            rows.deadline_ps = np.where(known, deadline, NEVER)
        if per_token and self.concurrency is None:
            rows = rows[np.argsort(rows.ready_ps, kind="stable")]
        return rows

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
        reason = int(self._core.advance(self._state, until_ps, *self._functions))
        if reason == core_serve.WANT_SLOTS:
            old = self._state.live
            live = state.rows(2 * len(old), state.LIVE)
            live[: len(old)] = old
            state.free_slots(live, len(old))
            self._put(live=live)
            self._clock.free = len(old)
        elif reason == core_serve.WANT_LOG:
            self._drain()
        elif reason == core_serve.WANT_GAPS:
            wider = [
                np.pad(a, [(0, 0), (0, a.shape[1])])
                for a in (self._state.gap_step, self._state.gap_ps)
            ]
            self._put(gap_step=wider[0], gap_ps=wider[1])
        elif reason == core_serve.WRONG:
            raise self._wrong()
        return reason

    def _release_first(self) -> None:
        """Closed loop: every client sends its first request at the start."""
        from forerun.sim.core.arrivals import release

        self._released = True
        for _ in range(self.concurrency or 0):
            release(self._state, 0)

    def abort(self, request: int) -> bool:
        """The client of a request goes away now.  False if the request is not in the system."""
        live: Any = self._state.live
        slots = np.flatnonzero((live.request == request) & (live.aborted == 0))
        present = [int(r) for r in slots if self._is_live(int(r))]
        if not present:
            return False
        r, now = present[0], int(self._clock.now_ps)
        if self._core.abort(self._state, r, now):
            self._core.cut_leap(self._state, int(live[r].replica), now)
        return True

    def _is_live(self, r: int) -> bool:
        free, at = set(), int(self._clock.free)
        while at >= 0:
            free.add(at)
            at = int(self._state.live[at].next)
        return r not in free

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

    def _wrong(self) -> ForerunError:
        clock = self._clock
        kind, value, at = int(clock.wrong_kind), int(clock.wrong_value), int(clock.now_ps) / PS
        batch = self._found["batch"][0].name
        if kind == BAD_ROUTE:
            return PolicyError.one(
                f"policy {self._found['route'][0].name}",
                f"sent request {int(clock.wrong_request)} to replica {value} at {at:.6f} s; "
                f"there are replicas 0 to {len(self.pool_of_replica) - 1}",
                "return the index of a replica",
            )
        where = f"policy {batch}, replica {int(clock.wrong_replica)} at {at:.6f} s"
        if kind == BAD_BATCH:
            return PolicyError.one(
                where,
                f"asked for {value} prompt tokens in a step, which is too many beside its decodes",
                "return at most engine.max_tokens - replica.n_decode where decodes run too",
            )
        assert kind == STUCK
        return PolicyError.one(
            where,
            f"{value} requests wait, and the step it formed computes nothing",
            "let a step decode or start a request; whole-prompt batching needs "
            "max_num_batched_tokens at least as large as the longest prompt",
        )

    # -- the answer ------------------------------------------------------------------------------

    def log_so_far(self) -> Log:
        """Everything up to now; requests still in the system are counted, not listed."""
        self._drain()
        kept = self._kept
        full = self.log == "full"
        clock = self._clock
        waiting = int(clock.n_arrivals - clock.next_arrival)
        return Log(
            requests=self._requests_so_far(),
            leaps=np.concatenate([rows.leaps for rows in kept]) if full and kept else None,
            gaps=np.concatenate([rows.gaps for rows in kept]) if full and kept else None,
            start_ps=0,
            end_ps=int(clock.now_ps),
            n_unfinished=int(clock.n_live + clock.n_pending) + waiting,
            replicas=np.array(self._state.totals),
            pool_of_replica=self.pool_of_replica,
            tables=tuple(served.table for served in self.pools),
            pools=tuple(served.pool.name for served in self.pools),
            kv_blocks=np.array([served.n_blocks // served.pool.pp for served in self.pools]),
            seed=self.seed,
            meta={
                "policies": {
                    kind: sorted({f.name for f in found}) for kind, found in self._found.items()
                },
                "compiled": JIT,
                "assumed": self._assumed(),
            },
        )

    def _requests_so_far(self) -> np.ndarray:
        """The rows of all requests that have ended, by request number."""
        clock, done = self._clock, np.asarray(self._state.done)
        if self.n_requests is None:
            rows = np.concatenate([done[:0], *(rows.requests for rows in self._kept)])
            return rows[np.argsort(rows["request"], kind="stable")]
        if clock.n_done == self.n_requests:
            return done
        # rows not written yet are all zero; no request is done at 0 unless it was rejected
        return done[(done["done_ps"] > 0) | (done["scheduled_ps"] < 0)]

    def _assumed(self) -> tuple[str, ...]:
        if any(served.pool.pp > 1 for served in self.pools):
            return (
                "pipeline stages: each replica runs pp batches in turn, each with its share of the "
                "KV blocks; bubbles from batches of unequal length are left out",
            )
        return ()


def _seats(served: Served) -> int:
    """The most sequences in a step."""
    return min(served.pool.engine.max_num_seqs, served.table.max_seqs)


def _budget(served: Served) -> int:
    """The most tokens in a step."""
    return min(served.pool.engine.max_num_batched_tokens, served.table.max_tokens)


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
    if isinstance(requests, Requests) and settings.get("sink") is None:
        settings["n_requests"] = len(requests)
    server = Server(pools, **settings)
    if isinstance(requests, Requests):
        # a closed loop takes the workload whole: when a request leaves depends on the others
        parts: Iterable[Requests] = [requests] if server.concurrency else _parts(requests)
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
    for start in range(0, max(len(requests), 1), CHUNK):
        yield requests[start : start + CHUNK]
