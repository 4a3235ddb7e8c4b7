"""Shared prefixes and conversations: which earlier request a new one builds on, and how far.

Every prompt begins with the same `system_blocks`.  Beyond them, a share of requests (by class of
isl) repeats the beginning of an earlier prompt: a part `depth` of its own remaining blocks, from a
prompt that was last touched `gap_s` ago.  Sessions pass from the earlier request to the later.
"""

from __future__ import annotations

import numpy as np
from pydantic import Field

from forerun.spec.base import Spec
from forerun.spec.requests import Requests
from forerun.spec.traces._lengths import N_CLASSES
from forerun.spec.traces.describe import leading_hits

_P = (0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1)
_NEIGHBOURS = 40  # candidates on either side of the moment that the gap points to


class Reuse(Spec):
    """Prefix sharing and sessions.  `hash_tokens` 0: sessions only."""

    hash_tokens: int = Field(default=0, ge=0)
    system_blocks: int = Field(default=0, ge=0)
    sessions: bool = False
    share: tuple[float, ...]  # of requests that build on an earlier one, by class of isl
    p: tuple[float, ...] = _P
    depth: tuple[tuple[float, ...], ...] = ()  # by class of isl, at p
    gap_s: tuple[float, ...]  # at p


def fit_reuse(requests: Requests) -> Reuse | None:
    """What the trace shares, or None if it says nothing about sharing."""
    session = requests.session
    named = session is not None and bool((session >= 0).any())
    if requests.block_hashes is None:
        return _fit_sessions(requests) if named else None
    assert requests.block_starts is not None
    n_blocks = np.diff(requests.block_starts)
    hits = leading_hits(requests)
    system = _system_blocks(requests, n_blocks)
    deep = hits > system
    if not deep.any():
        return Reuse(
            hash_tokens=requests.hash_tokens, system_blocks=system, sessions=named,
            share=(0.0,), depth=((0.0,) * len(_P),), gap_s=(0.0,) * len(_P),
        )  # fmt: skip
    which = _classes(requests.isl)
    depth = (hits - system) / np.maximum(n_blocks - system, 1)
    gaps = _gaps(requests, hits, deep)
    every = depth[deep]
    by_class = [depth[deep & (which == k)] for k in range(which.max() + 1)]
    return Reuse(
        hash_tokens=requests.hash_tokens,
        system_blocks=system,
        sessions=named,
        share=tuple(round(float(deep[which == k].mean()), 4) for k in range(which.max() + 1)),
        depth=tuple(_quantiles(d if len(d) else every, 4) for d in by_class),
        gap_s=_quantiles(gaps, 3),
    )


def _fit_sessions(requests: Requests) -> Reuse:
    session, t = requests.session, requests.arrival_s
    assert session is not None
    order = np.lexsort((np.arange(len(t)), session))
    again = np.zeros(len(t), dtype=bool)
    again[order[1:]] = (np.diff(session[order]) == 0) & (session[order][1:] >= 0)
    gaps = np.zeros(len(t))
    gaps[order[1:]] = np.diff(t[order])
    which = _classes(requests.isl)
    share = tuple(round(float(again[which == k].mean()), 4) for k in range(which.max() + 1))
    gap_s = _quantiles(gaps[again], 3) if again.any() else (0.0,) * len(_P)
    return Reuse(sessions=True, share=share, gap_s=gap_s)


def _classes(isl: np.ndarray) -> np.ndarray:
    rank = np.argsort(np.argsort(isl, kind="stable"), kind="stable")
    return rank * max(1, min(N_CLASSES, len(isl) // 50)) // len(isl)


def _quantiles(sample: np.ndarray, digits: int) -> tuple[float, ...]:
    return tuple(round(float(q), digits) for q in np.quantile(sample, _P))


def _system_blocks(requests: Requests, n_blocks: np.ndarray) -> int:
    """Leading blocks that more than half of all requests have in common."""
    hashes, starts = requests.block_hashes, requests.block_starts
    assert hashes is not None
    assert starts is not None
    k = 0
    while True:
        column = hashes[starts[:-1][n_blocks > k] + k]
        if not len(column):
            return k
        _, count = np.unique(column, return_counts=True)
        if count.max() <= len(n_blocks) / 2:
            return k
        k += 1


def _gaps(requests: Requests, hits: np.ndarray, deep: np.ndarray) -> np.ndarray:
    """Seconds since the last shared block of each deep request was last touched."""
    hashes, starts, t = requests.block_hashes, requests.block_starts, requests.arrival_s
    assert hashes is not None
    assert starts is not None
    owner = np.repeat(np.arange(len(t)), np.diff(starts))
    order = np.lexsort((owner, hashes))
    before = np.full(len(hashes), -1)
    same = np.diff(hashes[order]) == 0
    before[order[1:][same]] = owner[order[:-1][same]]
    last = starts[:-1][deep] + hits[deep] - 1
    return t[deep] - t[before[last]]


def draw_reuse(
    reuse: Reuse,
    rng: np.random.Generator,
    arrival_s: np.ndarray,
    isl: np.ndarray,
    which: np.ndarray,
) -> dict[str, np.ndarray | int]:
    """Columns block_hashes, block_starts, hash_tokens and session, as far as they are known."""
    n = len(isl)
    u, v, w = rng.random((n, 3)).T
    share = np.array(reuse.share)
    builds = u < share[np.minimum(which, len(share) - 1)]
    builds[:1] = False
    gap = np.interp(v, reuse.p, reuse.gap_s)
    n_blocks = -(-isl // reuse.hash_tokens) if reuse.hash_tokens else np.zeros(n, dtype=np.int64)
    hits = np.minimum(n_blocks, reuse.system_blocks)
    if reuse.hash_tokens:
        depth = np.empty(n)
        for k in range(which.max() + 1):
            rows = which == k
            depth[rows] = np.interp(w[rows], reuse.p, reuse.depth[min(k, len(reuse.depth) - 1)])
        deeper = hits + np.maximum(np.round(depth * (n_blocks - hits)), 1).astype(np.int64)
        hits = np.where(builds, np.minimum(deeper, n_blocks), hits)
    parent = _parents(arrival_s, arrival_s - gap, n_blocks, hits)
    parent[~builds] = -1
    out: dict[str, np.ndarray | int] = {}
    if reuse.sessions:
        out["session"] = _sessions(parent)
    if reuse.hash_tokens:
        hashes, starts = _blocks(parent, n_blocks, hits, reuse.system_blocks)
        out |= {"block_hashes": hashes, "block_starts": starts, "hash_tokens": reuse.hash_tokens}
    return out


def _parents(t: np.ndarray, at: np.ndarray, n_blocks: np.ndarray, hits: np.ndarray) -> np.ndarray:
    """An earlier request near time `at` whose prompt is long enough: int64 [N].

    Among the neighbours of that moment, the one whose prompt ends closest to where sharing ends;
    if none is long enough, the longest.
    """
    n = len(t)
    near = np.searchsorted(t, at)
    best = np.maximum(np.arange(n) - 1, 0)
    cost = np.full(n, np.inf)
    for k in range(-_NEIGHBOURS, _NEIGHBOURS + 1):
        candidate = np.clip(near + k, 0, np.maximum(np.arange(n) - 1, 0))
        spare = n_blocks[candidate] - hits
        # too short costs more than any spare length, and the more the shorter
        here = np.where(spare >= 0, spare + abs(k) / 100, 1e9 - spare)
        better = here < cost
        best[better], cost[better] = candidate[better], here[better]
    return best


def _sessions(parent: np.ndarray) -> np.ndarray:
    session = np.empty(len(parent), dtype=np.int64)
    n = 0
    for i, p in enumerate(parent.tolist()):
        if p >= 0:
            session[i] = session[p]
        else:
            session[i] = n
            n += 1
    return session


def _blocks(
    parent: np.ndarray, n_blocks: np.ndarray, hits: np.ndarray, system: int
) -> tuple[np.ndarray, np.ndarray]:
    """Each prompt: its parent's first blocks (or the system's), then blocks of its own."""
    starts = np.concatenate([[0], np.cumsum(n_blocks)]).astype(np.int64)
    hashes = np.arange(starts[-1]) + system  # a new number for every block ...
    for i, (p, a) in enumerate(zip(parent.tolist(), starts[:-1].tolist(), strict=True)):
        h = int(hits[i])
        if p >= 0:  # ... but for those shared
            h = min(h, int(n_blocks[p]))
            b = int(starts[p])
            hashes[a : a + h] = hashes[b : b + h]
        else:
            hashes[a : a + h] = np.arange(h)
    return hashes, starts
