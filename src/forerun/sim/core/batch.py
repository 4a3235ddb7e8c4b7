"""One engine iteration: who is in the next step.

There is no prefill or decode phase: each request has n_computed chasing n_known.  A request with
more than one token to go computes a chunk; the others decode.

Legend: i replica, r slot, t picoseconds, p pool, b tokens a block, a adapter.
"""

from __future__ import annotations

from forerun.sim.core import (
    adapters,
    apart,
    decoders,
    denoise,
    encode,
    fair,
    fetch,
    lanes,
    nets,
    paging,
    prefix,
    tiers,
    tuning,
    turns,
)
from forerun.sim.core import live as lists
from forerun.sim.core import speculate as drafts
from forerun.sim.core.jit import jit
from forerun.sim.core.kv import FULL, blocks_for, kept, need, take
from forerun.sim.core.leap import price_leap
from forerun.sim.core.order import NEVER
from forerun.sim.core.rows_request import DECODING, EMBEDDED, ENCODING, PLAIN, WAITING
from forerun.sim.core.signatures import IF_NO_PREFILL, OUTSTANDING_TOKENS, YES
from forerun.sim.core.state import MISTAKE

BAD_BATCH = MISTAKE["batch"]


@jit
def preempt_one(state, i):
    """Take the blocks of the running request that the policy gives up first; returns its slot."""
    replica = state.replicas[i]
    victim = replica.run_head
    worst = state.preempt(state.live[victim], state.preempt_params)
    r = state.live[victim].next
    while r >= 0:
        score = state.preempt(state.live[r], state.preempt_params)
        if score >= worst:
            worst = score
            victim = r
        r = state.live[r].next
    request = state.live[victim]
    if request.phase == DECODING:
        decoders.leave_decoders(state, i, victim)
    else:
        lists.unlink_chunk(state, i, victim)
        state.load[OUTSTANDING_TOKENS, i] -= request.n_known - request.n_computed
    prefix.give_back(state, i, victim, request.n_blocks, request.n_shared)
    lists.unlink_running(state, i, victim)
    request.n_blocks = request.n_shared = 0
    if state.engines[replica.pool].swap == 1 and tiers.swap_out(state, i, victim):
        if request.phase == DECODING:
            request.n_known = request.n_computed  # it goes on decoding where it was
    else:
        lose(request)
    request.n_preempt += 1
    state.totals[i].n_preempt += 1
    if state.replicas[i].partner >= 0:
        lanes.send_back(state, i, victim)
    else:
        lists.enqueue(state, i, victim)
    return victim


@jit
def lose(request):
    """What a request had computed is to be computed again."""
    request.recomputed += request.n_computed
    request.n_computed = 0
    request.n_known = request.isl + request.n_out


@jit
def make_room(state, i, decoding, extra, r):
    """Preempt until the next decode step (if decoding is 1) and `extra` blocks for r fit.

    Stops when r (-1 for none) has itself been preempted.  Returns how many requests were.
    """
    replica = state.replicas[i]
    capacity = state.engines[replica.pool].n_blocks
    preempted = 0
    while replica.n_running > 0:
        wanted = extra
        if decoding == 1:
            wanted += need(state, i, 1, 0, 0) + replica.lookahead
        if replica.n_blocks + wanted <= capacity:
            break
        if replica.lookahead > 0:
            drafts.cancel(state, i)
            continue
        if r >= 0 and state.live[r].phase == WAITING:
            break
        preempt_one(state, i)
        preempted += 1
    return preempted


@jit
def grow_chunks(state, i, left, whole, decoding):
    """Give the requests that compute a chunk their tokens, in order of admission.

    Blocks of the chunks are taken here, those of the decode step are kept free.
    Returns (tokens left, requests preempted).
    """
    replica = state.replicas[i]
    engine = state.engines[replica.pool]
    b = engine.block_tokens
    preempted = 0
    r = replica.chunk_head
    while r >= 0:
        request = state.live[r]
        after = request.chunk_next
        q = request.n_known - request.n_computed
        if q > left and whole == 0:
            q = left
        elif q > left:
            again = request.n_preempt + request.n_retries > 0 and engine.denoises == 0
            q = left if again else 0
        if request.stage == ENCODING:
            q -= q % request.item_units  # items are computed whole
        request.chunk = q
        extra = blocks_for(min(request.n_computed, kept(state, i, r)) + q, b) - request.n_blocks
        if q > 0 and extra > 0:
            preempted += make_room(state, i, decoding, extra, r)
            if request.phase == WAITING:  # it had to give up its own blocks
                return left, preempted
            after = request.chunk_next  # those after it may have been preempted
            take(state, i, extra)
            request.n_blocks += extra
        left -= q
        r = after
    return left, preempted


@jit
def comes(state, i, r, here):
    """Tokens of r that are brought to replica i from elsewhere, beside its `here` prefix blocks."""
    request = state.live[r]
    kept = here * state.clock[0].hash_tokens
    if request.stage != PLAIN:
        return 0  # there is no KV yet
    if request.source >= 0:
        return request.n_computed - kept
    if request.swapped > 0 and request.n_computed > kept:
        return request.n_computed - kept
    if request.swapped > 0:  # others have computed as much of its prompt meanwhile
        tiers.forget_swapped(state, r)
        lose(request)
    anywhere = state.engines[state.replicas[i].pool].anywhere
    if state.stores[i].below < 0 or (state.stores[i].n_rows == 0 and anywhere == 0):
        return 0
    return fetch.plan(state, i, r, here)


@jit
def look_who_is_next(state, i):
    """The queue's head is the request that may start next, if one waits."""
    lists.drop_aborted_heads(state, i)
    if state.engines[state.replicas[i].pool].fair == 1:
        fair.choose(state, i, 0)


@jit
def count_prompt(state, i, r, have):
    """Its tenant is served what r's prompt takes to compute, once."""
    request = state.live[r]
    if request.charged == 0 and request.source < 0:
        request.charged = 1
        fair.charge(state, i, request.tenant, request.isl - have, 0)


@jit
def admit_waiting(state, i, t, left, whole, n_max, keep):
    """Start waiting requests, first come by the order's key, until one does not fit.

    keep : blocks that the decode step needs.
    Returns (tokens left, not 0 when the next step may admit more without any event: only n_max
    stopped it, or tiers may come to hold other blocks).
    """
    replica = state.replicas[i]
    engine = state.engines[replica.pool]
    b = engine.block_tokens
    admitted = 0
    unsettled = 1 if state.stores[i].below >= 0 else 0
    waits = False
    look_who_is_next(state, i)
    while replica.queue >= 0 and left > 0 and replica.n_running < engine.max_seqs:
        if admitted >= n_max:
            return left, admitted
        r = replica.queue
        request, a = state.live[r], adapters.of(state.live[r])
        if a >= 0 and not adapters.may_start(state, i, a, t):
            if not apart.put_aside(state, i, t):
                return left, unsettled
            look_who_is_next(state, i)
            continue
        if state.clock[0].has_nets == 1:
            if not nets.can_take(state, i, r, t):
                return left, unsettled
            waits = nets.keeps_waiting(state, i, r, t)
        here = prefix.leading(state, i, r)  # prefix blocks
        coming = comes(state, i, r, here)
        have = here * state.clock[0].hash_tokens + coming
        found = encode.found(state, i, r) if request.stage == ENCODING else 0
        have += found * request.item_units if found > 0 else 0
        brings = request.stage == EMBEDDED
        up = brings or (coming > 0 and request.source < 0)
        if (up or waits) and replica.n_running + replica.n_coming >= engine.max_seqs:
            return left, unsettled
        q = request.n_known - have
        if up:
            q = 0  # nothing is computed before it has come
        elif q > left:
            # what a request knew that starts again can outgrow a step: then it is cut, or it never
            # returned
            again = request.n_preempt + request.n_retries
            if whole == 1 and (again == 0 or q <= engine.max_tokens):
                return left, unsettled
            q = left
            if request.stage == ENCODING:
                q -= q % request.item_units
            if q == 0:
                return left, unsettled  # its first item does not fit beside the others
        footprint = min(have, kept(state, i, r))
        blocks = blocks_for(footprint + q, b)
        if engine.reserve == FULL:
            blocks = blocks_for(request.isl + request.osl - 1, b)
        elif engine.reserve > 0 or (up and engine.anywhere == 1):
            # what comes for blocks here and there stands among what is computed
            blocks = blocks_for(request.n_known, b)
        elif brings:
            # all its prompt will take, so that it waits no shorter when prefix blocks are dropped
            blocks = blocks_for(min(request.n_known, kept(state, i, r) + engine.max_tokens), b)
        shared = here * prefix.blocks_a_hash(state, i) if here > 0 else 0
        held = shared - prefix.idle_among(state, i, r, here) * (shared // max(here, 1))
        more = paging.wants(state, i, a) if a >= 0 else 0
        if replica.n_blocks + keep + blocks + more - held > engine.n_blocks - engine.watermark:
            return left, unsettled
        if state.admit(request, replica, engine, state.admit_params) == 0:
            return left, unsettled
        lists.dequeue(state, i)
        if here > 0:
            prefix.hold_leading(state, i, r, here)  # so that nothing else drops them
        if a >= 0:
            adapters.take(state, i, a, t)
        if state.clock[0].has_nets == 1:
            nets.take(state, i, r, t)
        request.n_blocks = blocks
        state.load[OUTSTANDING_TOKENS, i] -= have
        if up and not brings:
            # what makes room may send down what comes up: it is on its way before
            fetch.call_up(state, i, r, have, t)
        take(state, i, blocks - shared)
        if brings:
            encode.pull(state, i, r, have, t)
        elif request.source >= 0:
            fetch.pull(state, i, r, footprint - shared * b, t)
        elif not up:
            if request.stage == ENCODING:
                encode.take_found(state, i, r, found)
            lists.note_reuse(request, have if request.stage != ENCODING else 0)
            request.n_computed = have
            if waits:
                q = 0
                fetch.await_nets(state, i, r, have)
            else:
                lists.start_running(state, i, r, t)
                lists.join_chunks(state, i, r)
                request.chunk = q
        if state.clock[0].fair == 1:
            count_prompt(state, i, r, have)
        left -= q
        admitted += 1
        look_who_is_next(state, i)
    return left, 0


@jit
def any_chunk(state, i):
    """Whether some request computes a chunk in the step being formed."""
    r = state.replicas[i].chunk_head
    while r >= 0:
        if state.live[r].chunk > 0:
            return True
        r = state.live[r].chunk_next
    return False


@jit
def asks_otherwise(state, i, asked):
    """Not 0 when `batch` may shape the next step otherwise, now that somebody has started."""
    replica = state.replicas[i]
    engine = state.engines[replica.pool]
    if engine.draft_most > 0:
        return 1
    again = state.batch(replica, engine, state.batch_params)
    same = again[0] == asked[0] and again[1] == asked[1]
    return 0 if same and again[2] == asked[2] and again[3] == asked[3] else 1


@jit
def fill(state, i, t, alone):
    """Who computes what in the step of replica i that starts at t; nobody joins it where `alone`.

    Returns (1 if it decodes, not 0 when the next step may be another without any event).
    """
    replica = state.replicas[i]
    engine = state.engines[replica.pool]
    asked = state.batch(replica, engine, state.batch_params)
    decode, left, whole, n_max = asked
    if left + (replica.n_decode if decode == YES else 0) > engine.max_tokens:
        clock = state.clock[0]
        clock.wrong_kind, clock.wrong_replica, clock.wrong_value = BAD_BATCH, i, left
        return 0, 0
    if left < 0:
        left = 0
    decoding = 1 if decode == YES else 0
    preempted = make_room(state, i, decoding, 0, -1)
    wanted = 0
    if decoding == 1 and engine.draft_most > 0:
        wanted = drafts.choose(state, i, left)
        left = max(0, left - replica.n_draft)
    left, more = grow_chunks(state, i, left, whole, decoding)
    preempted += more
    stopped = 0
    if preempted == 0:
        keep = need(state, i, 1, 0, 0) + replica.lookahead if decoding == 1 else 0
        if turns.drains(state, i) or (alone == 1 and replica.n_running > 0):
            n_max = 0
        waiting = replica.n_waiting
        left, stopped = admit_waiting(state, i, t, left, whole, n_max, keep)
        if stopped == 0 and replica.n_waiting != waiting:
            stopped = asks_otherwise(state, i, asked)
    if decode == IF_NO_PREFILL and not any_chunk(state, i):
        decoding = 1
        preempted += make_room(state, i, 1, 0, -1)
        if engine.draft_most > 0:
            wanted = drafts.choose(state, i, 0)
    return decoding, preempted + stopped + wanted + alone


@jit
def form(state, i, t):
    """Shape the leap of replica i that starts at t; returns when it ends, NEVER if it idles."""
    replica = state.replicas[i]
    replica.n_steps = replica.denoised = replica.branch_ps = 0
    if t < replica.free_ps:
        return replica.free_ps
    were = turns.seen(replica)
    evicted = state.fitted[i].n_evicted
    has_encoded = replica.has_encoded  # nobody joins between the encoder's step and the model's
    replica.has_encoded = 0
    if replica.show_head >= 0:
        return denoise.show(state, i, t)
    lists.drop_aborted_heads(state, i)
    if replica.ready_head >= 0:
        fetch.join_ready(state, i, t)
    if replica.n_apart > 0 and not turns.drains(state, i):
        apart.call_back(state, i, t)
    decoding = unsettled = 0
    if replica.n_running > 0 or replica.n_waiting > 0:
        decoding, unsettled = fill(state, i, t, has_encoded)
        if state.clock[0].wrong_kind != 0:
            return NEVER
        if state.engines[replica.pool].encoder_row >= 0 and replica.n_chunks > 0:
            end = encode.step(state, i, t)
            if end >= 0:
                drafts.cancel(state, i)
                return end
        paged = state.engines[replica.pool].paged == 1 and replica.n_apart > 0
        if paged and state.fitted[i].n_evicted != evicted:
            unsettled += 1  # another adapter may have room now
        if replica.n_parked > 0 and turns.seen(replica) != were:
            unsettled += 1  # a turn policy sees that somebody started, or waits no longer
    elif not tuning.goes_on(state, i):
        return adapters.next_ready(state, i, t)
    return price_leap(state, i, t, decoding, unsettled)
