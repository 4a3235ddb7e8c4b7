"""KV that comes from elsewhere: a request waits for it with its blocks taken, then joins.

It comes from the replica that computed it, or from the tiers below, one after another.  Those who
wait for ControlNets join in the same way.

Legend: i replica, s store of a tier, r slot, c prefix block, p pool, t picoseconds.
"""

from __future__ import annotations

import math

from forerun.sim.core import decoders, nets, prefix, regions, store, tiers, transfer
from forerun.sim.core import live as lists
from forerun.sim.core.jit import jit
from forerun.sim.core.kv import kept
from forerun.sim.core.price import lookup, prefill_cost
from forerun.sim.core.rows_request import EMBEDDED, FETCHING, PLAIN
from forerun.sim.core.signatures import OUTSTANDING_TOKENS
from forerun.sim.core.state import MISTAKE
from forerun.sim.core.wake import wake

BAD_FETCH = MISTAKE["fetch"]


@jit
def pull(state, i, r, n_tokens, t):
    """Move n_tokens of KV of r from its source to replica i, where it has its blocks."""
    request = state.live[r]
    source = request.source
    engine = state.engines[state.replicas[source].pool]
    n_bytes = float(n_tokens * engine.kv_token_bytes)
    state.totals[source].moved_bytes += n_tokens * engine.kv_token_bytes
    out = 2 * source
    into = 2 * state.replicas[i].memory + 1  # two lanes on the same devices have one link
    if engine.streamed == 1 and request.n_out == 1 and request.stage != EMBEDDED:
        began, ended = request.scheduled_ps, request.first_token_ps
        n_bytes -= transfer.hidden(state, out, n_bytes, engine.n_layers, began, ended)
    request.phase = FETCHING
    state.replicas[i].n_away += 1
    way_ps = regions.way(state, regions.of_replica(state, source), i)
    transfer.start(state, r, out, into, n_bytes, t, way_ps)


@jit
def unpack(request):
    """The embeddings of a request are where its prompt will be computed, which keeps n_due tokens
    of it."""
    request.stage, request.n_computed = PLAIN, request.n_due
    if request.recomputed == 0 and request.cached == 0:
        request.cached = request.n_due
    else:
        request.recomputed -= request.n_due


@jit
def arrive(state, t):
    """The KV of a request is where it goes on: its source is free of it, it may take a seat."""
    r = transfer.end_first(state, t)
    request = state.live[r]
    i = request.replica
    replica = state.replicas[i]
    if request.source >= 0:
        request.away_ps += t - request.left_ps
        lists.leave_source(state, r, t)
        if request.stage == EMBEDDED:
            unpack(request)
    elif climb(state, i, r, t):
        return
    else:
        come_up(state, i, r, t)
    replica.n_away -= 1
    lists.get_ready(state, i, r)
    prefix.settle(state, i)
    prefix.publish(state, i, r)
    wake(state, i, t)


@jit
def await_nets(state, i, r, have):
    """r has its blocks on replica i and waits for ControlNets that are on their way."""
    state.live[r].n_due = have
    state.replicas[i].n_coming += 1
    lists.get_ready(state, i, r)


@jit
def join_ready(state, i, t):
    """Requests whose KV (and ControlNets) have come take a seat, first come first."""
    replica = state.replicas[i]
    engine = state.engines[replica.pool]
    before, r = -1, replica.ready_head
    while r >= 0 and (state.live[r].aborted == 1 or replica.n_running < engine.max_seqs):
        request = state.live[r]
        after = request.chunk_next
        waits = state.clock[0].has_nets == 1 and nets.keeps_waiting(state, i, r, t)
        if waits and request.aborted == 0:
            before, r = r, after
            continue
        if before < 0:
            replica.ready_head = after
        else:
            state.live[before].chunk_next = after
        if after < 0:
            replica.ready_tail = before
        lists.start_running(state, i, r, t)
        lists.no_longer_due(state, i, r)
        if request.aborted == 1:
            state.load[OUTSTANDING_TOKENS, i] -= request.n_known - request.n_computed
            lists.end_running(state, i, r, t, lists.ABORTED)
        elif request.n_computed < request.n_known:
            lists.join_chunks(state, i, r)
        else:
            decoders.join_decoders(state, i, r)
        r = after


# -- from tiers -----------------------------------------------------------------------------------


@jit
def compute_ps(state, p, past, n_tokens):
    """Time to compute n_tokens of a prompt after `past` ones, in full steps of nothing else."""
    budget = state.engines[p].max_tokens
    total = 0
    while n_tokens > 0:
        q = min(n_tokens, budget)
        first, _, _ = prefill_cost(state, p, q, past)
        total += first + lookup(state.tokens_ps[p], q) + state.engines[p].host_step_ps
        past += q
        n_tokens -= q
    return total


@jit
def move_ps(state, i, s, n_tokens):
    """Time to bring n_tokens from tier s to replica i, at the share of its ports that one more
    transfer gets."""
    out, into = state.ports[2 * s], state.ports[tiers.way(state, i, s)]
    rate = min(out.bytes_per_ps / (out.n + 1), into.bytes_per_ps / (into.n + 1))
    n_bytes = float(n_tokens * tiers.token_bytes(state, i))
    return max(out.latency_ps, into.latency_ps) + math.ceil(n_bytes / rate)


@jit
def ask(state, i, r, s, c, n):
    """How many of the n prefix blocks of r from c on, which tier s keeps, the policy moves."""
    request, offer = state.live[r], state.offer[0]
    engine, tokens = state.engines[state.replicas[i].pool], state.clock[0].hash_tokens
    offer.tier, offer.n_blocks, offer.n_tokens = state.stores[s].depth, n, n * tokens
    offer.n_before = c * tokens
    offer.move_ps = move_ps(state, i, s, n * tokens)
    spared = n * tokens
    if engine.anywhere == 1:
        spared -= int(engine.again * spared)
    offer.compute_ps = compute_ps(state, state.replicas[i].pool, c * tokens, spared)
    taken = state.fetch(request, engine, offer, state.fetch_params)
    if 0 <= taken <= n:
        return taken
    clock = state.clock[0]
    clock.wrong_kind, clock.wrong_request = BAD_FETCH, request.request
    clock.wrong_value, clock.wrong_replica = taken, n
    return 0


@jit
def plan(state, i, r, here):
    """Tokens of r, beside its first `here` prefix blocks, that it need not compute because tiers
    keep them, as the policy decides; what is moved for them is noted in `to_fetch`.

    The blocks that follow those in memory; with reuse anywhere all that are kept, less the share
    that is computed again.
    """
    request, tokens = state.live[r], state.clock[0].hash_tokens
    engine = state.engines[state.replicas[i].pool]
    state.to_fetch[r, :] = 0
    most = min(request.n_hash, (request.n_known - 1) // tokens) if tokens > 0 else 0
    found = 0
    c = here
    while c < most:
        s = tiers.where(state, i, state.hashes[request.hash_at + c])
        n = 1
        while c + n < most and tiers.where(state, i, state.hashes[request.hash_at + c + n]) == s:
            n += 1
        taken = ask(state, i, r, s, c, n) if s >= 0 else 0
        if s >= 0:
            state.to_fetch[r, state.stores[s].depth] += taken * tokens
        found += taken * tokens
        if taken < n and engine.anywhere == 0:
            break
        c += n
    if engine.anywhere == 1:
        return found - int(engine.again * found)
    return found


@jit
def use(state, i, r):
    """The blocks that r brings from tiers have been used: they are dropped later than others."""
    request, tokens = state.live[r], state.clock[0].hash_tokens
    wanted = 0
    s = state.stores[i].below
    while s >= 0:
        state.stores[s].hit_tokens += state.to_fetch[r, state.stores[s].depth]
        wanted += state.to_fetch[r, state.stores[s].depth]
        s = state.stores[s].below
    c = request.n_shared
    while wanted > 0 and c < request.n_hash:
        key = state.hashes[request.hash_at + c]
        s = tiers.where(state, i, key)
        if s >= 0:
            store.touch(state, s, store.find(state, s, key))
            wanted -= tokens
        c += 1


@jit
def call_up(state, i, r, have, t):
    """r, which has its blocks on replica i, gets from tiers what makes its KV `have` tokens."""
    request, replica = state.live[r], state.replicas[i]
    tokens = state.clock[0].hash_tokens
    if request.swapped == 0:
        use(state, i, r)
    else:
        state.to_fetch[r, :] = 0
        footprint = min(have, kept(state, i, r))
        state.to_fetch[r, 0] = footprint - request.n_shared * tokens
        state.stores[state.stores[i].below].swap_tokens += state.to_fetch[r, 0]
    request.phase = FETCHING
    request.n_due = have
    replica.n_away += 1
    replica.n_coming += 1
    request.called_ps = t
    climb(state, i, r, t)


@jit
def climb(state, i, r, t):
    """Begin the next transfer of r from a tier to replica i; False when all has come."""
    s = state.stores[i].below
    while s >= 0 and state.to_fetch[r, state.stores[s].depth] == 0:
        s = state.stores[s].below
    if s < 0:
        return False
    d = state.stores[s].depth
    n_bytes = float(state.to_fetch[r, d] * tiers.token_bytes(state, i))
    state.to_fetch[r, d] = 0
    transfer.start(state, r, 2 * s, tiers.way(state, i, s), n_bytes, t, 0)
    return True


@jit
def come_up(state, i, r, t):
    """All that r wanted from tiers is in the memory of replica i."""
    request = state.live[r]
    state.stores[i].wait_ps += t - request.called_ps
    state.stores[i].n_waits += 1
    if request.swapped > 0:
        tiers.forget_swapped(state, r)
    else:
        lists.note_reuse(request, request.n_due)
    request.n_computed = request.n_due
