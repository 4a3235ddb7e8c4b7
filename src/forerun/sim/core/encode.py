"""Images, video and audio in a prompt: an encoder turns each item of them into tokens of it.

An item is computed as a whole: `item_units` (patches, frames) go in, `item_tokens` tokens of the
prompt come out, which begins with those of its items.  The encoder runs either in front of the
model on the same replica, as a step of its own row of costs just before the step whose chunks need
the items; or on a pool of its own (role `encode`), where a request is first one whose tokens are
units, and from where its embeddings move over links as KV does.

Legend: i replica, r slot, p row of `engines`, n items, t picoseconds.
"""

from __future__ import annotations

from forerun.sim.core import embeddings, fetch, lanes, nets, queue
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
def finish(state, i, r):
    """The items of r are embeddings; what it has to compute next are its tokens."""
    request = state.live[r]
    if state.replicas[i].album >= 0:
        keep(state, i, request, 0, request.n_items)
    request.stage = EMBEDDED
    request.n_encoded = request.n_items
    request.encoding = 0
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
    request, i = state.live[r], state.live[r].replica
    replica = state.replicas[i]
    if request.adapter >= 0:
        state.slots[i, request.adapter].n_waiting -= 1
    if request.aside == 1:
        column = state.serves.shape[1] + request.adapter
        state.parked[i, column] = queue.without(state.live, state.parked[i, column], r)
        state.n_parked[i, column] -= 1
        replica.n_apart -= 1
        request.aside = 0
    else:
        replica.queue = queue.without(state.live, replica.queue, r)
        replica.n_waiting -= 1
    state.load[WAITING_REQUESTS, request.replica] -= 1
    state.load[OUTSTANDING, request.replica] -= 1
    state.load[OUTSTANDING_TOKENS, request.replica] -= request.n_known
    if state.clock[0].has_nets == 1:
        nets.want(state, request.replica, r, -1)


# -- embeddings that are kept ----------------------------------------------------------------------


@jit
def bytes_of(state, p, request):
    """Bytes of the embedding of one item of a request, as row p encodes it."""
    return request.item_tokens * state.engines[p].kv_token_bytes


@jit
def keep(state, i, request, first, n):
    """The cache of replica i gets n items of a request."""
    replica = state.replicas[i]
    n_bytes = bytes_of(state, state.engines[replica.pool].encoder_row, request)
    for c in range(first, first + n):
        embeddings.put(state, replica.album, state.items[request.item_at + c], n_bytes)


@jit
def found(state, i, r):
    """How many items of r, which replica i is to encode, it need not compute."""
    a, request, n = state.replicas[i].album, state.live[r], 0
    if a >= 0:
        for c in range(request.n_items):
            if embeddings.keeps(state, a, state.items[request.item_at + c]):
                n += 1
    return n


@jit
def take_found(state, i, r, n):
    """r begins to be encoded on replica i, where n of its items are found."""
    a, request = state.replicas[i].album, state.live[r]
    if a < 0:
        return
    for c in range(request.n_items):
        k = state.items[request.item_at + c]
        if embeddings.keeps(state, a, k):
            embeddings.use(state, a, k)
    p, units = state.replicas[i].pool, request.item_units
    spared = step_ps(state, p, n * units, items_ps(state, p, n, units))
    count(state, i, request.n_items, n, spared)
    # what is read comes in a step of its own; and so does a request for which nothing is computed
    if n == request.n_items or state.albums[a].bytes_per_ps > 0.0:
        request.encoding = n


@jit
def count(state, i, asked, n, spared_ps):
    """Note what replica i looked for where embeddings are kept, and found."""
    row = state.encodes[i]
    row.n_asked += asked
    row.n_found += n
    row.spared_ps += spared_ps


@jit
def read(state, i, t):
    """Shape a step of replica i, which only encodes, in which it reads what it has found for those
    who just began; its end, -1 if none is due."""
    replica = state.replicas[i]
    n = n_bytes = 0
    r = replica.chunk_head
    while r >= 0:
        request = state.live[r]
        n += request.encoding
        n_bytes += request.encoding * bytes_of(state, replica.pool, request)
        r = request.chunk_next
    if n == 0:
        return -1
    ps = embeddings.read_ps(state, replica.album, n_bytes, t)
    state.encodes[i].read_ps += ps
    replica.n_missed, replica.row = 0, replica.pool
    return begin_step(state, i, t, max(ps, state.engines[replica.pool].host_step_ps, 1), n, 0)


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
def reached(state, i, request, left):
    """Items from the first missing one on that the next step can have ready, of which so many are
    computed: (items, computed).  left : units that it can compute."""
    n, a = missing(request), state.replicas[i].album
    if a < 0:
        n = min(n, left // request.item_units)
        return n, n
    at = request.item_at + first_missing(request)
    n_bytes = bytes_of(state, state.engines[state.replicas[i].pool].encoder_row, request)
    missed = c = 0
    while c < n:
        k = state.items[at + c]
        if embeddings.keeps(state, a, k):
            embeddings.use(state, a, k)
        elif (missed + 1) * request.item_units > left:
            break
        else:
            missed += 1
            if state.albums[a].shared == 0:
                embeddings.put(state, a, k, n_bytes)
        c += 1
    return c, missed


@jit
def step_ps(state, p, units, pairs_ps):
    """A step of the encoder, row p, with so many units and attention among them; more than fit one
    step take several."""
    if units == 0:
        return 0
    most = state.engines[p].max_tokens
    ps = pairs_ps + units // most * lookup(state.tokens_ps[p], most)
    if units % most > 0:
        ps += lookup(state.tokens_ps[p], units % most)
    return max(ps, state.engines[p].eager_ps)


@jit
def step(state, i, t):
    """Shape a step of the encoder for the chunks just formed; returns its end, -1 if none is due.

    As many items as the encoder takes at once; the chunks are formed again after it.
    """
    replica = state.replicas[i]
    row = other = state.engines[replica.pool].encoder_row
    if state.engines[replica.pool].role == ENCODE:
        return read(state, i, t)
    if replica.partner >= 0:
        row, other = lanes.encoders(state, i)
    left = most = state.engines[row].max_tokens
    n_items = n_missed = spared = pairs_ps = spared_ps = n_bytes = wait_ps = other_ps = 0
    r = replica.chunk_head
    while r >= 0:
        request = state.live[r]
        if request.n_items > 0:
            request.encoding = 0
        if missing(request) > 0:
            n, missed = reached(state, i, request, left)
            request.encoding = n
            left -= missed * request.item_units
            pairs_ps += items_ps(state, row, missed, request.item_units)
            if replica.partner >= 0:
                other_ps += items_ps(state, other, missed, request.item_units)
            n_items += n
            n_missed += missed
            if n > missed:
                spared += (n - missed) * request.item_units
                spared_ps += items_ps(state, row, n - missed, request.item_units)
                n_bytes += (n - missed) * bytes_of(state, row, request)
        r = request.chunk_next
    if n_items == 0:
        return -1
    units = most - left
    ps = step_ps(state, row, units, pairs_ps)
    if replica.album >= 0:
        longer = step_ps(state, row, units + spared, pairs_ps + spared_ps)
        count(state, i, n_items, n_items - n_missed, longer - ps)
        wait_ps = embeddings.read_ps(state, replica.album, n_bytes, t)
        state.encodes[i].read_ps += wait_ps
        ps = max(ps, wait_ps)
    replica.n_missed = n_missed
    if ps == 0:  # all is there
        use_items(state, i)
        return -1
    if replica.partner >= 0:
        lanes.other_price(state, i, max(step_ps(state, other, units, other_ps), wait_ps))
    replica.row = row
    return begin_step(state, i, t, ps, n_items, units)


@jit
def begin_step(state, i, t, ps, n_items, units):
    """A step of the encoder of ps picoseconds; no chunk of tokens is computed in it."""
    replica = state.replicas[i]
    r = replica.chunk_head
    while r >= 0:
        state.live[r].chunk = 0
        r = state.live[r].chunk_next
    replica.start_ps, replica.first_ps, replica.slope_ps = t, ps, 0
    replica.n_steps = 1
    replica.left_waiting = replica.n_waiting + replica.n_parked + replica.n_apart
    replica.in_step = replica.n_seqs = replica.chunk = replica.past = 0
    replica.depth = replica.draft_tokens = 0
    replica.n_adapters = replica.n_adapted = replica.n_tune = replica.tune_added_ps = 0
    replica.n_encoding, replica.encoding = n_items, units
    return t + ps


@jit
def settle(state, i):
    """The step of the encoder has ended: its items can be used."""
    replica = state.replicas[i]
    state.totals[i].n_tokens += replica.encoding
    state.encodes[i].n_units += replica.encoding
    state.encodes[i].n_items += replica.n_missed
    if state.engines[replica.pool].role != ENCODE:
        replica.has_encoded = 1
        use_items(state, i)
    replica.n_encoding = replica.encoding = 0
    r = replica.chunk_head
    while r >= 0:
        state.live[r].encoding = 0
        r = state.live[r].chunk_next


@jit
def use_items(state, i):
    """The items that requests have in the encoder's step are embeddings."""
    a = state.replicas[i].album
    r = state.replicas[i].chunk_head
    while r >= 0:
        request = state.live[r]
        if request.n_items > 0 and request.encoding > 0:
            if a >= 0 and state.albums[a].shared == 1:
                keep(state, i, request, first_missing(request), request.encoding)
            request.n_encoded = first_missing(request) + request.encoding
            request.encoding = 0
        r = request.chunk_next
