"""`CostTable`: what a step costs as a function of its batch, in the core's integer picoseconds.

A step computes T tokens of which S sequences are sampled; B of them decode with a mean of c cached
tokens, and each chunk of q new tokens has p tokens before it.  Its time is

    host_step + host_seq*S + tokens(T) + seqs(S) + decode(B, c) + sum over chunks prefill(q, p)

`tokens` and `seqs` are read on a grid (see `grid`), linear between points; `decode` and `prefill`
are piecewise linear in c and p between knots, so that a run of equal steps is an arithmetic series;
beyond the last knot the last slope goes on.

With `mixed_decode`, a step that has both decoding requests and chunks takes mixed_decode(B, c) in
place of decode(B, c), and mixed_cross * B * sum(q) more.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from forerun.cost.pick import Pick

DENSE = 2048  # counts up to here have a grid point each
STRIDE = 128  # beyond, one point every so many


def grid(n_max: int) -> np.ndarray:
    """The counts at which a table over 0..n_max is given: int64 [G], ends at or after n_max."""
    if n_max <= DENSE:
        return np.arange(n_max + 1)
    return np.concatenate([np.arange(DENSE), np.arange(DENSE, n_max + STRIDE, STRIDE)])


@dataclass(frozen=True, eq=False)
class Work:
    """One quantity (seconds, joule, flop or bytes) by the same four parts as the step's time."""

    tokens: np.ndarray  # float64 [G_T], at grid(max tokens)
    seqs: np.ndarray  # float64 [G_S], at grid(max sequences)
    decode: np.ndarray  # float64 [max sequences + 1, K_c], at knots_ctx; row 0 is zero
    prefill: np.ndarray  # float64 [G_T, K_p], at knots_past; row 0 is zero


@dataclass(frozen=True, eq=False)
class Verify:
    """Steps with several queries a decoding request, relative to those with one (`cost.verify`)."""

    queries: np.ndarray  # int64 [Q], of each request: 1, 2, 4, ..
    #: quantity -> float64 [Q, max sequences + 1, K_c], times `decode`
    decode: Mapping[str, np.ndarray]
    max_sampled: int
    #: quantity -> float64 [G_V], at grid(max_sampled), times `seqs` at max sequences; beyond those
    seqs: Mapping[str, np.ndarray]

    def seqs_of(self, name: str, short: np.ndarray) -> np.ndarray:
        """The part `seqs` of a quantity at grid(max_sampled), given that up to max sequences."""
        long = self.seqs[name] * short[-1]
        long[: len(short)] = short
        return long


@dataclass(frozen=True, eq=False)
class CostTable:
    """Costs of one replica's step; see the module's docstring for the parts."""

    max_tokens: int
    max_seqs: int
    knots_ctx: np.ndarray  # int64 [K_c], mean cached tokens a decoding request, first is 0
    knots_past: np.ndarray  # int64 [K_p], tokens before a chunk, first is 0
    time_s: Work
    flop: Work
    hbm_bytes: Work  # of all devices of the replica
    link_bytes: Work  # sent by all devices of the replica
    energy_j: Work  # dynamic part, above idle, all devices
    idle_w: float  # all devices of the replica
    host_step_s: float
    host_seq_s: float
    n_devices: float  # with its part of those that replicas share
    peak_flop_per_s: float  # all devices, in the format most of the flop runs in
    peak_hbm_bytes_per_s: float
    low: float  # factor on time for the low end of the 80 % interval
    high: float
    sources: Mapping[str, float]  # share of a typical step's time by source
    assumed: tuple[str, ...] = ()
    by_operator: Mapping[str, float] = field(default_factory=dict)  # share of time, same step
    stages: int = 1  # pipeline stages: as many batches are in flight, each takes the whole time
    mixed_prefill: str = "sum"  # or "root_sum_square", Vidur's way with several chunks
    mixed_factor: float = 1.0  # with root_sum_square: what several chunks cost more
    #: seconds of `decode` in a step that also computes chunks (one kernel serves both, and is made
    #: for the chunk), [max sequences + 1, K_c]; None where it is no other than alone
    mixed_decode: np.ndarray | None = None
    eager_s: float = 0.0  # least time of a step with prompt tokens: the host launches its kernels
    mixed_cross_s: float = 0.0  # in such a step, per decoding request and token of its chunks
    pick: Pick | None = None  # where decoding reads a part of what is kept: to pick it
    verify: Verify | None = None  # priced where tokens are proposed
    draft: CostTable | None = None  # of who proposes them, unless only the host does ...
    draft_apart: bool = False  # ... on devices of its own
    branch: CostTable | None = None  # of a ControlNet in steps that denoise ...
    branch_apart: bool = False  # ... on devices of its own
    free: CostTable | None = None  # at full clock, where this one is slowed (`cost.clocked`)
    between: str = "linear"  # or "constant": decode and prefill keep a knot's value up to the next
