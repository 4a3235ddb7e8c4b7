"""The waiting queue of a replica: a pairing heap threaded through the live requests.

Any order costs the same code; nothing is allocated.  Smaller (key, request) comes first; `request`
makes the order total.  Roots are slots of `live`, -1 is empty.
Source: Fredman, Sedgewick, Sleator and Tarjan, "The pairing heap", Algorithmica 1986.
"""

from __future__ import annotations

from forerun.sim.core.jit import jit


@jit
def before(live, a, b):
    """True when a is served before b."""
    if live[a].key != live[b].key:
        return live[a].key < live[b].key
    return live[a].request < live[b].request


@jit
def meld(live, a, b):
    """The root of two heaps joined."""
    if a < 0:
        return b
    if b < 0:
        return a
    if before(live, b, a):
        a, b = b, a
    live[b].sibling = live[a].child
    live[a].child = b
    return a


@jit
def push(live, root, r):
    """The root after r has joined."""
    live[r].child = -1
    live[r].sibling = -1
    return meld(live, root, r)


@jit
def without(live, root, r):
    """The root after r has left, wherever it stood: all others are put in again."""
    others = -1
    while root >= 0:
        first = root
        root = pop(live, first)
        if first != r:
            live[first].sibling = others
            others = first
    while others >= 0:
        first = others
        others = live[first].sibling
        root = push(live, root, first)
    return root


@jit
def pop(live, root):
    """The root after the first has left: its children are joined pairwise, then right to left."""
    pairs = -1  # list of joined pairs, last one first, linked by sibling
    child = live[root].child
    while child >= 0:
        a = child
        b = live[a].sibling
        if b < 0:
            child = -1
            live[a].sibling = -1
            pair = a
        else:
            child = live[b].sibling
            live[a].sibling = -1
            live[b].sibling = -1
            pair = meld(live, a, b)
        live[pair].sibling = pairs
        pairs = pair
    joined = -1
    while pairs >= 0:
        rest = live[pairs].sibling
        live[pairs].sibling = -1
        joined = meld(live, joined, pairs)
        pairs = rest
    live[root].child = -1
    return joined
