"""What no schedule can beat: the least work of each request, and the least time of one alone.

Read off a cost table without simulating.  A step of T tokens, S of them sampled, with B decoding
requests of mean context c costs tokens(T) + seqs(S) + decode(B, c) and more; summed over any steps,

    tokens : >= (prompt + answer - 1) * min over T of tokens(T)/T
    seqs   : >= answer * min over S of seqs(S)/S
    decode : >= sum over decoded tokens of a + b*context, the chord under min over B of decode/B

Grids are linear between points, so a minimum of f(n)/n is at one of them.  The chord is linear,
thus a bound for batches of unequal contexts too.  Chunks' own cost and host time a step are left
out.  A token computed again after a preemption costs more than the decode it replaces, because a
and b are kept below half of a token's own cost; where prefixes are kept, so that one token may be
all that is computed again, below that of a chunk of one token too.

`new` below is the prompt tokens of each request that are computed at least, int64 [N].
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from forerun.cost.table import CostTable, Work, grid
from forerun.metrics.goodput import bounds as slo_bounds
from forerun.spec.requests import Requests
from forerun.spec.slo import Slo

WINDOWS = 7  # the whole trace, and windows of a half, a quarter, ... of its requests


@dataclass(frozen=True)
class Least:
    """The least of one quantity (seconds, flop, bytes) that work takes in any batch."""

    token: float  # a token computed
    sample: float  # a token sampled
    decode: float  # a decoded token without context
    context: float  # a decoded token, per token of context

    def prompts(self, new: np.ndarray) -> np.ndarray:
        """Up to the first token: float64 [N]."""
        return new * self.token + self.sample

    def whole(self, r: Requests, new: np.ndarray) -> np.ndarray:
        """Of whole requests: float64 [N].  The j-th decoded token, j = 0.., has isl + j before."""
        n = (r.osl - 1).astype(float)
        context = n * r.isl + n * (n - 1) / 2
        return (
            self.prompts(new)
            + n * (self.token + self.sample + self.decode)
            + context * self.context
        )


def least(table: CostTable, work: Work, *, kept: bool = False) -> Least:
    """The least of a quantity of the table; kept : prefixes are."""
    tokens = _rate(np.maximum.accumulate(work.tokens), table.max_tokens)
    sample = _rate(np.maximum.accumulate(work.seqs), table.max_seqs)
    each = work.decode[1:] / np.arange(1, len(work.decode))[:, None]
    base, slope = _chord(table, table.knots_ctx, each.min(axis=0))
    most = [(base, slope), (tokens / 2, tokens / 2)]
    if kept:
        most.append(_chord(table, table.knots_past, work.prefill[1]))
    return Least(tokens, sample, min(b for b, _ in most), min(s for _, s in most))


def _chord(table: CostTable, at: np.ndarray, value: np.ndarray) -> tuple[float, float]:
    """A straight line, (at 0, slope), that never is above the values between knots."""
    if table.between != "constant" and len(at) > 1:
        slope = float(((value[1:] - value[0]) / (at[1:] - at[0])).min())
        if slope >= 0:
            return float(value[0]), slope
    return float(value.min()), 0.0


def computed(r: Requests, kept: bool) -> np.ndarray:
    """Prompt tokens that are computed at least: all, or with prefixes kept (`kept`) those behind
    the leading blocks that some other request has too; int64 [N], at least 1."""
    if not kept or r.block_hashes is None or r.block_starts is None:
        return r.isl
    _, inverse, count = np.unique(r.block_hashes, return_inverse=True, return_counts=True)
    alone = np.concatenate([np.flatnonzero(count[inverse] == 1), [len(inverse)]])
    starts, ends = r.block_starts[:-1], r.block_starts[1:]
    first = np.minimum(alone[np.searchsorted(alone, starts)], ends)
    return np.maximum(r.isl - (first - starts) * r.hash_tokens, 1)


def _rate(values: np.ndarray, n_max: int) -> float:
    return float((values[1:] / grid(n_max)[1:]).min())


@dataclass(frozen=True, eq=False)
class Alone:
    """The least that each request's latencies can be on an idle replica: float64 [N], seconds."""

    ttft_s: np.ndarray
    step_s: float  # of any step

    def latencies(self, r: Requests) -> dict[str, np.ndarray]:
        """By SLO term; NaN where a request has no such latency."""
        step = np.where(r.osl > 1, self.step_s, np.nan)
        whole = self.ttft_s + (r.osl - 1) * self.step_s
        return {"ttft_s": self.ttft_s, "tpot_s": step, "itl_s": step, "e2el_s": whole}


def alone(table: CostTable, new: np.ndarray) -> Alone:
    """Latencies that no load can go below, at the optimistic end of the cost interval.

    A prompt is computed in one step, or in two at least; each step reads the weights.
    """
    points, work, low = grid(table.max_tokens), table.time_s, table.low
    tokens = np.maximum.accumulate(work.tokens)
    each = least(table, work).token
    one = np.where(new <= table.max_tokens, np.interp(new, points, tokens), np.inf)
    busy = np.maximum(new * each, np.minimum(one, 2 * tokens[1])) + work.seqs[1]
    host = table.host_step_s + table.host_seq_s
    step = tokens[1] + work.seqs[1] + float(work.decode[1:].min())
    return Alone(low * busy + host, low * step + host)


def needed(slo: Slo, n: int) -> int:
    """How many of n requests must be good."""
    return max(0, math.ceil(slo.attainment * n - 1e-9))


def reachable(slo: Slo, latency: dict[str, np.ndarray]) -> np.ndarray:
    """Which requests could meet every term of the SLO: bool [N]."""
    ok = np.ones(len(latency["ttft_s"]), dtype=bool)
    for term, bound in slo_bounds(slo).items():
        ok &= (latency[term] <= bound) | np.isnan(latency[term])
    return ok


def horizons(slo: Slo, r: Requests) -> dict[str, float]:
    """How long after its arrival a good request's work must be done: {"prompts": s, "whole": s}.

    Absent where the SLO sets no such limit (a bound on tpot alone lets a queue grow for ever).
    """
    out = {}
    if slo.ttft_s is not None:
        out["prompts"] = slo.ttft_s
    ends = [slo.e2el_s] if slo.e2el_s is not None else []
    gap = min((g for g in (slo.tpot_s, slo.itl_s) if g is not None), default=None)
    if slo.ttft_s is not None and gap is not None and len(r):
        ends.append(slo.ttft_s + gap * int(r.osl.max() - 1))
    if ends:
        out["whole"] = min(ends)
    return out


def busy_lanes(work: np.ndarray, horizon_s: float, r: Requests, slo: Slo) -> float:
    """How many servers of one unit of work a second it takes at least to keep the SLO.

    max over windows of  work of its requests, but the most costly that may miss the SLO
                         / (time from its first to its last arrival + horizon)
    """
    n = len(r)
    may_miss = n - needed(slo, n)
    dropped = float(np.sort(work)[n - may_miss :].sum()) if may_miss else 0.0
    total = np.concatenate([[0.0], np.cumsum(work)])
    most = 0.0
    for i in range(WINDOWS):
        size = n >> i
        if size < 1:
            break
        sums = total[size:] - total[:-size] - dropped
        spans = r.arrival_s[size - 1 :] - r.arrival_s[: n - size + 1] + horizon_s
        most = max(most, float((sums / spans).max()))
    return most
