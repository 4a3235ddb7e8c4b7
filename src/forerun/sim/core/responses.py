"""Answers that are kept in front of the fleet and given again to requests that ask alike.

An answer is kept under the text it was given to, from the moment at which it ended, on the shelf of
its category: for so long, and as many as the shelf takes; the one used longest ago goes first.  A
request gets the answer of the text most like its own, if that is like enough.  Whether it was the
right answer is the log's to say: the cache cannot know.

Legend: w text, k row of `answers` (text and who answered), c shelf, t picoseconds.
"""

from __future__ import annotations

from forerun.sim.core.jit import jit

USED, AGE = 0, 1  # the orders that the answers of a shelf stand in: last used last, youngest last
BEFORE, AFTER = 0, 1
FIRST, LAST = 0, 1


@jit
def _append(state, order, c, k):
    """Answer k comes to stand last in an order of shelf c."""
    links, ends = state.answer_links, state.shelf_ends
    last = ends[order, c, LAST]
    links[order, k, BEFORE], links[order, k, AFTER] = last, -1
    if last >= 0:
        links[order, last, AFTER] = k
    else:
        ends[order, c, FIRST] = k
    ends[order, c, LAST] = k


@jit
def _remove(state, order, c, k):
    """Take answer k out of an order of shelf c."""
    links, ends = state.answer_links, state.shelf_ends
    before, after = links[order, k, BEFORE], links[order, k, AFTER]
    if before >= 0:
        links[order, before, AFTER] = after
    else:
        ends[order, c, FIRST] = after
    if after >= 0:
        links[order, after, BEFORE] = before
    else:
        ends[order, c, LAST] = before


@jit
def drop(state, c, k):
    """Answer k is kept no more."""
    shelf, row = state.shelves[c], state.answers[k]
    _remove(state, USED, c, k)
    _remove(state, AGE, c, k)
    row.request = -1
    shelf.n -= 1
    shelf.n_bytes -= row.n_bytes
    state.n_right[row.question] -= 1


@jit
def expire(state, c, t):
    """Drop what shelf c has kept for as long as it may."""
    shelf = state.shelves[c]
    k = state.shelf_ends[AGE, c, FIRST]
    while k >= 0 and state.answers[k].since_ps + shelf.ttl_ps <= t:
        drop(state, c, k)
        shelf.n_expired += 1
        k = state.shelf_ends[AGE, c, FIRST]


@jit
def who(state, row):
    """Whose answer a request, or an arrival, wants: a model's, or an adapter's after those of
    models.  They are as many as there are queues apart."""
    return row.model if row.adapter < 0 else state.serves.shape[1] + row.adapter


@jit
def find(state, request, author, t):
    """The answer that a request gets at t; -1 when it gets none, or goes past the cache."""
    ask = state.asks[request]
    if ask.wording < 0:
        return -1
    n_authors = state.parked.shape[1]
    text = state.texts[ask.wording]
    c = text.shelf
    expire(state, c, t)
    ask.n_asked += 1
    k = ask.wording * n_authors + author
    e, end = text.near_at, text.near_at + text.n_near
    if state.answers[k].request < 0:
        k = -1
    while k < 0 and e < end and state.similarity[e] >= state.shelves[c].threshold:
        k = state.near[e] * n_authors + author
        if state.answers[k].request < 0:
            k = -1
        e += 1
    if k < 0:
        if state.n_right[text.question * n_authors + author] > 0:
            ask.n_missed += 1
        return -1
    ask.got = state.answers[k].request
    _remove(state, USED, c, k)
    _append(state, USED, c, k)
    return k


@jit
def keep(state, request, author, n_tokens, t):
    """The answer to a request, of n_tokens, has ended at t: it is kept, others make room."""
    ask = state.asks[request]
    if ask.wording < 0:
        return
    text = state.texts[ask.wording]
    c = text.shelf
    shelf = state.shelves[c]
    expire(state, c, t)
    k = ask.wording * state.parked.shape[1] + author
    n_bytes = shelf.entry_bytes + shelf.token_bytes * n_tokens
    if shelf.ttl_ps == 0 or shelf.most == 0 or n_bytes > shelf.most_bytes:
        return
    row = state.answers[k]
    if row.request >= 0:
        drop(state, c, k)  # two were computed side by side: the later one stays
    while shelf.n >= shelf.most or shelf.n_bytes + n_bytes > shelf.most_bytes:
        drop(state, c, state.shelf_ends[USED, c, FIRST])
        shelf.n_evicted += 1
    row.request, row.since_ps, row.n_bytes, row.n_tokens = request, t, n_bytes, n_tokens
    row.question = text.question * state.parked.shape[1] + author
    _append(state, USED, c, k)
    _append(state, AGE, c, k)
    shelf.n += 1
    shelf.n_bytes += n_bytes
    state.n_right[row.question] += 1
