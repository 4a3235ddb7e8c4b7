"""Adapters (LoRA): what a replica keeps of them, how they come, what they add to a step.

A replica has slots for a few adapters; others come from its host, one after another, and the one
that was used longest ago makes room; or adapters take blocks of the KV cache (`paging`).  An
adapter that somebody runs with stays.  A request whose adapter is not there, or would be one too
many in the batch, waits (`apart`).  The end of a load is known when it begins: a boundary, not an
event.

Legend: i replica, r slot of a request, a adapter, t picoseconds.
"""

from __future__ import annotations

from forerun.sim.core import paging, prefix, tiers
from forerun.sim.core.jit import jit
from forerun.sim.core.kv import blocks_now, idle_blocks
from forerun.sim.core.kv import take as take_blocks
from forerun.sim.core.order import NEVER
from forerun.sim.core.rows_request import DECODING, ENCODING, SHOWING
from forerun.sim.core.wake import cut_leap


@jit
def of(request):
    """The adapter that what a request has to compute next needs; -1 none: encoders have none."""
    return -1 if request.stage == ENCODING else request.adapter


@jit
def next_ready(state, i, t):
    """When the next adapter or ControlNet that is on its way to replica i is there, or an adapter
    so near that requests start without it; NEVER when none is."""
    first = NEVER
    if state.fitted[i].free_ps > t:
        for a in range(state.slots.shape[1]):
            slot = state.slots[i, a]
            if slot.held == 1 and slot.ready_ps > t:
                early_ps = slot.ready_ps
                if a < state.clock[0].first_net:
                    early_ps -= state.engines[state.replicas[i].pool].early_ps
                first = min(first, early_ps if early_ps > t else slot.ready_ps)
    return first


@jit
def load_ps(state, i, p, a):
    """Picoseconds that adapter a takes to replica i as row p: from its host, or to there first."""
    far = state.engines[p].host_slots > 0 and state.slots[i, a].host == 0
    return state.adapter_ps[p, a, 0] + (state.adapter_ps[p, a, 1] if far else 0)


@jit
def until_ready(state, i, request, t):
    """Picoseconds from t until replica i could run a request's adapter, if it has room for it."""
    p, a = state.serves[state.replicas[i].pool, request.model], of(request)
    if a < 0 or p < 0:
        return 0
    slot, free_ps = state.slots[i, a], state.fitted[i].free_ps
    if slot.held == 1:
        return max(0, slot.ready_ps - t)
    return load_ps(state, i, p, a) + (max(0, free_ps - t) if state.engines[p].in_step == 0 else 0)


@jit
def place_for(state, i, t):
    """An adapter whose slot on replica i another one can have; -1: one is free, -2: none can.

    Nobody runs with it; where loading goes on beside steps, nobody waits for it either.
    """
    engine = state.engines[state.replicas[i].pool]
    if state.fitted[i].n_held < engine.n_slots:
        return -1
    alone = engine.in_step == 0 and engine.in_order == 0
    chosen = -2
    for a in range(state.clock[0].first_net):
        slot = state.slots[i, a]
        if slot.held == 0 or slot.n_using > 0 or slot.ready_ps > t:
            continue
        if alone and slot.n_waiting > 0:
            continue
        if chosen < 0 or slot.used < state.slots[i, chosen].used:
            chosen = a
    return chosen


@jit
def make_place(state, i, a, t):
    """Adapter a can have a slot of replica i, or blocks: idle ones make room.  False: it cannot."""
    fitted = state.fitted[i]
    if state.engines[state.replicas[i].pool].paged == 1:
        return make_blocks(state, i, a)
    old = place_for(state, i, t)
    if old >= 0:
        state.slots[i, old].held = 0
        fitted.n_held -= 1
        fitted.n_evicted += 1
    return old > -2


@jit
def make_blocks(state, i, a):
    """The same in the KV cache.  Where loading goes on beside steps, no adapter that somebody waits
    for makes room for another."""
    p, fitted = state.replicas[i].pool, state.fitted[i]
    engine = state.engines[p]
    prefix.settle(state, i)
    alone = engine.in_step == 0 and engine.in_order == 0
    room = engine.n_blocks - engine.watermark - state.adapter_blocks[p, a] - blocks_now(state, i)
    if room < (paging.waited_for(state, i) if alone else 0):
        return False
    while idle_blocks(state, i) > room:
        out = paging.next_out(state, i)
        if out >= 0:
            paging.drop(state, i, out)
            fitted.n_evicted += 1
        else:
            tiers.drop(state, i)
    state.slots[i, a].blocks = state.adapter_blocks[p, a]
    fitted.idle_blocks += state.slots[i, a].blocks
    return True


@jit
def begin(state, i, a, t):
    """Adapter a is fetched for replica i if there is room; True when it is on its way."""
    if not make_place(state, i, a, t):
        return False
    load(state, i, state.replicas[i].pool, state.fitted[i], a, t)
    return True


@jit
def load(state, i, p, kept, a, t):
    """a, an adapter or a ControlNet, is fetched for replica i, which has room for it.

    p, kept : the row of its settings, and what is counted of its kind.
    """
    slot, line = state.slots[i, a], state.fitted[i]
    spent = load_ps(state, i, p, a)
    use_host(state, i, p, kept, a)
    kept.ticks += 1
    slot.held, slot.used = 1, kept.ticks
    kept.n_held += 1
    kept.most_held = max(kept.most_held, kept.n_held)
    kept.n_loads += 1
    kept.load_ps += spent
    kept.bytes += state.adapters[a].bytes
    if state.engines[p].in_step == 1:
        line.in_step_ps += spent
        slot.ready_ps = t
    else:
        line.free_ps = max(line.free_ps, t) + spent
        slot.ready_ps = line.free_ps


@jit
def use_host(state, i, p, kept, a):
    """The host of replica i has a; of its kind the one used longest ago makes room there."""
    slot, first_net = state.slots[i, a], state.clock[0].first_net
    most = state.engines[p].host_slots
    if most == 0:
        return
    kept.ticks += 1
    if slot.host == 0:
        kept.n_far += 1
        kept.n_host += 1
        if kept.n_host > most:
            oldest = -1
            for b in range(state.slots.shape[1]):
                host = state.slots[i, b].host if (b < first_net) == (a < first_net) else 0
                if host > 0 and (oldest < 0 or host < state.slots[i, oldest].host):
                    oldest = b
            state.slots[i, oldest].host = 0
            kept.n_host -= 1
    slot.host = kept.ticks


# -- who may start, and who runs with one ----------------------------------------------------------


@jit
def come(state, i, r, t):
    """r, which wants an adapter, is in the queue of replica i; its adapter is fetched if it can."""
    a = state.live[r].adapter
    slot, engine = state.slots[i, a], state.engines[state.replicas[i].pool]
    slot.n_waiting += 1
    state.fitted[i].n_asked += 1
    if slot.held == 1 and slot.ready_ps <= t:
        state.fitted[i].n_there += 1
    alone = engine.in_step == 0 and engine.in_order == 0
    stays = state.live[r].model == engine.model  # and is not about to make room for another one
    stays = stays and state.engines[state.replicas[i].next_pool].model == engine.model
    early = slot.held == 0 and alone and stays and state.replicas[i].n_apart == 0
    if early and begin(state, i, a, t) and state.replicas[i].n_steps > 0:
        cut_leap(state, i, t if engine.paged == 1 else slot.ready_ps)  # it counted on the blocks


@jit
def may_start(state, i, a, t):
    """Whether a request for adapter a can join the batch of replica i at t."""
    slot, engine = state.slots[i, a], state.engines[state.replicas[i].pool]
    if slot.n_using == 0 and state.fitted[i].n_active >= engine.max_adapters:
        return False
    if slot.held == 1:
        return slot.ready_ps <= t + engine.early_ps
    # in blocks it needs room as KV does, which whoever starts it looks for
    return engine.in_step == 1 and (engine.paged == 1 or place_for(state, i, t) > -2)


@jit
def take(state, i, a, t):
    """One more request runs with adapter a on replica i, which it may."""
    slot = state.slots[i, a]
    if slot.held == 0:
        begin(state, i, a, t)
    if slot.n_using == 0:
        state.fitted[i].n_active += 1
    slot.n_using += 1
    if slot.n_using == 1 and slot.blocks > 0:
        state.fitted[i].idle_blocks -= slot.blocks
        take_blocks(state, i, slot.blocks)


@jit
def leave(state, i, a):
    """One request less runs with adapter a on replica i."""
    fitted, slot = state.fitted[i], state.slots[i, a]
    slot.n_using -= 1
    if slot.n_using == 0:
        fitted.n_active -= 1
        fitted.ticks += 1
        slot.used = fitted.ticks
        if slot.blocks > 0:
            fitted.idle_blocks += slot.blocks
            take_blocks(state, i, -slot.blocks)
            at_once = state.engines[state.replicas[i].pool].leaves == paging.AT_ONCE
            if at_once and slot.n_waiting == 0:
                paging.drop(state, i, a)


@jit
def fall(state, i):
    """Replica i has lost its adapters, and those on its host."""
    fitted = state.fitted[i]
    fitted.free_ps = fitted.in_step_ps = fitted.n_host = 0
    for a in range(state.clock[0].first_net):
        slot = state.slots[i, a]
        slot.host = 0
        if slot.held == 1 and slot.n_using == 0:
            paging.drop(state, i, a)


# -- what they cost -------------------------------------------------------------------------------


@jit
def decode(state, i, a, n):
    """n (1 or -1) more requests decode with adapter a on replica i."""
    fitted, slot = state.fitted[i], state.slots[i, a]
    rank = state.adapters[a].rank
    before = slot.n_decoding
    slot.n_decoding += n
    fitted.n_decode += n
    fitted.decode_ranks += n * rank
    if before == 0 or slot.n_decoding == 0:
        fitted.n_distinct += n
        fitted.distinct_ranks += n * rank


@jit
def price_denoising(state, i, decoding, t):
    """The same as `price` where each request in the step computes all its tokens.

    Those whose adapter is still on its way run without it.
    """
    replica, fitted = state.replicas[i], state.fitted[i]
    engine = state.engines[replica.pool]
    n = tokens = ranks = work = 0
    fitted.rounds += 1
    r = replica.run_head
    while r >= 0:
        request = state.live[r]
        mine = decoding if request.phase == DECODING else min(request.chunk, 1)
        if mine == 1 and request.adapter >= 0 and request.phase != SHOWING:
            slot, rank = state.slots[i, request.adapter], state.adapters[request.adapter].rank
            if slot.ready_ps <= t:
                tokens += request.isl
                work += request.isl * rank
                if slot.seen != fitted.rounds:
                    slot.seen = fitted.rounds
                    n += 1
                    ranks += rank
        r = request.next
    return added(state, i, engine, n, tokens, ranks, work)


@jit
def price(state, i, decoding):
    """Picoseconds that adapters add to the step that replica i is forming.

        launches + max(ranks read * their time + tokens * theirs, tokens * ranks * flop time)

    Ranks are read once for each adapter in the step, or (`gathered`) for each of its tokens.
    """
    replica, fitted = state.replicas[i], state.fitted[i]
    engine = state.engines[replica.pool]
    n = tokens = ranks = work = 0
    if decoding == 1:
        n, tokens = fitted.n_distinct, fitted.n_decode
        ranks, work = fitted.distinct_ranks, fitted.decode_ranks
        tokens += fitted.n_draft
        work += fitted.draft_ranks
    fitted.rounds += 1
    r = replica.chunk_head
    while r >= 0:
        request = state.live[r]
        if request.chunk > 0 and of(request) >= 0:
            slot, rank = state.slots[i, request.adapter], state.adapters[request.adapter].rank
            tokens += request.chunk
            work += request.chunk * rank
            if slot.seen != fitted.rounds and (decoding == 0 or slot.n_decoding == 0):
                slot.seen = fitted.rounds
                n += 1
                ranks += rank
        r = request.chunk_next
    return added(state, i, engine, n, tokens, ranks, work)


@jit
def added(state, i, engine, n, tokens, ranks, work):
    """What n adapters of so many ranks add for so many tokens; noted for the log."""
    replica = state.replicas[i]
    replica.n_adapters, replica.n_adapted = n, tokens
    return cost_ps(engine, n, tokens, ranks, work)


@jit
def cost_ps(engine, n, tokens, ranks, work):
    """What n adapters add to a step of `engine`, as in `price`."""
    if n == 0:
        return 0
    read = work if engine.gathered == 1 else ranks
    memory = read * engine.rank_ps + tokens * engine.adapted_ps
    return engine.adapter_launch_ps + max(memory, work * engine.rank_flop_ps)
