"""The core's arrays for a fleet: settings, costs and empty queues, before anything happens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from forerun.cost.part import Part
from forerun.cost.table import CostTable
from forerun.sim import embeddings, responses
from forerun.sim import tables as table_arrays
from forerun.sim import tiers as tier_arrays
from forerun.sim.adapters import Fitting, adapter_arrays, fill_adapters, numbered
from forerun.sim.branches import (
    Branching,
    fill_branches,
    fill_nets,
    net_columns,
    shared_devices,
)
from forerun.sim.core import rows_fleet, rows_log, rows_request, signatures, state
from forerun.sim.core.order import NEVER
from forerun.sim.embeddings import Cache
from forerun.sim.speculation import Drafting, draft_arrays, fill_drafts
from forerun.sim.tiers import Tier
from forerun.spec.caches import ResponseCache
from forerun.spec.deployment import Pool
from forerun.spec.streams import subseed
from forerun.spec.workload import Client

CHUNK = 1 << 16  # rows that a buffer of arrivals or of the log has at first
PS = table_arrays.PS


@dataclass(frozen=True)
class Served:
    """A pool ready to run: its settings, its costs, its memory."""

    pool: Pool
    table: CostTable
    n_blocks: int  # KV blocks of one replica
    max_len: int  # longest request in tokens, prompt and answer
    kv_token_bytes: float = 0.0  # KV of one token, all devices of a replica together
    n_layers: int = 1
    port_bytes_per_s: float = 0.0  # that a replica can send, and receive; 0: it has no link
    port_latency_s: float = 0.0
    draft: Drafting | None = None  # who proposes tokens, when anybody does
    weights_bytes: float = 0.0  # on each device
    model: int = 0  # which of the run's models it serves
    group: Any = None  # what a replica may run in turn has the same; None: nothing else
    #: numbers of blocks and their shares of its weights; what models that name one block have of it
    #: is the same, and is loaded and kept once
    blocks: tuple[tuple[int, float], ...] = ()
    n_resident: int = 1  # models of the group whose weights a replica keeps at a time
    load_s: float = 0.0  # all weights of a replica, from where they are kept, ...
    load_latency_s: float = 0.0  # ... of which this, whatever is loaded
    load_bytes: float = 0.0
    region: int = 0  # a row of Options.way_s
    usd_per_hour: float = 0.0  # of a replica, for routers that look at it ...
    gco2e_per_kwh: float = 0.0  # ... and at this
    like: int | None = None  # a row without replicas: the one that it differs from by a dial ...
    dial: tuple[str, Any] | None = None  # ... set to a value (`sim.control.dials`)
    adapters: Fitting | None = None  # which its requests can name, and how they come
    levels: tuple[int, ...] = ()  # rows that its replicas run at each level of expert load
    course: Any = None  # which level when (`sim.moe.rows.Course`)
    waits: Any = None  # for experts on the host (`sim.moe.rows.Waits`)
    encoder: int = -1  # row by whose costs it encodes in front of the model; -1: it does not
    denoises: bool = False  # its requests compute all their tokens in each step, and then ...
    shows: int = -1  # ... become pixels by the costs of this row; -1: that is not priced
    branch: Branching | None = None  # ControlNets that its requests can use
    block: str | None = None  # where prompts and answers share devices: whose rows belong together
    lane: int = 0  # which of them: 4 * level + 2 * (it answers) + (the other lane is in a step)
    switch_s: float = 0.0  # that a lane stands still for when its share changes
    part: Part | None = None  # of its devices, by whose costs a lane runs; None: all of them

    @property
    def seats(self) -> int:
        """The most sequences in a step."""
        return min(self.pool.engine.max_num_seqs, self.table.max_seqs)

    @property
    def budget(self) -> int:
        """The most tokens in a step."""
        return min(self.pool.engine.max_num_batched_tokens, self.table.max_tokens)


@dataclass(frozen=True)
class Options:
    """What of a run is not in its pools."""

    seed: int
    keep_leaps: bool
    leap: bool  # False takes every step by itself
    concurrency: int | None
    think_s: float
    n_requests: int | None  # how many will come, when known: their rows need no sorting
    every_step: Sequence[bool]  # by pool: a policy of it reads what changes inside a leap
    priced: Sequence[bool]  # by pool: its speculate policy wants to know what steps would take
    every_turn: Sequence[bool]  # by pool: its turn policy reads what changes inside a leap
    fair: Sequence[bool]  # by pool: its order policy is asked again, tenant by tenant ...
    every_order: Sequence[bool]  # ... and reads what changes inside a leap beside counters
    fair_shared: bool  # counters of tenants are of the fleet
    fair_lift: bool  # who comes back has saved nothing up
    fresh: bool  # the router wants the KV use of the moment
    cached: bool  # a router wants to know who keeps a prompt's prefix
    hash_tokens: int = 0  # of a prefix block; 0 when prefixes are not kept
    tiers: Sequence[Tier] = ()
    client: Client | None = None
    gated: bool = False  # a policy says who is let in
    responses: ResponseCache | None = None
    embeddings: Cache | None = None  # kept of what has been encoded
    go_on: bool = False  # successors of a request that gave no answer are sent all the same
    way_s: Sequence[Sequence[float]] = ((0.0,),)  # one way between regions


def pool_of_replica(pools: Sequence[Served]) -> np.ndarray:
    """The pool of each replica; a replica with pipeline stages counts once a stage."""
    counts = [served.pool.replicas * served.pool.pp for served in pools]
    return np.repeat(np.arange(len(pools), dtype=np.int64), counts)


def new_state(pools: Sequence[Served], options: Options) -> state.State:
    """An idle fleet at time 0."""
    pool_of = pool_of_replica(pools)
    replicas = state.new_replicas(pool_of)
    n = len(replicas)
    engines = state.rows(len(pools), rows_fleet.ENGINE)
    for p, served in enumerate(pools):
        _fill_engine(engines[p], served, options.every_step[p], options.leap)
    by_lane: dict[Any, int] = {
        (one.block, one.lane, _shown(pools, p)): p for p, one in enumerate(pools) if one.block
    }
    engines.beside = [
        by_lane.get((one.block, one.lane | 1, _shown(pools, p)), -1) for p, one in enumerate(pools)
    ]
    _pair(pools, pool_of, replicas, by_lane)
    tables = [served.table for served in pools]
    drafts = [served.draft for served in pools]
    tables += [one.table.draft for one in pools if one.draft and one.table.draft]
    engines.mixed_row = table_arrays.mixed_rows(tables)[: len(pools)]
    fill_drafts(engines, drafts, tables, options.priced)
    engines.every_turn = options.every_turn
    engines.fair, engines.every_order = options.fair, options.every_order
    most = int(engines.max_seqs.max())
    n_done = 4 * most + 4096
    load = np.zeros((signatures.LOAD_FIELDS, n), dtype=np.int64)
    load[signatures.POOL] = pool_of
    load[signatures.KV_CAPACITY] = engines.n_blocks[pool_of]
    embeddings.join(options.embeddings, engines, replicas)
    engines.speed = table_arrays.speeds(
        [served.table for served in pools],
        np.array([served.pool.role == "encode" for served in pools]),
    )
    load[signatures.SPEED] = engines.speed[pool_of]
    load[signatures.REPLICA] = np.arange(n)
    live = state.rows(1024, rows_request.LIVE)
    state.free_slots(live, 0)
    load[signatures.PRICE] = [round(1e6 * pools[p].usd_per_hour) for p in pool_of]
    load[signatures.CARBON] = [round(1e3 * pools[p].gco2e_per_kwh) for p in pool_of]
    way_ps = np.rint(np.array(options.way_s) * PS).astype(np.int64)
    far = len(live) if len(way_ps) > 1 else 0  # requests that may be on their way
    clocks = state.rows(1, state.CLOCK)
    clock = clocks[0]
    clock.keep_leaps = int(options.keep_leaps)
    clock.refresh_load = int(options.fresh)
    clock.refresh_cached = int(options.cached)
    clock.hash_tokens = options.hash_tokens
    clock.n_verify = table_arrays.verify_rows(tables)[1]
    serves = _serves(pools)
    tunes = engines.tunes.any()
    clock.tunes = int(tunes)
    clock.denoises = int(engines.denoises.any())
    fittings = [served.adapters for served in pools]
    fill_adapters(engines, fittings)
    of_models = [one.model for one in pools]
    clock.first_net = numbered(fittings, of_models)[-1]
    clock.has_adapters = int(any(one is not None for one in fittings))
    branches = [served.branch for served in pools]
    fill_nets(engines, branches)
    nets = net_columns(branches, len(pools))
    clock.has_nets = int(len(nets[0]) > 0)
    apart = (engines.role[pool_of] != rows_fleet.ROLE["both"]).any() or serves.shape[1] > 1
    clock.restricted = int(apart)
    clock.next_move_ps = NEVER
    clock.passed_ps = -1
    clock.gated = int(options.gated)
    clock.fair = int(any(options.fair))
    clock.fair_shared, clock.fair_lift = int(options.fair_shared), int(options.fair_lift)
    clock.last_tenant = -1
    clock.go_on = int(options.go_on)
    clock.held_head = clock.held_tail = -1
    clock.by_request = int(options.n_requests is not None)
    clock.closed = int(options.concurrency is not None)
    clock.think_ps = round(options.think_s * PS)
    if options.client is not None:
        _fill_client(clock, options.client)
    if options.responses is not None:
        clock.has_answers = 1
        clock.hit_ps = round(options.responses.fetch_s * PS)
        clock.answer_token_ps = round(PS / (options.responses.rate_per_s or np.inf))
    host = pools[0].pool.engine
    clock.host_request_ps = round(host.host_request_s * PS)
    clock.host_prompt_token_ps = round(host.host_prompt_token_s * PS)
    tuned = state.rows(n, rows_fleet.TUNED)
    for i, p in enumerate(pool_of):
        tuning = pools[p].pool.engine.tuning
        tuned[i].left = tuning.tokens if tuning else 0
    n_leaps = max(n_done, CHUNK) if options.keep_leaps else 1
    nothing = np.zeros(0)
    return state.State(
        clock=clocks,
        arrivals=state.rows(0, rows_request.ARRIVAL),
        pending=state.rows((options.concurrency or 0) + far + 2, rows_request.ARRIVAL),
        way_ps=way_ps,
        wanted=state.rows(0, rows_request.ARRIVAL),
        calls=state.rows(0, rows_request.CALL),
        successors=state.rows(0, rows_request.SUCCESSOR),
        flows=state.rows(0, rows_request.FLOW),
        timers=state.rows(1, rows_request.TIMER),
        **responses.empty(),
        doubt_seed=_seed(options.seed, "doubts"),
        live=live,
        moving=np.zeros(len(live), dtype=np.int64),
        offered=np.zeros(load.size, dtype=np.int64),
        offered_of=np.zeros(n, dtype=np.int64),
        hashes=np.zeros(0, dtype=np.int64),
        commands=state.rows(0, state.COMMAND),
        tenants=state.rows(0, rows_fleet.TENANT),
        lines=state.rows(0, rows_fleet.LINE),
        **tier_arrays.arrays(pools, pool_of, options.tiers, options.hash_tokens, len(live)),
        **adapter_arrays(fittings, of_models, n, nets),
        **embeddings.arrays(options.embeddings, n),
        **_turns(pools, pool_of, serves),
        lanes=state.rows(n, rows_fleet.LANE),
        replicas=replicas,
        encodes=state.rows(n, rows_fleet.ENCODES),
        branched=state.rows(n, rows_fleet.BRANCHED),
        net_free_ps=shared_devices(engines, branches),
        controls=np.zeros(0, dtype=np.int64),
        totals=state.rows(n, rows_log.TOTALS),
        engines=engines,
        load=load,
        agenda=np.arange(n, dtype=np.int64),
        agenda_ps=np.full(n, 0 if tunes else NEVER),  # who tunes begins at once
        tuned=tuned,
        tune_ps=table_arrays.tuning(tables, [one.pool.engine.tuning for one in pools]),
        residue=np.zeros((n, int(engines.block_tokens.max())), dtype=np.int32),
        last_step=np.zeros((n, most), dtype=np.int64),
        last_member=np.zeros((n, most), dtype=np.int64),
        fresh=np.zeros((n, most), dtype=np.int64),
        gap_step=np.zeros((n, 64), dtype=np.int64),
        gap_ps=np.zeros((n, 64), dtype=np.int64),
        done=state.rows(options.n_requests or max(n_done, CHUNK), rows_log.DONE),
        leaps=state.rows(n_leaps, rows_log.LEAP),
        gaps=state.rows(n_leaps, rows_log.GAP),
        **table_arrays.arrays(tables),
        **draft_arrays(drafts),
        draft_seed=_seed(options.seed, "acceptance"),
        **{f"{kind}_params": nothing for kind in signatures.KINDS},
        **dict.fromkeys(signatures.KINDS),
        route_memory=np.zeros(signatures.MEMORY + n, dtype=np.int64),
        encode_memory=np.zeros(signatures.MEMORY + n, dtype=np.int64),
        route_rng=_seed(options.seed, "routing"),
        place_memory=np.zeros(signatures.MEMORY + n, dtype=np.int64),
        gate_memory=np.zeros(signatures.GATE_OF_TENANT + 2, dtype=np.int64),
    )


def _seed(seed: int, name: str) -> np.ndarray:
    return np.array([subseed(seed, name)], dtype=np.uint64)


def _fill_client(clock: Any, client: Client) -> None:
    clock.has_clients = 1
    clock.first_token_by_ps = round((client.first_token_s or 0) * PS)
    clock.end_by_ps = round((client.give_up_s or 0) * PS)
    clock.hedge_ps = round((client.hedge_s or 0) * PS)
    clock.hedge_first = int(client.hedge_s is not None and client.hedge_by == "first_token")
    clock.max_retries = client.retries
    clock.retry_rejections = int("rejection" in client.retry_on)
    clock.retry_timeouts = int("timeout" in client.retry_on)
    clock.retry_failures = int("failure" in client.retry_on)
    clock.backoff_ps = round(client.backoff_s * PS)
    clock.backoff_thousandths = round(client.backoff_factor * 1000)


def _fill_engine(row: Any, served: Served, every_step: bool, leap: bool) -> None:
    engine, table, lanes = served.pool.engine, served.table, served.pool.pp
    row.max_seqs, row.max_tokens = -(-served.seats // lanes), served.budget
    row.max_len = served.max_len
    row.n_blocks = served.n_blocks // lanes
    row.block_tokens = engine.block_tokens
    row.watermark = int(engine.watermark * row.n_blocks)
    row.reserve = rows_fleet.RESERVE[engine.reserve]
    row.host_step_ps = round(table.host_step_s * PS)
    row.eager_ps = round(table.eager_s * PS)
    row.host_seq_ps = round(table.host_seq_s * PS)
    row.every_step = int(every_step)
    row.max_leap = (1 << 40) if leap else 1
    if table.mixed_prefill == "root_sum_square":
        row.mixed_num, row.mixed_den = round(1000 * table.mixed_factor), 1000
    row.mixed_cross_ps = round(table.mixed_cross_s * PS)
    row.role = rows_fleet.ROLE[served.pool.role]
    row.encoder_row = served.encoder
    row.denoises, row.shows_row = int(served.denoises), served.shows
    fill_branches(row, served.branch)
    if served.pool.role == "encode":
        row.reserve = rows_fleet.RESERVE["prompt"]  # memory for all items of a request at once
    row.kv_token_bytes = round(served.kv_token_bytes)
    row.keeps = rows_fleet.NO_CAP if engine.kept_tokens is None else engine.kept_tokens
    row.reads = rows_fleet.NO_CAP if engine.attended_tokens is None else engine.attended_tokens
    row.picks = int(table.pick is not None and engine.attended_by == "pages")
    row.pick_step_ps = round(table.pick.step_s * PS) if table.pick is not None else 0
    row.anywhere = int(engine.prefix_caching and engine.reuse == "anywhere")
    row.again = engine.recompute_share
    row.swap = int(engine.preemption == "swap")
    if engine.tuning is not None:
        row.tunes, row.tune_grain = 1, engine.tuning.grain
    row.streamed, row.n_layers = int(served.pool.stream_kv), served.n_layers
    row.model, row.n_resident = served.model, served.n_resident
    row.load_ps, row.load_bytes = round(served.load_s * PS), round(served.load_bytes)
    row.region, row.switch_ps = served.region, round(served.switch_s * PS)
    row.share = served.lane // 4
    if served.block is not None and served.pool.role == "prefill" and row.reserve == 0:
        row.reserve = rows_fleet.RESERVE["prompt"]  # prompts do not grow while others decode


def _serves(pools: Sequence[Served]) -> np.ndarray:
    """By pool and model, the pool as which its replicas serve that model; -1 where they do not."""
    out = np.full((len(pools), max(one.model for one in pools) + 1), -1, dtype=np.int64)
    for p, one in enumerate(pools):
        for q, other in enumerate(pools):
            if p == q or (one.group is not None and one.group == other.group):
                out[p, other.model] = q
    return out


def _turns(
    pools: Sequence[Served], pool_of: np.ndarray, serves: np.ndarray
) -> dict[str, np.ndarray]:
    """Queues by model; at first there are the weights of a replica's model and of the next ones."""
    n_models = serves.shape[1]
    resident = np.full((len(pool_of), n_models), -1, dtype=np.int64)
    for i, p in enumerate(pool_of):
        served = [m for m in range(n_models) if serves[p, m] >= 0]
        at = served.index(pools[p].model)
        for k, m in enumerate([*served[at:], *served[:at]][: pools[p].n_resident]):
            resident[i, m] = n_models - 1 - k
    of_models = numbered([one.adapters for one in pools], [one.model for one in pools])
    shape = (len(pool_of), n_models + int(of_models[-1]))
    n_blocks = 1 + max((k for one in pools for k, _ in one.blocks), default=-1)
    block_ps, block_bytes = np.zeros((2, len(pools), n_blocks), dtype=np.int64)
    for p, one in enumerate(pools):
        for k, share in one.blocks:
            block_ps[p, k] = round(share * (one.load_s - one.load_latency_s) * PS)
            block_bytes[p, k] = round(share * one.load_bytes)
    return {
        "serves": serves,
        "parked": np.full(shape, -1, dtype=np.int64),
        "n_parked": np.zeros(shape, dtype=np.int64),
        "resident": resident,
        "block_ps": block_ps,
        "block_bytes": block_bytes,
        "in_steps": state.rows(len(pool_of), rows_log.LEAP),
        "loads": state.rows(len(pool_of), rows_fleet.LOADS),
        "queued": np.zeros((signatures.QUEUED_FIELDS, n_models), dtype=np.int64),
    }


def _pair(
    pools: Sequence[Served], pool_of: np.ndarray, replicas: Any, by_lane: dict[Any, int]
) -> None:
    """Lanes on the same devices: the n-th replica of a row with the n-th of the other, whose memory
    it uses when it computes prompts.  A role says which of them a router may choose."""
    for p, one in enumerate(pools):
        if one.block is None or not one.pool.replicas:
            continue
        other = by_lane[one.block, one.lane ^ 2, frozenset()]
        mine, others = np.flatnonzero(pool_of == p), np.flatnonzero(pool_of == other)
        replicas.partner[mine] = others
        if one.pool.role == "prefill":
            replicas.memory[mine] = others


def _shown(pools: Sequence[Served], p: int) -> frozenset:
    """What dials but that of shares make row p other than a pool's own: names and values."""
    out = set()
    like = pools[p].like
    while like is not None:
        out.add(pools[p].dial)
        p, like = like, pools[like].like
    return frozenset(out)
