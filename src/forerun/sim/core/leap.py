"""How long the step that was formed lasts, and for how many steps it stays the same.

Legend: i replica, r slot, t picoseconds, p row of costs, b tokens a block.
"""

from __future__ import annotations

from forerun.sim.core import adapters, denoise, encode, fair, lanes, prefix, tuning
from forerun.sim.core import speculate as drafts
from forerun.sim.core.clock import LONG, span, steps_to_reach
from forerun.sim.core.jit import jit
from forerun.sim.core.kv import blocks_for, idle_blocks, kept, steps_until_full
from forerun.sim.core.order import NEVER
from forerun.sim.core.price import decode_cost, lookup, prefill_cost, square_root
from forerun.sim.core.rows_fleet import NO_CAP
from forerun.sim.core.rows_request import ENCODING
from forerun.sim.core.state import MISTAKE

STUCK = MISTAKE["stuck"]


@jit
def leap(state, i, t, decoding, unsettled):
    """Price the formed step and find for how many steps it stays the same; returns the end.

    unsettled : not zero when the next step may admit more without any event.
    """
    replica = state.replicas[i]
    p = state.replicas[i].row
    engine = state.engines[p]
    clock = state.clock[0]
    b = engine.block_tokens
    n_decode = replica.n_decode if decoding == 1 else 0
    n_draft = replica.n_draft
    n_tokens = n_decode + n_draft
    n_seqs = n_decode
    first = 0
    slope = 0
    steps = LONG
    n_chunks = 0
    chunk = 0
    squares = 0
    past = 0
    lone_past = 0
    ends = False
    capped = False
    r = replica.chunk_head
    while r >= 0:
        request = state.live[r]
        q = request.chunk
        if q > 0:
            n_chunks += 1
            chunk += q
            squares += q * q
            most = kept(state, i, r)
            capped = capped or most < NO_CAP
            before = min(request.n_computed, most)
            past += before
            lone_past = before + q
            n_tokens += q
            rest = request.n_known - request.n_computed
            if request.n_items > 0:
                ends = True  # its next step may need another item, and its blocks were set aside
            if q >= rest:
                n_seqs += 1 if request.stage != ENCODING else 0
                ends = True
            else:
                steps = min(steps, (rest - 1) // q)
            if request.stage == ENCODING:
                first += encode.items_ps(state, p, q // request.item_units, request.item_units)
            elif engine.mixed_den == 0:
                more, grow, until = prefill_cost(state, p, q, before)
                first += more
                slope += grow
                steps = min(steps, until)
        r = request.chunk_next
    ready_ps = adapters.next_ready(state, i, t)
    tunes = engine.tunes == 1 and tuning.goes_on(state, i)
    away = replica.n_away > 0 or lanes.partner_holds(state, i)
    if n_tokens == 0 and not tunes and (away or ready_ps < NEVER):
        return ready_ps  # what holds the memory is on its way, and wakes the replica
    if n_tokens == 0 and not tunes:
        clock.wrong_kind, clock.wrong_replica, clock.wrong_value = STUCK, i, replica.n_waiting
        return NEVER
    if n_chunks > 0 and engine.mixed_den > 0:
        more, grow, until = prefill_cost(state, p, square_root(squares), past)
        if n_chunks > 1:
            more = more * engine.mixed_num // engine.mixed_den
            steps = 1
        first += more
        slope += grow
        steps = min(steps, until)
    first += lookup(state.tokens_ps[p], n_tokens)
    first += lookup(state.seqs_ps[p], n_seqs + n_draft)
    if n_decode > 0:
        row = p
        if n_chunks > 0:
            row = engine.mixed_row
            first += engine.mixed_cross_ps * n_decode * chunk
        more, grow, until = decode_cost(state, p, row, n_decode, replica.ctx, replica.n_reading)
        first += more
        slope += grow
        steps = min(steps, until)
        steps = min(steps, state.last_step[i, 0] - replica.decoded)
        if replica.n_picking > 0:
            pick_ps = state.pick_ps[p, replica.n_picking]
            first += engine.pick_step_ps + pick_ps * replica.scored
            slope += pick_ps * replica.n_scored
        if n_draft > 0:
            first += drafts.verify_ps(state, p, n_decode, n_draft, replica.ctx)
    if n_chunks > 0 and first < engine.eager_ps:
        first = engine.eager_ps
        if slope > 0:
            # where the device takes over is found step by step
            slope = 0
            steps = 1
    first += engine.host_step_ps + engine.host_seq_ps * n_seqs
    if engine.max_adapters > 0:
        first += adapters.price(state, i, decoding)
        if state.fitted[i].in_step_ps > 0:
            first += state.fitted[i].in_step_ps
            state.fitted[i].in_step_ps = 0
            steps = 1
    replica.depth = replica.draft_tokens = 0
    if engine.draft_most > 0 and n_draft + n_chunks > 0:
        first = drafts.beside(state, i, first)
    if ends or n_chunks > 1 or unsettled > 0 or engine.every_step == 1:
        steps = 1
    if replica.n_parked > 0 and engine.every_turn == 1:
        steps = 1
    cut = clock.hash_tokens > 0 or capped or replica.partner >= 0
    if n_chunks > 0 and (cut or engine.draft_row >= 0):
        # prefix blocks can be found from the boundary on that completes them; what a request keeps
        # is cut there
        steps = 1
    if engine.paged + engine.fair == 2 and replica.n_apart > 0:
        steps = 1  # whose adapter has to fit next is a matter of who has been served what
    steps = min(steps, engine.max_leap)
    if steps > 1:
        free = engine.n_blocks - replica.n_blocks
        if state.stores[i].below >= 0 and state.stores[i].n_idle > 0:
            # a step that sends prefix blocks down goes alone: others look at the tiers
            free -= state.stores[i].n_idle * prefix.blocks_a_hash(state, i)
        if state.fitted[i].idle_blocks > 0:
            # so does one that drops anything where adapters are among it: who waits may come to
            free = engine.n_blocks - replica.n_blocks - idle_blocks(state, i)
        # a lone chunk already holds the blocks of this step, so its growth counts from the next
        grown = chunk if engine.reserve == 0 else 0
        if n_decode > 0:
            steps = steps_until_full(state, i, steps, free, lone_past, grown)
        elif grown > 0:
            fits = free * b + blocks_for(lone_past, b) * b - lone_past
            steps = min(steps, 1 + fits // grown)
    replica.n_tune = replica.tune_added_ps = 0
    if tunes:
        replica.n_tune, replica.tune_added_ps, same = tuning.choose(
            state, i, n_tokens, first, slope
        )
        if n_tokens + replica.n_tune == 0:
            return ready_ps
        first += replica.tune_added_ps
        steps = min(steps, same)
    if ready_ps < NEVER:
        steps = steps_to_reach(first, slope, steps, ready_ps - t)
    seats = replica.n_running < engine.max_seqs
    if steps > 1 and engine.fair == 1 and replica.n_waiting > 0 and seats:
        steps = fair.steps_alike(state, i, steps)
    replica.start_ps = t
    replica.first_ps = first
    replica.slope_ps = slope
    replica.n_steps = steps
    replica.left_waiting = replica.n_waiting + replica.n_parked + replica.n_apart
    replica.in_step = n_decode
    replica.n_seqs = n_seqs
    replica.chunk = chunk
    replica.past = past
    return t + span(first, slope, steps)


@jit
def price_leap(state, i, t, decoding, unsettled):
    """The leap of the formed step with the costs of its row; of two lanes also with those of the
    row that holds when the other one starts or stops."""
    replica = state.replicas[i]
    replica.row = replica.pool
    if state.engines[replica.pool].denoises == 1:
        return denoise.leap(state, i, t, decoding, unsettled)
    again = 0
    if replica.partner >= 0:
        again = 1
        lanes.begin(state, i)
    while True:
        end = leap(state, i, t, decoding, unsettled)
        if again == 0:
            return end
        again = 0
        lanes.other_way(state, i)
