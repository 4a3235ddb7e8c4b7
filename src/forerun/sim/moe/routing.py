"""Which experts tokens choose, layer by layer and window by window.

Weights w of layer l and expert e are drawn once; in window t

    log w_t = log w + drift * z_t        z_t = phi z_(t-1) + sqrt(1 - phi**2) noise
    phi     = exp(-window / correlation time)
    s_t     = w_t / sum(w_t), none above 1/topk

s is the share of token-expert pairs; a token chooses topk *different* experts, so that no expert
has more than one of a token's.  Affinity couples successive layers: with chance `affinity` the next
expert follows from this one, by a coupling of both layers' shares that leaves the shares themselves
as they are: experts of about the same share follow each other.  Draws are of the stream `experts`.

Legend: L layers with experts, E experts, l, e one of them, t window.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np

from forerun.errors import SpecError
from forerun.spec.moe import Routing
from forerun.spec.streams import stream

MOST_DIRICHLET = 1e6  # concentration of a skew of zero


def shares(
    routing: Routing, *, n_layers: int, n_experts: int, topk: int, window_s: float, seed: int
) -> Iterator[np.ndarray]:
    """Shares of token-expert pairs, float64 [L, E], rows sum to 1, one array a window, for ever."""
    draw = stream(seed, "experts")
    base = _weights(routing, n_layers, n_experts, draw)
    phi = float(np.exp(-window_s / routing.correlation_s))
    z = draw.standard_normal(base.shape)
    while True:
        # the largest weight at 1, so that a far drift does not overflow
        log_w = np.log(np.maximum(base, 1e-300)) + routing.drift * z
        w = np.where(base > 0, np.exp(log_w - log_w.max(axis=1, keepdims=True)), 0.0)
        yield capped(w if routing.drift else base, topk)
        z = phi * z + np.sqrt(1 - phi * phi) * draw.standard_normal(base.shape)


def mean_shares(
    routing: Routing, *, n_layers: int, n_experts: int, topk: int, seed: int
) -> np.ndarray:
    """The shares around which they wander, float64 [L, E]: what a long record would show."""
    draw = stream(seed, "experts")
    return capped(_weights(routing, n_layers, n_experts, draw), topk)


def counts(share: np.ndarray, n_tokens: int, topk: int, draw: np.random.Generator) -> np.ndarray:
    """Token-expert pairs of n_tokens tokens, int64 [L, E]; each row sums to n_tokens * topk.

    Each token's topk different experts are drawn by systematic sampling: expert e with chance
    topk * share[e], exactly (an expert at the cap is in every token's).
    """
    n_layers, n_experts = share.shape
    out = np.zeros((n_layers, n_experts), dtype=np.int64)
    for l in range(n_layers):
        order = draw.permutation(n_experts)
        edges = np.concatenate([[0.0], np.cumsum(share[l][order])]) * topk
        edges[-1] = topk  # against rounding
        u = draw.random(n_tokens)
        # points u, u + 1, ..., u + topk - 1 fall into intervals of length <= 1
        below = np.ceil(edges[:, None] - u[None, :]).clip(0, topk)
        out[l][order] = np.diff(below.sum(axis=1)).astype(np.int64)
    return out


def capped(weights: np.ndarray, topk: int) -> np.ndarray:
    """Shares in proportion to weights with none above 1/topk; what is cut off goes to the others
    in proportion.  float64 [L, E], rows sum to 1."""
    share = weights / weights.sum(axis=1, keepdims=True)
    cap = 1.0 / topk
    for row in share:
        full = np.zeros(len(row), dtype=bool)
        while (over := (row > cap * (1 + 1e-12)) & ~full).any():
            full |= over
            rest = row[~full].sum()
            if rest <= 0:
                break
            row[full] = cap
            row[~full] *= (1.0 - cap * full.sum()) / rest
    return share


def coupling(
    here: np.ndarray, there: np.ndarray, affinity: float, follows: np.ndarray | None = None
) -> np.ndarray:
    """Chance that a token's expert is e and in the next layer e', float64 [E, E].

        affinity * C + (1 - affinity) * here there'

    C lays both layers' shares along a line, the most chosen first, and pairs what lies at one
    place; experts within a factor of two stand in an order of no meaning.  Rows sum to `here`,
    columns to `there`.
    """
    alone = (1 - affinity) * np.outer(here, there)
    if follows is not None:  # links that were made for other shares: rows sum to `here`
        return affinity * here[:, None] * follows + alone
    return affinity * _in_line(here, there) + alone


def links(mean: np.ndarray) -> list[np.ndarray]:
    """For each layer but the last, the chance of each next expert after an expert whose tokens
    follow on, [E, E], rows sum to 1.  They are of the mean shares and stay while shares wander."""
    out = []
    for here, there in pairwise(mean):
        joint = _in_line(here, there)
        known = here > 0
        out.append(np.where(known[:, None], joint / np.where(known, here, 1.0)[:, None], there))
    return out


def guessed(here: np.ndarray, there: np.ndarray, affinity: float, n: int) -> float:
    """Chance that a token's next expert is among the n most likely after its present one."""
    joint = coupling(here, there, affinity)
    if n <= 0:
        return 0.0
    n = min(n, joint.shape[1])
    return float(min(1.0, np.sort(joint, axis=1)[:, -n:].sum()))


def _in_line(here: np.ndarray, there: np.ndarray) -> np.ndarray:
    out = np.zeros((len(here), len(there)))
    octaves = (np.floor(np.log2(np.maximum(s, 1e-300)) + 0.5) for s in (here, there))
    a = np.argsort(-next(octaves), kind="stable")
    b = np.lexsort((_scrambled(len(there)), -next(octaves)))
    left, right = here[a].copy(), there[b].copy()
    i = j = 0
    while i < len(a) and j < len(b):
        both = min(left[i], right[j])
        out[a[i], b[j]] += both
        left[i] -= both
        right[j] -= both
        if left[i] <= right[j]:
            i += 1
        else:
            j += 1
    return out


@cache
def _scrambled(n: int) -> np.ndarray:
    """Numbers 0 to n-1 in an order that has nothing to do with where experts are put."""
    return np.random.Generator(np.random.PCG64(n)).permutation(n)


def _weights(
    routing: Routing, n_layers: int, n_experts: int, draw: np.random.Generator
) -> np.ndarray:
    if routing.kind == "uniform":
        return np.ones((n_layers, n_experts))
    if routing.kind == "table":
        return read_table(routing, n_layers, n_experts)
    if routing.kind == "dirichlet":
        alpha = min(MOST_DIRICHLET, 1.0 / max(routing.skew, 1e-12))
        drawn = draw.gamma(alpha, size=(n_layers, n_experts))
        return np.maximum(drawn, 1e-12 * drawn.max(axis=1, keepdims=True))
    rank = np.arange(1, n_experts + 1) ** -routing.skew
    return np.stack([rank[draw.permutation(n_experts)] for _ in range(n_layers)])


def read_table(routing: Routing, n_layers: int, n_experts: int) -> np.ndarray:
    """Weights of a CSV file, float64 [L, E].  Raises SpecError for one that does not fit."""
    where, path = "moe.routing.table", Path(routing.table or "")
    try:
        found = np.loadtxt(path, delimiter=",", ndmin=2)
    except (OSError, ValueError) as error:
        raise SpecError.one(
            where, f"{path} cannot be read: {error}", "a CSV file of numbers"
        ) from None
    if found.shape[1] != n_experts or found.shape[0] not in (1, n_layers):
        lines, columns = found.shape
        raise SpecError.one(
            where, f"{path} has {lines} lines of {columns} weights, the model {n_layers} layers of "
            f"{n_experts} experts", f"1 or {n_layers} lines of {n_experts} numbers",
        )  # fmt: skip
    if not np.isfinite(found).all() or (found < 0).any() or (found.sum(axis=1) <= 0).any():
        raise SpecError.one(
            where, f"{path} has weights that are negative, infinite or all zero in a line",
            "weights >= 0, at least one above 0 a line",
        )  # fmt: skip
    return np.broadcast_to(found, (n_layers, n_experts)).copy()
