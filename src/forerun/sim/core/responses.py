"""Answers that are kept in front of the fleet and given again to requests that ask alike.

An answer is kept under the text it was given to, from the moment at which it ended, on the shelf of
its category: for so long, and as many as the shelf takes; the one used longest ago goes first.  A
request gets the answer of the text most like its own, if that is like enough.  Whether it was the
right answer is the log's to say: the cache cannot know.

Legend: w text, k row of `answers` (text and model), c shelf, t picoseconds.
"""

from __future__ import annotations

from forerun.sim.core.jit import jit


@jit
def _link(state, c, k):
    """Answer k is the last used, and the youngest, of shelf c."""
    shelf, row = state.shelves[c], state.answers[k]
    row.used_prev, row.used_next = shelf.used_tail, -1
    if shelf.used_tail >= 0:
        state.answers[shelf.used_tail].used_next = k
    else:
        shelf.used_head = k
    shelf.used_tail = k


@jit
def _unlink(state, c, k):
    """Take answer k out of the order of use of shelf c."""
    shelf, row = state.shelves[c], state.answers[k]
    if row.used_prev >= 0:
        state.answers[row.used_prev].used_next = row.used_next
    else:
        shelf.used_head = row.used_next
    if row.used_next >= 0:
        state.answers[row.used_next].used_prev = row.used_prev
    else:
        shelf.used_tail = row.used_prev


@jit
def _link_young(state, c, k):
    """Answer k is the youngest of shelf c."""
    shelf, row = state.shelves[c], state.answers[k]
    row.age_prev, row.age_next = shelf.age_tail, -1
    if shelf.age_tail >= 0:
        state.answers[shelf.age_tail].age_next = k
    else:
        shelf.age_head = k
    shelf.age_tail = k


@jit
def drop(state, c, k):
    """Answer k is kept no more."""
    shelf, row = state.shelves[c], state.answers[k]
    _unlink(state, c, k)
    if row.age_prev >= 0:
        state.answers[row.age_prev].age_next = row.age_next
    else:
        shelf.age_head = row.age_next
    if row.age_next >= 0:
        state.answers[row.age_next].age_prev = row.age_prev
    else:
        shelf.age_tail = row.age_prev
    row.request = -1
    shelf.n -= 1
    shelf.n_bytes -= row.n_bytes
    state.n_right[row.question] -= 1


@jit
def expire(state, c, t):
    """Drop what shelf c has kept for as long as it may."""
    shelf = state.shelves[c]
    while shelf.age_head >= 0 and state.answers[shelf.age_head].since_ps + shelf.ttl_ps <= t:
        drop(state, c, shelf.age_head)
        shelf.n_expired += 1


@jit
def find(state, request, model, t):
    """The answer that a request gets at t; -1 when it gets none, or goes past the cache."""
    ask = state.asks[request]
    if ask.wording < 0:
        return -1
    n_models = state.serves.shape[1]
    text = state.texts[ask.wording]
    c = text.shelf
    expire(state, c, t)
    ask.n_asked += 1
    k = ask.wording * n_models + model
    e, end = text.near_at, text.near_at + text.n_near
    if state.answers[k].request < 0:
        k = -1
    while k < 0 and e < end and state.similarity[e] >= state.shelves[c].threshold:
        k = state.near[e] * n_models + model
        if state.answers[k].request < 0:
            k = -1
        e += 1
    if k < 0:
        if state.n_right[text.question * n_models + model] > 0:
            ask.n_missed += 1
        return -1
    ask.got = state.answers[k].request
    _unlink(state, c, k)
    _link(state, c, k)
    return k


@jit
def keep(state, request, model, n_tokens, t):
    """The answer to a request, of n_tokens, has ended at t: it is kept, others make room."""
    ask = state.asks[request]
    if ask.wording < 0:
        return
    text = state.texts[ask.wording]
    c = text.shelf
    shelf = state.shelves[c]
    expire(state, c, t)
    k = ask.wording * state.serves.shape[1] + model
    n_bytes = shelf.entry_bytes + shelf.token_bytes * n_tokens
    if shelf.ttl_ps == 0 or shelf.most == 0 or n_bytes > shelf.most_bytes:
        return
    row = state.answers[k]
    if row.request >= 0:
        drop(state, c, k)  # two were computed side by side: the later one stays
    while shelf.n >= shelf.most or shelf.n_bytes + n_bytes > shelf.most_bytes:
        drop(state, c, shelf.used_head)
        shelf.n_evicted += 1
    row.request, row.since_ps, row.n_bytes, row.n_tokens = request, t, n_bytes, n_tokens
    row.question = text.question * state.serves.shape[1] + model
    _link(state, c, k)
    _link_young(state, c, k)
    shelf.n += 1
    shelf.n_bytes += n_bytes
    shelf.n_added += 1
    state.n_right[row.question] += 1
