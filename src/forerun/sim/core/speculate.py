"""Speculation: tokens are proposed, a step verifies them, those found right come with its end.

All decoders take one token a step as ever; an accepted token is an extra one after the step, which
brings the request's last step nearer and moves its residue.  Whether a proposed token is right
belongs to its request and place in the answer, not to the step or the replica that asks.

Legend: i replica, p pool, r slot, k tokens in a row (or levels of a tree) proposed, a of them
accepted, n decoders, c cached tokens.
"""

from __future__ import annotations

from forerun.sim.core import adapters, caps, fair
from forerun.sim.core.jit import jit
from forerun.sim.core.kv import FULL, blocks_for, kept, need, take
from forerun.sim.core.order import NEVER
from forerun.sim.core.price import decode_cost, lookup, prefill_cost
from forerun.sim.core.rng import draw
from forerun.sim.core.rows_request import DECODING
from forerun.sim.core.signatures import OUTSTANDING_TOKENS
from forerun.sim.core.state import MISTAKE

BAD_DRAFT = MISTAKE["speculate"]
RECENT = 0.97  # weight of a round in the next one's `recent_*`: some thirty count


# -- before a step: how many tokens are proposed ---------------------------------------------------


@jit
def choose(state, i, room):
    """Ask the policy for every decoder of the step; keep slots free for what it proposes.

    room : prompt tokens that the step could compute.
    Cut to what the request still wants, to the tokens of a step and to free blocks: nobody is
    preempted for a proposal.  Returns 1 when the policy wants any.
    """
    replica = state.replicas[i]
    p = replica.pool
    engine = state.engines[p]
    if replica.n_decode == 0:
        return 0
    left = engine.max_tokens - replica.n_decode
    free = engine.n_blocks - replica.n_blocks - need(state, i, 1, 0, 0)
    if engine.draft_priced == 1:
        quote(state, i, room)
    wanted = 0
    r = replica.run_head
    while r >= 0:
        request = state.live[r]
        if request.phase == DECODING:
            k = state.speculate(request, replica, engine, state.draft_ps, state.speculate_params)
            if k < 0 or k > engine.draft_most:
                clock = state.clock[0]
                clock.wrong_kind, clock.wrong_request = BAD_DRAFT, request.request
                clock.wrong_replica, clock.wrong_value = i, k
                return 0
            if k > 0:
                wanted = 1
            k = min(k, request.osl - request.n_out - (replica.decoded - request.joined) - 1)
            while k > 0 and (state.draft_nodes[p, k] > left or slots(state, i, r, k) > free):
                k -= 1
            if k > 0:
                request.draft = k
                left -= state.draft_nodes[p, k]
                free -= slots(state, i, r, k)
                replica.n_draft += state.draft_nodes[p, k]
                replica.lookahead += slots(state, i, r, k)
                if request.adapter >= 0:
                    adapt(state, i, request, 1)
        r = request.next
    return wanted


@jit
def adapt(state, i, request, sign):
    """What is proposed for a request is verified with its adapter (sign 1), or no more (-1)."""
    n = sign * state.draft_nodes[state.replicas[i].pool, request.draft]
    state.fitted[i].n_draft += n
    state.fitted[i].draft_ranks += n * state.adapters[request.adapter].rank


@jit
def slots(state, i, r, k):
    """Blocks that r needs beyond its next step's own when k tokens in a row are proposed.

    What it keeps is cut after the step, not before all of them are verified.
    """
    replica = state.replicas[i]
    engine = state.engines[replica.pool]
    request = state.live[r]
    b = engine.block_tokens
    after = min(request.n_computed + replica.decoded - request.joined + 1, request.keeps)
    held = blocks_for(after, b)
    if engine.reserve == FULL:
        held = max(held, request.n_blocks)
    return max(0, blocks_for(after + state.draft_nodes[replica.pool, k], b) - held)


@jit
def drop(state, i, r):
    """Nothing is proposed for r after all."""
    replica = state.replicas[i]
    request = state.live[r]
    replica.n_draft -= state.draft_nodes[replica.pool, request.draft]
    replica.lookahead -= slots(state, i, r, request.draft)
    if request.adapter >= 0:
        adapt(state, i, request, -1)
    request.draft = 0


@jit
def cancel(state, i):
    """Nothing is proposed in the step being formed: others need the memory."""
    r = state.replicas[i].run_head
    while r >= 0:
        if state.live[r].draft > 0:
            drop(state, i, r)
        r = state.live[r].next


# -- what it takes ---------------------------------------------------------------------------------


@jit
def queries_ps(state, row, p, n, queries, c):
    """Attention of n requests with c cached tokens in all and so many queries in all, >= n.

    Tables at row, row + 1, .. are of 1, 2, 4, .. queries a request; straight lines between them, so
    that a cost with a bend is not less, and beyond the last.  p : the row of the knots.
    """
    j = 0
    while j < state.clock[0].n_verify - 2 and n << (j + 1) <= queries:
        j += 1
    low, _, _ = decode_cost(state, p, row + j, n, c, n)
    high, _, _ = decode_cost(state, p, row + j + 1, n, c, n)
    return low + (high - low) * (queries - (n << j)) // (n << j)


@jit
def verify_ps(state, p, n, n_draft, c):
    """What attention takes more for n_draft queries beside one of each of n decoders."""
    row = state.engines[p].verify_row
    with_draft = queries_ps(state, row, p, n, n + n_draft, c)
    return with_draft - queries_ps(state, row, p, n, n, c)


@jit
def pass_ps(state, p, n, tokens, proposed, c):
    """One pass of the draft of pool p: `tokens` of n requests go in, `proposed` are sampled from.

    c : cached tokens of the n requests, all together.
    """
    engine = state.engines[p]
    row = engine.draft_row
    full = tokens // engine.draft_tokens
    rest = tokens - full * engine.draft_tokens
    time = full * lookup(state.tokens_ps[row], engine.draft_tokens)
    time += lookup(state.tokens_ps[row], rest) + lookup(state.seqs_ps[row], proposed)
    return time + queries_ps(state, engine.draft_verify_row, row, n, tokens, c)


@jit
def passes_ps(state, i):
    """All passes of the draft for the step of replica i, one after another; notes their depth.

    The first one also takes in what the draft has missed: the last token of a proposal that was
    right throughout, and all tokens of steps in which nothing was proposed.
    """
    replica = state.replicas[i]
    p = replica.pool
    engine = state.engines[p]
    count = state.drafting
    count[:] = 0
    missed = 0
    r = replica.run_head
    while r >= 0:
        request = state.live[r]
        if request.draft > 0:
            count[request.draft] += 1
            missed += request.n_computed + replica.decoded - request.joined - request.draft_at
        r = request.next
    for k in range(engine.draft_most, 0, -1):
        count[k] += count[k + 1]
    time = engine.draft_seq_ps * count[1]
    k = 1
    while k <= engine.draft_most and count[k] > 0:
        if engine.draft_row >= 0:
            proposed = count[k] * state.draft_level[p, k - 1]
            tokens = proposed + (missed if k == 1 else 0)
            c = replica.ctx * count[k] // replica.n_decode + count[k] * (k - 1)
            time += engine.draft_step_ps + pass_ps(state, p, count[k], tokens, proposed, c)
            replica.draft_tokens += tokens
        replica.depth = k
        k += 1
    return time


@jit
def prompts_ps(state, i):
    """What the draft takes to compute the step's chunks of prompts too."""
    replica = state.replicas[i]
    engine = state.engines[replica.pool]
    row = engine.draft_row
    time = 0
    tokens = 0
    r = replica.chunk_head
    while r >= 0:
        request = state.live[r]
        if request.chunk > 0:
            tokens += request.chunk
            before = min(request.n_computed, kept(state, i, r))
            more, _, _ = prefill_cost(state, row, request.chunk, before)
            time += more
        r = request.chunk_next
    if tokens > 0:
        time += engine.draft_step_ps + lookup(state.tokens_ps[row], tokens)
    return time


@jit
def beside(state, i, first):
    """The time of the step that takes the target `first`, with what its draft does for it.

    A draft on devices of its own computes prompts meanwhile; the target waits for its proposals.
    """
    replica = state.replicas[i]
    engine = state.engines[replica.pool]
    prompts = prompts_ps(state, i) if engine.draft_row >= 0 else 0
    time = max(first, prompts) if engine.draft_apart == 1 else first + prompts
    if replica.n_draft > 0:
        time += passes_ps(state, i) + engine.draft_trip_ps
    return time


@jit
def quote(state, i, room):
    """What decoding would take in the next step at each k, the same for all decoders.

    At 0 it is a step without prompts; what proposals add is told beside those prompt tokens that
    wait, as far as `room` goes, which leave the device less to spare.
    """
    replica = state.replicas[i]
    p = replica.pool
    engine = state.engines[p]
    n = replica.n_decode
    alone, _, _ = decode_cost(state, p, p, n, replica.ctx, n)
    alone += engine.host_step_ps + engine.host_seq_ps * n
    if replica.n_picking > 0:
        alone += engine.pick_step_ps + state.pick_ps[p, replica.n_picking] * replica.scored
    beside = 0
    if replica.n_chunks > 0 or (replica.n_waiting > 0 and replica.n_running < engine.max_seqs):
        most = engine.max_tokens - n * (1 + state.draft_nodes[p, engine.draft_most])
        beside = min(min(room, state.load[OUTSTANDING_TOKENS, i]), most)
    beside = max(beside, 0)
    alone += lookup(state.tokens_ps[p], n) - lookup(state.tokens_ps[p], n + beside)
    drafts = 0
    for k in range(engine.draft_most + 1):
        tokens = n * (1 + state.draft_nodes[p, k])
        if k > 0 and engine.draft_row >= 0:
            proposed = n * state.draft_level[p, k - 1]
            c = replica.ctx + n * (k - 1)
            drafts += engine.draft_step_ps + pass_ps(state, p, n, proposed, proposed, c)
        if k == 1:
            drafts += engine.draft_seq_ps * n + engine.draft_trip_ps
        if tokens > engine.max_tokens:
            state.draft_ps[k] = NEVER
        else:
            time = alone + lookup(state.tokens_ps[p], tokens + beside)
            time += lookup(state.seqs_ps[p], tokens)
            if k > 0:
                time += verify_ps(state, p, n, tokens - n, replica.ctx)
            if engine.max_adapters > 0:
                time += adapted_ps(state, i, 1 + state.draft_nodes[p, k])
            state.draft_ps[k] = time + drafts


@jit
def adapted_ps(state, i, queries):
    """What the adapters of replica i's decoders add to a step with so many tokens of each."""
    fitted = state.fitted[i]
    tokens, work = fitted.n_decode * queries, fitted.decode_ranks * queries
    engine = state.engines[state.replicas[i].pool]
    return adapters.cost_ps(engine, fitted.n_distinct, tokens, fitted.distinct_ranks, work)


# -- after a step: which of them were right --------------------------------------------------------


@jit
def settle(state, i):
    """The step has verified its proposals; returns how many tokens were accepted."""
    replica = state.replicas[i]
    blocks = -replica.lookahead
    n_extra = 0
    r = replica.run_head
    while r >= 0:
        request = state.live[r]
        if request.draft > 0:
            a = accepted(state, i, r)
            blocks += extra(state, i, r, a)
            n_extra += a
        r = request.next
    take(state, i, blocks)
    totals = state.totals[i]
    totals.n_drafted += replica.n_draft
    totals.n_extra += n_extra
    totals.n_out += n_extra
    replica.n_draft = replica.lookahead = 0
    state.fitted[i].n_draft = state.fitted[i].draft_ranks = 0
    return n_extra


@jit
def chance(state, p, request):
    """The request's own chance that a token proposed for it by the draft of pool p is right."""
    if request.acceptance >= 0.0:
        return request.acceptance
    quantiles = state.draft_alpha[p]
    at = draw(state.draft_seed[0], request.request, 0) * (quantiles.shape[0] - 1)
    q = int(at)
    return quantiles[q] + (quantiles[q + 1] - quantiles[q]) * (at - q)


@jit
def accepted(state, i, r):
    """How many of the tokens proposed for r are right: up to the first that is not.

    With w branches at a node one of them is right with chance 1 - (1 - alpha)**w.
    """
    replica = state.replicas[i]
    p = replica.pool
    request = state.live[r]
    k = request.draft
    alpha = chance(state, p, request)
    n_out = request.n_out + replica.decoded - request.joined
    a = 0
    right = True
    while right and a < k:
        wrong = 1.0
        for _ in range(state.draft_level[p, a + 1] // state.draft_level[p, a]):
            wrong *= 1.0 - alpha * state.draft_shape[p, a + 1]
        right = draw(state.draft_seed[0], request.request, n_out + a) < 1.0 - wrong
        if right:
            a += 1
    request.n_drafted += state.draft_nodes[p, k]
    request.n_extra += a
    request.n_rounds += 1
    request.recent_right = RECENT * request.recent_right + a
    request.recent_tried = RECENT * request.recent_tried + min(a + 1, k)
    request.draft = 0
    # the draft has taken in the token before its proposals and all of these but the last
    c = request.n_computed + replica.decoded - request.joined
    request.draft_at = c + min(a, k - 1)
    return a


@jit
def extra(state, i, r, a):
    """Decoder r has `a` tokens more than its steps gave it; returns the blocks they take."""
    if a == 0:
        return 0
    replica = state.replicas[i]
    engine = state.engines[replica.pool]
    request = state.live[r]
    c = min(request.n_computed + replica.decoded - request.joined, request.keeps)
    caps.count(state, i, request, -1)
    request.n_computed += a
    request.n_out += a
    caps.count(state, i, request, 1)
    caps.await_next_change(state, i, r, replica.decoded - 1)
    if state.clock[0].fair == 1:
        fair.charge(state, i, request.tenant, 0, a)
    if engine.reserve == FULL:
        return 0
    b = engine.block_tokens
    return blocks_for(min(c + a, request.keeps), b) - blocks_for(c, b)
