"""`step_time`: one step's time out of a cost table, in seconds."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

import numpy as np

from forerun.cost.estimate import Estimate
from forerun.cost.table import DENSE, CostTable, Work, grid

_grid = cache(grid)


def step_work(
    table: CostTable,
    work: Work,
    *,
    n_tokens: int,
    n_seqs: int,
    n_decode: int = 0,
    decode_ctx: float = 0.0,
    chunks: Iterable[tuple[int, float]] = (),
) -> float:
    """One quantity (`table.flop`, `table.energy_j`, ...) of a step, host terms left out.

    n_tokens computed, n_seqs sampled; n_decode of them decode with a mean of decode_ctx cached
    tokens; chunks are (new tokens, tokens before).  Linear between grid points and knots (or as the
    table's `between` says), beyond the last ones by the last slope.  The simulator's core does the
    same in integer picoseconds.
    """
    chunks = tuple(chunks)
    value = _at(work.tokens, table.max_tokens, n_tokens) + _at(work.seqs, table.max_seqs, n_seqs)
    if n_decode:
        decode = work.decode
        if chunks and table.mixed_decode is not None and work is table.time_s:
            decode = table.mixed_decode
            value += table.mixed_cross_s * n_decode * sum(q for q, _ in chunks)
        row = _decode_row(table, decode, n_decode)
        value += _between(table, table.knots_ctx, row, decode_ctx)
    if table.mixed_prefill == "root_sum_square" and chunks:
        whole = round(sum(q * q for q, _ in chunks) ** 0.5)
        one = _chunk(table, work, whole, sum(p for _, p in chunks))
        return value + one * (table.mixed_factor if len(chunks) > 1 else 1.0)
    return value + sum(_chunk(table, work, q, p) for q, p in chunks)


def step_time(
    table: CostTable,
    *,
    n_tokens: int,
    n_seqs: int,
    n_decode: int | None = None,
    decode_ctx: float | None = None,
    chunks: Iterable[tuple[int, float]] = (),
) -> Estimate:
    """Seconds of one step, host terms included.

    With decode_ctx and no n_decode, every token outside the chunks is of a decoding request.
    """
    chunks = tuple(chunks)
    if n_decode is None:
        n_decode = n_tokens - sum(q for q, _ in chunks) if decode_ctx is not None else 0
    device = step_work(
        table, table.time_s, n_tokens=n_tokens, n_seqs=n_seqs, n_decode=n_decode,
        decode_ctx=decode_ctx or 0.0, chunks=chunks,
    )  # fmt: skip
    host = table.host_step_s + table.host_seq_s * n_seqs
    if chunks:
        device = max(device, table.eager_s)
    source = max(table.sources, key=lambda k: table.sources[k], default="unknown")
    return Estimate(
        device + host, device * table.low + host, device * table.high + host, source
    )  # fmt: skip


def decode_times(table: CostTable, n: int, ctx: np.ndarray) -> np.ndarray:
    """Seconds of steps of n decoding requests with ctx [K] cached tokens each, float64 [K]: as
    `step_time` one by one."""
    work = table.time_s
    value = _at(work.tokens, table.max_tokens, n) + _at(work.seqs, table.max_seqs, n)
    row, x = _decode_row(table, work.decode, n), table.knots_ctx
    if table.between == "constant":
        each = row[np.searchsorted(x, ctx, side="right") - 1]
    else:
        each = np.interp(ctx, x, row)
        if len(x) > 1 and (beyond := ctx > x[-1]).any():
            slope = (row[-1] - row[-2]) / (x[-1] - x[-2])
            each[beyond] = row[-1] + slope * (ctx[beyond] - x[-1])
    return value + each + (table.host_step_s + table.host_seq_s * n)


def _decode_row(table: CostTable, decode: np.ndarray, n: int) -> np.ndarray:
    """What n decoding requests take at the knots [K]; beyond max_seqs by the last slope, as
    everywhere."""
    lower = min(n, table.max_seqs)
    row = decode[lower]
    if n > lower:
        row = row + (n - lower) * (decode[lower] - decode[lower - 1])
    return row


def _at(values: np.ndarray, n_max: int, n: float) -> float:
    """The value at count n, linear on the grid."""
    if n < min(DENSE, len(values)) and n == int(n) >= 0:
        return float(values[int(n)])  # a point of the grid
    return _knots(_grid(n_max), values, n)


def _knots(x: np.ndarray, y: np.ndarray, at: float) -> float:
    """Piecewise linear through (x, y), the last slope beyond."""
    if at <= x[-1] or len(x) < 2:
        return float(np.interp(at, x, y))
    slope = (y[-1] - y[-2]) / (x[-1] - x[-2])
    return float(y[-1] + slope * (at - x[-1]))


def _between(table: CostTable, x: np.ndarray, y: np.ndarray, at: float) -> float:
    """The value at a context: linear between knots, or that of the knot below."""
    if table.between == "constant":
        return float(y[np.searchsorted(x, at, side="right") - 1])
    return _knots(x, y, at)


def _chunk(table: CostTable, work: Work, q: int, p: float) -> float:
    if q < min(DENSE, len(work.prefill)) and q == int(q) >= 0:  # a point of the grid
        return _between(table, table.knots_past, work.prefill[int(q)], p)
    points = _grid(table.max_tokens)
    i = int(np.searchsorted(points, q))
    if i < len(points) and points[i] == q:
        return _between(table, table.knots_past, work.prefill[i], p)
    i = min(max(i, 1), len(points) - 1)
    low, high = (_between(table, table.knots_past, work.prefill[j], p) for j in (i - 1, i))
    return low + (high - low) * (q - points[i - 1]) / (points[i] - points[i - 1])
