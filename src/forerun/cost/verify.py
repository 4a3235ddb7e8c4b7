"""What a step takes that verifies proposed tokens: several queries a decoding request.

A step with q queries a request computes q tokens of it, samples at each, and its attention reads
the cached keys and values once for all q: they are further rows of the same product, as if the
model had q times the heads over the same cache.  Kernels that choose what each query reads, and
scans, do the work of one query q times.

Everything is kept relative to the decode table, so that what corrects that (a profile, a
calibration, a slow end of an interval) corrects this.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from forerun.cost.costs import Costs
from forerun.cost.energy import Power
from forerun.cost.table import Verify, grid
from forerun.ops.attention import Attention
from forerun.ops.collectives import Collective
from forerun.ops.graph import Op
from forerun.ops.ssm import Scan

QUANTITIES = ("time_s", "flop", "hbm_bytes", "energy_j")


def queries_up_to(most: int) -> np.ndarray:
    """1, 2, 4, .. and on to the first that is not below `most`, at least two."""
    return 2 ** np.arange(max(2, int(np.ceil(np.log2(max(most, 2)))) + 1))


@dataclass(frozen=True)
class Sizes:
    """Where the decode table is given, and how far this one goes."""

    batch: np.ndarray  # float64 [B+1, 1]
    ctx: np.ndarray  # int64 [K]
    max_seqs: int
    max_sampled: int  # most tokens that a step samples at
    queries: int  # most of a request


def verify(ops: Iterable[Op], at: Sizes, m: Costs, watts: Power) -> Verify:
    """Attention of 1, 2, 4, .. queries a request, and the LM head beyond max_seqs sequences."""
    ops = list(ops)
    queries = queries_up_to(at.queries)
    sums = {name: np.zeros((len(queries), len(at.batch), len(at.ctx))) for name in QUANTITIES}
    sampled = grid(max(at.max_sampled, at.max_seqs)).astype(float)
    heads = {name: np.zeros(len(sampled)) for name in QUANTITIES}
    for op in ops:
        if isinstance(op.shape, Attention | Scan):
            for j, q in enumerate(queries):
                _add_attention(sums, j, int(q), op, at, m, watts)
        elif op.axis == "seqs":
            _add_head(heads, op, sampled, m, watts)
    return Verify(
        queries=queries,
        decode={name: _relative(total) for name, total in sums.items()},
        max_sampled=int(sampled[-1]),
        seqs={name: _beyond(total, at.max_seqs) for name, total in heads.items()},
    )


def with_queries(shape: Attention, q: int) -> Attention:
    """Attention whose requests have q queries each, written as q times the heads."""
    return replace(shape, n_heads=shape.n_heads * q)


def _chooses(shape: Attention) -> bool:
    """Whether each query reads keys of its own choice."""
    return bool(shape.sparse_topk or shape.index_heads)


def _add_attention(
    sums: Mapping[str, np.ndarray], j: int, q: int, op: Op, at: Sizes, m: Costs, watts: Power
) -> None:
    shape: Attention | Scan
    n, ctx = np.ceil(at.batch / op.split), at.ctx + (q - 1)
    if isinstance(op.shape, Attention) and not _chooses(op.shape):
        shape, times = with_queries(op.shape, q), 1
    else:
        assert isinstance(op.shape, Attention | Scan)
        shape, times = op.shape, q
    time = times * m.decode(shape, n, ctx)
    counts = shape.decode(at.batch / op.split, ctx)
    flop, moved = times * counts.flop, times * counts.hbm_bytes
    energy = watts.dynamic_j(flop, moved, 0.0, time, op.dtype)
    for name, value, each in (
        ("time_s", time, 1), ("flop", flop, op.devices), ("hbm_bytes", moved, op.devices),
        ("energy_j", energy, op.devices),
    ):  # fmt: skip
        sums[name][j] += op.count * each * value


def _add_head(
    heads: Mapping[str, np.ndarray], op: Op, sampled: np.ndarray, m: Costs, watts: Power
) -> None:
    time = m.by_tokens(op.shape, np.ceil(sampled / op.split))
    heads["time_s"] += op.count * time
    if isinstance(op.shape, Collective):
        sent = op.shape.sent(sampled / op.split)
        energy = watts.dynamic_j(0.0, 0.0, sent, time, "bf16")
    elif op.kernels:
        counts = op.shape.counts(sampled / op.split)  # type: ignore[union-attr]
        heads["flop"] += op.count * op.devices * counts.flop
        heads["hbm_bytes"] += op.count * op.devices * counts.hbm_bytes
        energy = watts.dynamic_j(counts.flop, counts.hbm_bytes, 0.0, time, op.dtype)
    else:
        return
    heads["energy_j"] += op.count * op.devices * energy


def _relative(total: np.ndarray) -> np.ndarray:
    """Times one query's, never falling with more queries; 1 where that is nothing."""
    one = total[:1]
    ratio = np.where(one > 0, total / np.where(one > 0, one, 1.0), 1.0)
    return np.maximum.accumulate(ratio, axis=0)


def _beyond(total: np.ndarray, max_seqs: int) -> np.ndarray:
    """Times the value at max_seqs, never falling; 1 up to there, where the table itself is read."""
    at = grid(max_seqs)
    last = total[len(at) - 1]
    ratio = total / last if last > 0 else np.ones(len(total))
    ratio[: len(at)] = 1.0
    return np.maximum.accumulate(ratio)
