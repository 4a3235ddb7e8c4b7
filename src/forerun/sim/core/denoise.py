"""Requests whose answer is an image or a video: steps of denoising instead of tokens.

What such a request computes in each of its `osl` steps are the `isl` tokens of its latents (and of
the text that attends with them); nothing of it grows from step to step.  Its first step is computed
as a prompt is, whole: it joins at a boundary where the step has room for it.  From then on it is
among those who decode, each of whom counts with all its tokens.  Its text is encoded before, as
images in prompts are (`encode.py`).  After its last step its latents become pixels, in a step by
the costs of `shows_row`, and the request ends with that.

Legend: i replica, r slot, p row of costs, t picoseconds.
"""

from __future__ import annotations

from forerun.sim.core import adapters, branches
from forerun.sim.core import live as lists
from forerun.sim.core.clock import LONG, span, steps_to_reach
from forerun.sim.core.jit import jit
from forerun.sim.core.order import NEVER
from forerun.sim.core.price import lookup, own_ps
from forerun.sim.core.rows_log import STATUS
from forerun.sim.core.rows_request import DECODING, SHOWING
from forerun.sim.core.state import MISTAKE

FINISHED = STATUS["finished"]
STUCK = MISTAKE["stuck"]


@jit
def leap(state, i, t, decoding, unsettled):
    """Price the formed step of a replica that denoises; returns the end of the leap.

    A step is the same until somebody has had the last of its steps, or joins.
    """
    replica = state.replicas[i]
    p = replica.row
    engine = state.engines[p]
    replica.depth = replica.draft_tokens = 0
    n_decode = replica.n_decode if decoding == 1 else 0
    tokens = replica.ctx if decoding == 1 else 0
    n_chunks = 0
    chunk = 0
    first = 0
    r = replica.run_head
    while r >= 0:
        request = state.live[r]
        if request.phase == DECODING:
            first += decoding * own_ps(state, p, request.isl)
        elif request.chunk > 0:
            n_chunks += 1
            chunk += request.chunk
            first += own_ps(state, p, request.chunk)
        r = request.next
    n_seqs = n_decode + n_chunks
    ready_ps = adapters.next_ready(state, i, t)
    if n_seqs == 0:
        if replica.n_away == 0 and ready_ps == NEVER:
            clock = state.clock[0]
            clock.wrong_kind, clock.wrong_replica = STUCK, i
            clock.wrong_value = replica.n_waiting
        return ready_ps  # what else comes to it wakes the replica
    first += lookup(state.tokens_ps[p], tokens + chunk) + lookup(state.seqs_ps[p], n_seqs)
    first = max(first, engine.eager_ps)
    if engine.branch_row >= 0:
        first += branches.price(state, i, decoding, first, t)
    first += engine.host_step_ps + engine.host_seq_ps * n_seqs
    if engine.max_adapters > 0:
        first += adapters.price_denoising(state, i, decoding, t)
    steps = LONG
    if n_decode > 0:
        steps = state.last_step[i, 0] - replica.decoded
    if n_chunks > 0 or unsettled > 0 or engine.every_step == 1:
        steps = 1
    if engine.branch_at >= 0 and replica.branch_ps > 0:
        steps = 1  # others use the same devices
    steps = min(steps, engine.max_leap)
    if state.fitted[i].in_step_ps > 0:
        first += state.fitted[i].in_step_ps
        state.fitted[i].in_step_ps = 0
        steps = 1
    if ready_ps < NEVER:
        steps = steps_to_reach(first, 0, steps, ready_ps - t)
    begin(state, i, t, first, steps)
    replica.in_step, replica.n_seqs, replica.chunk = n_decode, n_seqs, chunk
    replica.denoised = tokens - n_decode
    return t + span(first, 0, steps)


@jit
def begin(state, i, t, first, steps):
    """Replica i begins equal steps at t."""
    replica = state.replicas[i]
    replica.start_ps, replica.first_ps, replica.slope_ps = t, first, 0
    replica.n_steps = steps
    replica.left_waiting = replica.n_waiting + replica.n_apart


@jit
def finish(state, i, r, t):
    """r, no longer among those who compute, has had its last step: it is shown, or it ends."""
    if state.engines[state.replicas[i].pool].shows_row < 0 or state.live[r].aborted == 1:
        lists.end_running(state, i, r, t, FINISHED)
        return
    state.live[r].phase = SHOWING
    state.live[r].chunk_next = state.replicas[i].show_head
    state.replicas[i].show_head = r


@jit
def show(state, i, t):
    """Shape the step in which the latents of all that are through become pixels; its end."""
    replica = state.replicas[i]
    row = state.engines[replica.pool].shows_row
    ps = state.engines[row].host_step_ps
    tokens = 0
    r = replica.show_head
    while r >= 0:
        tokens += state.live[r].isl
        ps += own_ps(state, row, state.live[r].isl)
        r = state.live[r].chunk_next
    replica.row = row
    begin(state, i, t, ps, 1)
    replica.in_step = replica.n_seqs = replica.chunk = 0
    replica.depth = replica.draft_tokens = 0
    replica.showing = tokens
    return t + ps


@jit
def n_to_show(state, i):
    """How many requests of replica i are through and not yet shown."""
    n = 0
    r = state.replicas[i].show_head
    while r >= 0:
        n += 1
        r = state.live[r].chunk_next
    return n


@jit
def settle(state, i, t):
    """The step of showing has ended: its requests are answered."""
    replica = state.replicas[i]
    encodes = state.encodes[i]
    encodes.n_shown += n_to_show(state, i)
    encodes.shown_tokens += replica.showing
    encodes.show_ps += t - replica.start_ps
    replica.showing = 0
    while replica.show_head >= 0:
        r = replica.show_head
        replica.show_head = state.live[r].chunk_next
        lists.end_running(state, i, r, t, FINISHED)


@jit
def stop_showing(state, i):
    """Replica i fails: those who were to be shown join those who compute, to be sent again."""
    replica = state.replicas[i]
    replica.showing = 0
    while replica.show_head >= 0:
        r = replica.show_head
        replica.show_head = state.live[r].chunk_next
        state.live[r].n_known = state.live[r].n_computed  # nothing of it is outstanding
        lists.join_chunks(state, i, r)


@jit
def start_over(state, r):
    """Latents that are lost are denoised again from the first step."""
    request = state.live[r]
    if state.engines[request.pool].denoises == 1:
        request.n_computed = request.isl * request.n_out
        state.clock[0].wasted_out += request.n_out
        request.n_out = 0
