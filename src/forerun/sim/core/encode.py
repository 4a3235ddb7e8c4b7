"""Images, video and audio in a prompt: an encoder turns each item of them into tokens of it.

An item is computed as a whole: `item_units` (patches, frames) go in, `item_tokens` tokens of the
prompt come out, which begins with those of its items.  The encoder runs either in front of the
model on the same replica, as a step of its own row of costs just before the step whose chunks need
the items; or on a pool of its own (role `encode`), where a request is first one whose tokens are
units, and from where its embeddings move over links as KV does.

Legend: i replica, r slot, p row of `engines`, n items, t picoseconds.
"""

from __future__ import annotations

from forerun.sim.core import fetch, queue
from forerun.sim.core.jit import jit
from forerun.sim.core.kv import blocks_for
from forerun.sim.core.price import lookup, prefill_cost
from forerun.sim.core.rows_fleet import ROLE
from forerun.sim.core.rows_request import EMBEDDED, ENCODING, PLAIN
from forerun.sim.core.signatures import OUTSTANDING, OUTSTANDING_TOKENS, WAITING_REQUESTS

ENCODE = ROLE["encode"]


# -- who encodes ----------------------------------------------------------------------------------


@jit
def is_pool(state, p, model):
    """Whether row p is that of a pool that encodes for this model, and nothing else."""
    engine = state.engines[p]
    return engine.role == ENCODE and engine.model == model and engine.n_blocks > 0


@jit
def is_apart(state, model):
    """Whether items of this model's requests are encoded by a pool of its own."""
    p = 0
    while p < state.engines.shape[0] and not is_pool(state, p, model):
        p += 1
    return p < state.engines.shape[0]


@jit
def holds(state, p, n, units):
    """Whether a pool that encodes can compute n items of so many units each, and keep them."""
    engine = state.engines[p]
    room = engine.n_blocks - engine.watermark
    return units <= engine.max_tokens and blocks_for(n * units, engine.block_tokens) <= room


@jit
def some_pool_holds(state, arrival):
    """Whether somebody can encode the items of a request."""
    model, n, units = arrival.model, arrival.n_items, arrival.item_units
    apart = is_apart(state, model)
    for p in range(state.engines.shape[0]):
        row = state.engines[p].encoder_row
        if apart:
            if is_pool(state, p, model) and holds(state, p, n, units):
                return True
        elif row >= 0 and state.engines[row].model == model:
            return units <= state.engines[row].max_tokens
    return False


# -- on a pool of its own -------------------------------------------------------------------------


@jit
def is_due(state, r):
    """Whether request r goes to a pool that encodes before anything else."""
    request = state.live[r]
    if request.n_encoded == request.n_items or request.stage == EMBEDDED:
        return False
    return is_apart(state, request.model)


@jit
def begin(request):
    """What the request has to compute next are its items."""
    request.stage = ENCODING
    request.n_computed = 0
    request.n_known = request.n_items * request.item_units


@jit
def finish(request):
    """Its items are embeddings; what it has to compute next are its tokens."""
    request.stage = EMBEDDED
    request.n_encoded = request.n_items
    request.n_computed = 0
    request.n_known = request.isl + request.n_out


@jit
def start_over(request):
    """What the request had of its items is lost."""
    if request.stage == ENCODING:
        request.n_computed = 0
    request.stage = PLAIN
    if request.n_items > 0:
        request.n_encoded = request.encoding = 0


@jit
def items_ps(state, p, n, units):
    """Attention among the units of each of n equal items, by row p of the tables."""
    each, _, _ = prefill_cost(state, p, units, 0)
    return n * each


@jit
def note(state, i, n, units):
    """Count n items of so many units that replica i has encoded."""
    state.encodes[i].n_items += n
    state.encodes[i].n_units += n * units


@jit
def pull(state, i, r, have, t):
    """Move the embeddings of r to replica i, which keeps `have` tokens of its prompt already."""
    request = state.live[r]
    request.n_due = have
    state.replicas[i].n_coming += 1
    request.called_ps = t
    fetch.pull(state, i, r, request.n_items * request.item_tokens, t)


@jit
def leave_queue(state, r):
    """Take r, whose embeddings are lost, out of the queue of the replica that it waits at."""
    request = state.live[r]
    replica = state.replicas[request.replica]
    replica.queue = queue.without(state.live, replica.queue, r)
    replica.n_waiting -= 1
    state.load[WAITING_REQUESTS, request.replica] -= 1
    state.load[OUTSTANDING, request.replica] -= 1
    state.load[OUTSTANDING_TOKENS, request.replica] -= request.n_known


# -- in front of the model on the same replica -----------------------------------------------------


@jit
def first_missing(request):
    """The first item whose embedding it has not and whose tokens it has not computed either."""
    return max(request.n_encoded, request.n_computed // request.item_tokens)


@jit
def missing(request):
    """How many items the chunk of a request reaches into that are not encoded."""
    if request.n_items == 0 or request.n_encoded == request.n_items or request.chunk == 0:
        return 0
    tokens = request.item_tokens
    reached = (request.n_computed + request.chunk + tokens - 1) // tokens
    return max(0, min(reached, request.n_items) - first_missing(request))


@jit
def step(state, i, t):
    """Shape a step of the encoder for the chunks just formed; returns its end, -1 if none is due.

    As many items as the encoder takes at once; the chunks are formed again after it.
    """
    replica = state.replicas[i]
    row = state.engines[replica.pool].encoder_row
    left = state.engines[row].max_tokens
    units = 0
    ps = 0
    r = replica.chunk_head
    while r >= 0:
        request = state.live[r]
        n = missing(request)
        if request.n_items > 0:
            request.encoding = 0
        if n > 0:
            n = min(n, left // request.item_units)
            request.encoding = n
            left -= n * request.item_units
            units += n * request.item_units
            ps += items_ps(state, row, n, request.item_units)
        r = request.chunk_next
    if units == 0:
        return -1
    r = replica.chunk_head
    while r >= 0:
        state.live[r].chunk = 0
        r = state.live[r].chunk_next
    ps = max(ps + lookup(state.tokens_ps[row], units), state.engines[row].eager_ps)
    replica.row = row
    replica.start_ps, replica.first_ps, replica.slope_ps = t, ps, 0
    replica.n_steps = 1
    replica.left_waiting = replica.n_waiting + replica.n_parked + replica.n_apart
    replica.in_step = replica.n_seqs = replica.chunk = replica.past = 0
    replica.depth = replica.draft_tokens = 0
    replica.encoding = units
    return t + ps


@jit
def settle(state, i):
    """The step of the encoder has ended: its items can be used."""
    replica = state.replicas[i]
    state.totals[i].n_tokens += replica.encoding
    replica.encoding = 0
    replica.has_encoded = 1
    r = replica.chunk_head
    while r >= 0:
        request = state.live[r]
        if request.n_items > 0 and request.encoding > 0:
            note(state, i, request.encoding, request.item_units)
            request.n_encoded = first_missing(request) + request.encoding
            request.encoding = 0
        r = request.chunk_next
