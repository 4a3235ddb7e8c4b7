"""Time of a step from its batch: look-ups in the pools' tables, all in integer picoseconds.

Legend: p pool (or a draft, whose tables stand after those of the pools), n a count of tokens or
sequences, q tokens of a chunk, c cached tokens.
"""

from __future__ import annotations

from forerun.sim.core.jit import jit
from forerun.sim.core.order import NEVER

DENSE = 2048  # counts up to here have a grid point each (as in cost/table.py)
STRIDE = 128


@jit
def lookup(table, n):
    """The value of a table on the grid at count n; linear between grid points."""
    if n <= DENSE:
        return table[n]
    g = DENSE + (n - DENSE) // STRIDE
    rest = (n - DENSE) % STRIDE
    if rest == 0:
        return table[g]
    return table[g] + (table[g + 1] - table[g]) * rest // STRIDE


@jit
def decode_cost(state, p, row, n, ctx, growing):
    """(first_ps, slope_ps a step, steps until the next knot) for n decoders with ctx cached tokens.

    Each step adds one to ctx for each of the `growing` ones.
    row : of the decode tables, p's own or that of its steps with chunks.
    """
    knots = state.knots_ctx[p]
    last = knots.shape[0] - 1  # a table with fewer knots has its last one again
    k = 0
    while k < last and n * knots[k + 1] <= ctx:
        k += 1
    slope = state.decode_slope[row, n, k]
    first = state.decode_ps[row, n, k] + (ctx - n * knots[k]) * slope
    steps = NEVER
    if k < last and growing > 0:
        steps = (n * knots[k + 1] - ctx + growing - 1) // growing
    return first, slope * growing, steps


@jit
def prefill_cost(state, p, q, past):
    """(first_ps, slope_ps a step, steps until the next knot) for a chunk of q after past tokens.

    Each step adds q to past.
    """
    knots = state.knots_past[p]
    last = knots.shape[0] - 1
    k = 0
    while k < last and knots[k + 1] <= past:
        k += 1
    slope = lookup(state.prefill_slope[p, :, k], q)
    first = lookup(state.prefill_ps[p, :, k], q) + (past - knots[k]) * slope
    steps = NEVER
    if k < last:
        steps = (knots[k + 1] - past + q - 1) // q
    return first, slope * q, steps


@jit
def square_root(n):
    """The nearest integer to the square root of n >= 0."""
    root = int(n**0.5)
    while root * root > n:
        root -= 1
    while (root + 1) * (root + 1) <= n:
        root += 1
    if n - root * root > root:
        root += 1
    return root


@jit
def own_ps(state, p, tokens):
    """What a request of so many tokens adds to a step of row p by itself: attention among them."""
    return lookup(state.prefill_ps[p, :, 0], tokens)
