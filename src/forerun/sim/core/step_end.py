"""What a replica has done when its steps end: tokens, blocks, requests that finish or go on.

Legend: i replica, r slot of a live request, k steps, t picoseconds.
"""

from __future__ import annotations

from forerun.sim.core import (
    attempts,
    branches,
    caps,
    decoders,
    denoise,
    encode,
    fair,
    front,
    lanes,
    prefix,
    speculate,
    tuning,
)
from forerun.sim.core import live as lists
from forerun.sim.core.clock import span
from forerun.sim.core.jit import jit
from forerun.sim.core.kv import blocks_for, decode_blocks, kept, need, take
from forerun.sim.core.rows_fleet import ROLE
from forerun.sim.core.rows_log import STATUS
from forerun.sim.core.rows_request import DECODING, ENCODING
from forerun.sim.core.signatures import OUTSTANDING, OUTSTANDING_TOKENS

ABORTED = STATUS["aborted"]
PREFILL, ENCODE = ROLE["prefill"], ROLE["encode"]


@jit
def write_gap(state, i, t, gap_ps, count, resumed):
    """One row of unusually long gaps."""
    clock = state.clock[0]
    if clock.keep_leaps == 0:
        return
    row = state.gaps[clock.n_gaps]
    clock.n_gaps += 1
    row.end_ps, row.gap_ps, row.replica = t, gap_ps, i
    row.count, row.resumed = count, resumed


@jit
def write_leap(state, i, k):
    """One row for the k steps that replica i has completed."""
    clock = state.clock[0]
    if clock.keep_leaps == 0:
        return
    describe(state, i, k, state.leaps[clock.n_leaps])
    clock.n_leaps += 1


@jit
def under_way(state):
    """Put the steps that replicas are in into `in_steps`, as rows that end when they are planned
    to."""
    for i in range(state.replicas.shape[0]):
        row = state.in_steps[i]
        row.n_steps = 0
        if state.replicas[i].n_steps > 0:
            describe(state, i, state.replicas[i].n_steps, row)


@jit
def describe(state, i, k, row):
    """What the first k steps of replica i's leap are."""
    replica = state.replicas[i]
    row.start_ps, row.first_ps, row.slope_ps = replica.start_ps, replica.first_ps, replica.slope_ps
    row.n_steps, row.replica, row.pool = k, i, replica.row
    row.n_still = replica.n_decode - replica.n_reading if replica.in_step > 0 else 0
    row.n_tokens = replica.in_step + replica.chunk + replica.n_draft + replica.denoised
    row.n_seqs, row.n_decode = replica.n_seqs, replica.in_step
    encodes = state.engines[replica.pool].role == ENCODE
    n_chunks = 0
    r = replica.chunk_head
    while r >= 0:
        if state.live[r].chunk > 0:
            n_chunks += state.live[r].chunk // state.live[r].item_units if encodes else 1
        r = state.live[r].chunk_next
    row.n_chunks = n_chunks
    row.ctx = replica.ctx if replica.in_step > 0 else 0
    row.chunk, row.past = replica.chunk, replica.past
    row.n_waiting, row.n_running = replica.left_waiting, replica.n_running
    grown = replica.chunk if state.engines[replica.pool].reserve == 0 and k > 1 else 0
    row.n_blocks = replica.n_blocks
    if replica.in_step == replica.n_decode:  # else decoders sit this step out and take nothing
        row.n_blocks += need(state, i, k, replica.past + replica.chunk, grown) + replica.lookahead
    row.n_draft, row.n_extra, row.depth = replica.n_draft, 0, replica.depth
    row.draft_tokens = replica.draft_tokens
    row.n_tuned = replica.n_tune
    row.n_adapters, row.n_adapted = replica.n_adapters, replica.n_adapted
    if replica.n_encoding > 0:  # its row is that of the encoder
        row.n_tokens = row.chunk = replica.encoding
        row.n_chunks = replica.n_missed
    if replica.showing > 0:
        row.n_tokens = row.chunk = replica.showing
        row.n_chunks = denoise.n_to_show(state, i)
    row.scored = row.n_scored = row.n_picking = 0
    if replica.in_step > 0:
        row.scored, row.n_scored = replica.scored, replica.n_scored
        row.n_picking = replica.n_picking


@jit
def settle_gaps(state, i):
    """The first decode step of the leap has ended: gaps of those who had to wait for it."""
    replica = state.replicas[i]
    end = replica.start_ps + replica.first_ps
    veterans = replica.in_step - replica.n_fresh
    if veterans > 0:
        gap = end - replica.decoded_ps
        decoders.note_gap(state, i, replica.decoded + 1, gap)
        if gap != replica.first_ps:
            write_gap(state, i, end, gap, veterans, 0)
    count = 0
    same = 0
    for f in range(replica.n_fresh):
        request = state.live[state.fresh[i, f]]
        gap = end - request.last_token_ps
        request.max_itl_ps = max(request.max_itl_ps, gap)
        if gap != replica.first_ps:
            if count > 0 and gap != same:
                write_gap(state, i, end, same, count, 0)
                count = 0
            same = gap
            count += 1
    if count > 0:
        write_gap(state, i, end, same, count, 0)
    replica.n_fresh = 0


@jit
def complete(state, i, k):
    """Account for k steps of the leap in progress: tokens, blocks, and every request that ends."""
    replica = state.replicas[i]
    done = 0
    t = replica.start_ps
    while done < k:
        n = k - done
        if replica.partner >= 0:
            n = lanes.steps_alike(state, i, done, k)
        t = pass_steps(state, i, n)
        done += n
    while replica.in_step > 0 and replica.n_decode > 0:
        if state.last_step[i, 0] != replica.decoded:
            break
        r = state.last_member[i, 0]
        caps.stop_growing(state, i, r)
        if state.live[r].osl - state.live[r].n_out == replica.decoded - state.live[r].joined:
            decoders.leave_decoders(state, i, r)
            denoise.finish(state, i, r, t)
        else:
            caps.await_next_change(state, i, r, replica.decoded)
    reads = replica.n_encoding > 0 and state.engines[replica.pool].role == ENCODE
    if replica.chunk > 0 or reads:
        complete_chunks(state, i, k, t)
    if replica.n_encoding > 0:
        encode.settle(state, i)
    if replica.showing > 0:
        denoise.settle(state, i, t)
    replica.n_steps = 0
    replica.chunk = 0
    replica.ended_ps = t
    if replica.n_aborted > 0:
        sweep_aborted(state, i, t)
    return t


@jit
def pass_steps(state, i, k):
    """The first k steps of the leap in progress are over: their row, their tokens, their blocks.

    Returns when the last of them ended.
    """
    replica = state.replicas[i]
    totals = state.totals[i]
    t = replica.start_ps + span(replica.first_ps, replica.slope_ps, k)
    totals.busy_ps += t - replica.start_ps
    if replica.n_encoding > 0:
        state.encodes[i].busy_ps += t - replica.start_ps
    totals.n_steps += k
    totals.n_tokens += k * (replica.in_step + replica.chunk + replica.denoised) + replica.n_draft
    write_leap(state, i, k)
    if k > 1 and replica.chunk > 0:
        note_peak(state, i, k)
    if replica.branch_ps > 0:
        branches.note(state, i, k)
    if replica.n_tune > 0:
        tuning.note(state, i, k, t - replica.start_ps)
    if replica.in_step > 0:
        take(state, i, decode_blocks(state, i, k) + replica.lookahead)
        settle_gaps(state, i)
        if k > 1:
            last = replica.first_ps + (k - 1) * replica.slope_ps
            decoders.note_gap(state, i, replica.decoded + k, last)
        replica.decoded += k
        replica.decoded_ps = t
        replica.ctx += k * replica.n_reading
        replica.scored += k * replica.n_scored
        totals.n_out += k * replica.n_decode
        if replica.n_draft > 0:
            n_extra = speculate.settle(state, i)
            if state.clock[0].keep_leaps == 1:
                state.leaps[state.clock[0].n_leaps - 1].n_extra = n_extra
    return t


@jit
def note_peak(state, i, k):
    """The blocks that k steps with a growing chunk had in use, before any of them are let go."""
    replica = state.replicas[i]
    grown = replica.chunk if state.engines[replica.pool].reserve == 0 else 0
    if replica.in_step == replica.n_decode:
        in_use = replica.n_blocks + need(state, i, k, replica.past + replica.chunk, grown)
        state.totals[i].peak_blocks = max(state.totals[i].peak_blocks, in_use)


@jit
def complete_chunks(state, i, k, t):
    """Advance the requests that computed chunks; those that are through give a token at t."""
    replica = state.replicas[i]
    b = state.engines[replica.pool].block_tokens
    r = replica.chunk_head
    while r >= 0:
        request = state.live[r]
        after = request.chunk_next
        tokens = k * request.chunk
        request.chunk = 0
        request.n_computed += tokens
        if tokens > 0 and request.stage == ENCODING:
            encode.note(state, i, tokens // request.item_units, request.item_units)
        elif tokens > 0:
            drafts = state.engines[replica.pool].draft_row >= 0
            request.draft_at = request.n_computed if drafts else 0
        state.load[OUTSTANDING_TOKENS, i] -= tokens
        keeps = kept(state, i, r)
        extra = blocks_for(min(request.n_computed, keeps), b) - request.n_blocks
        if extra > 0 or request.n_computed > keeps:
            request.n_blocks += extra
            take(state, i, extra)
        prefix.publish(state, i, r)
        if (tokens > 0 or request.encoding > 0) and request.n_computed == request.n_known:
            lists.unlink_chunk(state, i, r)
            if request.stage == ENCODING:
                if request.aborted == 1:
                    lists.end_running(state, i, r, t, ABORTED)
                else:
                    hand_on(state, i, r, t)
                r = after
                continue
            request.n_out += 1
            state.totals[i].n_out += 1
            if state.clock[0].fair == 1:
                fair.charge(state, i, request.tenant, 0, 1)
            if request.first_token_ps < 0:
                request.first_token_ps = t
                if state.clock[0].hedge_first == 1:
                    attempts.win(state, r, t)
            else:
                gap = t - request.last_token_ps
                request.max_itl_ps = max(request.max_itl_ps, gap)
                write_gap(state, i, t, gap, 1, 1)
            request.last_token_ps = t
            if request.n_out == request.osl or request.aborted == 1:
                denoise.finish(state, i, r, t)
            elif state.replicas[i].partner >= 0:
                lanes.hand_over(state, i, r, t)
            elif state.engines[replica.pool].role == PREFILL:
                hand_on(state, i, r, t)
            else:
                decoders.join_decoders(state, i, r)
        r = after


@jit
def hand_on(state, i, r, t):
    """r goes on elsewhere; its KV stays on replica i until it has been moved."""
    let_go(state, i, r, t)
    front.send(state, r, t)


@jit
def let_go(state, i, r, t):
    """r runs no more on replica i, which keeps its KV until it has been moved."""
    request = state.live[r]
    replica = state.replicas[i]
    lists.unlink_running(state, i, r)
    if request.stage == ENCODING:
        encode.finish(state, i, r)
    else:
        request.n_known = request.n_computed
    request.source, request.left_ps = i, t
    if state.engines[replica.pool].role == PREFILL:
        request.prefill_replica = i
    request.n_left, request.n_left_shared = request.n_blocks, request.n_shared
    request.n_blocks = request.n_shared = 0
    replica.n_away += 1
    state.totals[i].n_moved += 1
    state.load[OUTSTANDING, i] -= 1


@jit
def sweep_aborted(state, i, t):
    """Drop the running requests whose clients have gone away."""
    replica = state.replicas[i]
    r = replica.run_head
    while r >= 0:
        after = state.live[r].next
        if state.live[r].aborted == 1:
            if state.live[r].phase == DECODING:
                decoders.leave_decoders(state, i, r)
            else:
                lists.unlink_chunk(state, i, r)
                left = state.live[r].n_known - state.live[r].n_computed
                state.load[OUTSTANDING_TOKENS, i] -= left
            lists.end_running(state, i, r, t, ABORTED)
        r = after
    replica.n_aborted = 0
