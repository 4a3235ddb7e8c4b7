"""Costs from Vidur's measured operator tables: what its simulator charges for a step.

A step takes layers * (sum of the operators' medians); with tensor parallelism each layer has two
all-reduces, each with a launch on the host.  Linear operators and the all-reduce see the step's
tokens rounded up to a multiple of 8, attention a context rounded up to the predictor's granularity.
Embedding and LM head are not charged.  Vidur smooths its tables with random forests; here the same
medians are smoothed without chance (`bagged_nearest`) and interpolated.

Source: microsoft/vidur, `sklearn_execution_time_predictor.py` (MIT), read for its formulas.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from forerun.cost.table import DENSE, STRIDE, CostTable, Work, grid
from forerun.cost.vidur_files import LINEAR, Replica, Samples

MS = 1e-3
ROUND_TOKENS = 8

# chance that a bootstrap sample of n points leaves one of them out: (1 - 1/n)^n -> 1/e
LEFT_OUT = float(np.exp(-1.0))


def bagged_nearest(x: np.ndarray, y: np.ndarray, at: np.ndarray) -> np.ndarray:
    """The mean prediction of fully grown trees on bootstrap samples of (x, y), one coordinate.

    x, y : float64 [N], measurements; at : float64 [M].  Returns float64 [M].

    A fully grown tree answers with the nearest point of its sample, and a point measured m times is
    in a sample with chance 1 - exp(-m); so the points, nearest first, get the weights
    (1 - exp(-m_1)), exp(-m_1) * (1 - exp(-m_2)), ...  Of two equally near the lower comes first.
    Source: Biau and Devroye, On the layered nearest neighbour estimate (2010), section 3.
    """
    points, index, count = np.unique(x, return_inverse=True, return_counts=True)
    mean = np.bincount(index.reshape(-1), weights=y) / count
    missing = LEFT_OUT**count
    k = min(len(points), 24)  # the weight of all further points together is below 1e-10
    # the k nearest lie among the k on either side
    middle = np.searchsorted(points, at)
    near = np.clip(middle[:, None] + np.arange(-k, k)[None, :], 0, len(points) - 1)
    distance = np.abs(points[near] - at[:, None])
    distance[:, 1:][near[:, 1:] == near[:, :-1]] = np.inf  # clipped: counted once
    order = np.argsort(distance, axis=1, kind="stable")[:, :k]
    chosen = np.take_along_axis(near, order, axis=1)
    seen = np.isfinite(np.take_along_axis(distance, order, axis=1))
    skip = np.where(seen, missing[chosen], 1.0)
    before = np.cumprod(np.concatenate([np.ones((len(at), 1)), skip[:, :-1]], axis=1), axis=1)
    weight = before * (1 - skip)
    return (weight * mean[chosen]).sum(axis=1) / weight.sum(axis=1)


def surface(
    rows: np.ndarray, columns: np.ndarray, values: np.ndarray, at_rows: np.ndarray,
    at_columns: np.ndarray,
) -> np.ndarray:  # fmt: skip
    """Measurements at scattered (row, column) as a table [at_rows, at_columns].

    Linear along the columns, then between rows; medians of repeated points.  Outside the measured
    rows, and where a row ends early, the nearest measured row is taken.
    """
    known = np.unique(rows)
    filled = np.zeros((len(known), len(at_columns)))
    for k, row in enumerate(known):
        c, v = _medians(columns[rows == row], values[rows == row])
        filled[k] = np.interp(at_columns, c, v)
        beyond = at_columns > c[-1]
        if k > 0 and beyond.any():
            filled[k, beyond] = filled[k - 1, beyond]
    low = np.clip(np.searchsorted(known, at_rows, side="right") - 1, 0, len(known) - 1)
    high = np.minimum(low + 1, len(known) - 1)
    gap = np.maximum(known[high] - known[low], 1)
    share = np.clip((at_rows - known[low]) / gap, 0.0, 1.0)[:, None]
    return filled[low] * (1 - share) + filled[high] * share


def _medians(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sorted distinct x with the median of their y."""
    points = np.unique(x)
    return points, np.array([np.median(y[x == p]) for p in points])


def cost_table(samples: Samples, replica: Replica, *, max_tokens: int, max_seqs: int) -> CostTable:
    """What a step costs on one replica, as Vidur would charge it.

    Time only: flop, traffic and energy are not in Vidur's tables and are nan here.
    """
    tokens = grid(max_tokens)
    knots_ctx, knots_past = _knots(replica)
    layers = replica.n_layers * MS
    by_part = {
        "linear": _linear_ms(samples, replica, tokens),
        "all_reduce": _all_reduce_ms(samples, replica, tokens),
    }
    decode = _decode_ms(samples, replica, max_seqs, knots_ctx)
    prefill = _prefill_ms(samples, replica, tokens, knots_past)
    total = sum(by_part.values())
    time = Work(
        tokens=layers * np.asarray(total),
        seqs=np.zeros(len(grid(max_seqs))),
        decode=layers * decode,
        prefill=layers * prefill,
    )
    unknown = Work(*(np.full_like(part, np.nan) for part in (
        time.tokens, time.seqs, time.decode, time.prefill
    )))  # fmt: skip
    return CostTable(
        max_tokens=max_tokens, max_seqs=max_seqs, knots_ctx=knots_ctx, knots_past=knots_past,
        time_s=time, flop=unknown, hbm_bytes=unknown, link_bytes=unknown, energy_j=unknown,
        idle_w=float("nan"), host_step_s=0.0, host_seq_s=0.0, n_devices=replica.tp,
        peak_flop_per_s=float("nan"), peak_hbm_bytes_per_s=float("nan"), low=1.0, high=1.0,
        sources={"measured, interpolated": 1.0},
        assumed=(
            "time is from Vidur's operator tables, which say nothing of flop, traffic and energy",
            "embedding, LM head, sampling and host overhead are not charged (as in Vidur)",
        ),
        by_operator=_shares(by_part, decode, min(16, max_seqs)),
        mixed_prefill="root_sum_square",
        mixed_factor=1.0 + replica.prefill_overhead,
        between="constant",
    )  # fmt: skip


def _knots(replica: Replica) -> tuple[np.ndarray, np.ndarray]:
    """Mean contexts and pasts from which on Vidur rounds up to the next multiple.

    Vidur counts the token being computed into a decode's context, and Forerun does not: the mean
    of c cached tokens is rounded up from floor(c) + 1.
    """
    g = replica.granularity
    steps = np.arange(0, replica.max_request_tokens + 1, g)
    return steps, np.concatenate([[0], steps[:-1] + 1])


def _rounded(tokens: np.ndarray) -> np.ndarray:
    """Tokens as linear operators see them."""
    return -(-tokens // ROUND_TOKENS) * ROUND_TOKENS


def _on_grid(ms: Callable[[np.ndarray], np.ndarray], tokens: np.ndarray) -> np.ndarray:
    """A staircase over tokens, [G]: exact where each count has a grid point.

    Where grid points are STRIDE apart, the mean over a stride around each: between points the
    table is linear, and so it is right on average over the steps of the staircase.
    """
    sparse = tokens > DENSE
    values = np.zeros(len(tokens))
    values[~sparse] = ms(np.maximum(tokens[~sparse], 1))
    if sparse.any():
        around = np.arange(-STRIDE // 2 + ROUND_TOKENS, STRIDE // 2 + 1, ROUND_TOKENS)
        near = tokens[sparse][:, None] + around[None, :]
        values[sparse] = ms(near.reshape(-1)).reshape(near.shape).mean(axis=1)
    values[tokens == 0] = 0.0
    return values


def _linear_ms(samples: Samples, replica: Replica, tokens: np.ndarray) -> np.ndarray:
    """All operators of a layer that see tokens only, but for the all-reduce; [G]."""
    names = [n for n in LINEAR if n != "post_attention_layernorm" or replica.post_attn_norm]

    def ms(n: np.ndarray) -> np.ndarray:
        total = np.zeros(len(n))
        for name in names:
            x, y = samples.linear[name]
            total += bagged_nearest(x, y, _rounded(n))
        x, y = samples.kv_save
        if len(x):
            total += bagged_nearest(x, y, n)
        return total

    return _on_grid(ms, tokens)


def _all_reduce_ms(samples: Samples, replica: Replica, tokens: np.ndarray) -> np.ndarray:
    """Both all-reduces of a layer, with their launches; [G]."""
    if replica.tp == 1:
        return np.zeros(len(tokens))
    size, once_ms = samples.all_reduce
    launch = replica.nccl_launch_ms + replica.nccl_skew_ms * replica.tp**1.25

    def ms(n: np.ndarray) -> np.ndarray:
        return 2 * (
            bagged_nearest(size / (2 * replica.embedding_dim), once_ms, _rounded(n)) + launch
        )

    return _on_grid(ms, tokens)


def _decode_ms(
    samples: Samples, replica: Replica, max_seqs: int, knots_ctx: np.ndarray
) -> np.ndarray:
    """Attention of n decoding requests, by the knot below their mean context; [n + 1, K]."""
    batch, kv, ms = samples.decode
    context = np.minimum(knots_ctx + replica.granularity, replica.max_request_tokens)
    n = np.arange(max_seqs + 1)
    table = surface(batch, kv, ms, n, context)
    table[2:] *= 1.0 + replica.decode_overhead
    table[0] = 0.0
    return table


def _prefill_ms(
    samples: Samples, replica: Replica, tokens: np.ndarray, knots_past: np.ndarray
) -> np.ndarray:
    """Attention of a chunk, by the knot below the tokens before it; [G, K]."""
    kv, chunk, ms = samples.prefill
    past = -(-knots_past // replica.granularity) * replica.granularity
    table = surface(kv, chunk, ms, past, np.maximum(tokens, 1)).T
    table[tokens == 0] = 0.0
    return np.ascontiguousarray(table)


def _shares(parts: Mapping[str, np.ndarray], decode: np.ndarray, n: int) -> dict[str, float]:
    """Shares of time of a step in which n requests decode in the middle of the table."""
    ms: dict[str, float] = {name: float(part[n]) for name, part in parts.items()}
    ms["attention"] = float(decode[n, decode.shape[1] // 2])
    total = sum(ms.values())
    return {name: value / total for name, value in ms.items()}
