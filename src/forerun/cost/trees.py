"""Boosted trees as arrays: what was learned with LightGBM, answered with numpy and numba alone.

Features are put into bins first (at most 255 a feature), so that a node is four bytes: the feature,
the bin, and how far to jump when the value lies beyond.  A leaf holds its value in the last two.
"""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from forerun.paths import cache_dir

LEAF = 255  # in `feature`: this node is a leaf
FEW = 4096  # rows up to which numpy is sooner than loading compiled code
TOGETHER = 64  # rows whose walks stay in a core's cache
STEP = 2.0**-12  # leaf values are multiples of this: 0.02 % of a time


@dataclass(frozen=True, eq=False)
class Trees:
    """The sum of all trees' leaves, a function of named features."""

    names: tuple[str, ...]
    edges: tuple[np.ndarray, ...]  # float32, ascending: bin j holds edge[j-1] < x <= edge[j]
    feature: np.ndarray  # uint8 [nodes], trees one after the other, each in preorder
    cut: np.ndarray  # uint8 [nodes], left when bin <= cut
    jump: np.ndarray  # uint16 [nodes], distance to the right child; of a leaf its value
    roots: np.ndarray  # int32 [trees]

    def __call__(self, features: Mapping[str, np.ndarray]) -> np.ndarray:
        """The sum, float64 [N].  Every named feature must be given, [N] and finite."""
        bins = np.stack([
            np.searchsorted(edge, np.asarray(features[name], dtype=np.float32)).astype(np.uint8)
            for name, edge in zip(self.names, self.edges, strict=True)
        ], axis=1)  # fmt: skip
        if len(bins) <= FEW:
            parts = [self._whole(bins[r : r + TOGETHER]) for r in range(0, len(bins), TOGETHER)]
            return np.concatenate([np.zeros(0), *parts]) * STEP
        total = np.zeros(len(bins), dtype=np.int64)
        _walk()(bins, self.feature, self.cut, self.jump, self.roots, total)
        return total * STEP

    def _whole(self, bins: np.ndarray) -> np.ndarray:
        """The sum of every tree's leaf in steps, int64 [N]; all walks go down together.

        A leaf leads to itself, so that walks need sorting out only every few levels.
        """
        N, T = len(bins), len(self.roots)
        values, (leaf, feature, steps) = bins.ravel(), self._nodes
        node = np.tile(self.roots.astype(np.intp), N)
        first = np.repeat(np.arange(N, dtype=np.intp) * bins.shape[1], T)
        going, end = np.arange(N * T), np.empty(N * T, dtype=np.intp)
        while len(going):
            for _ in range(3):
                beyond = values.take(first + feature.take(node)) > self.cut.take(node)
                node = node + steps.take(2 * node + beyond)
            done = leaf.take(node)
            end[going[done]] = node[done]
            going, node, first = going[~done], node[~done], first[~done]
        return self.jump[end].view(np.int16).astype(np.int64).reshape(N, T).sum(axis=1)

    @functools.cached_property
    def _nodes(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(is a leaf, feature, distances to the left and the right child) of each node."""
        leaf = self.feature == LEAF
        ways = np.where(leaf[:, None], 0, np.stack([np.ones_like(self.jump), self.jump], axis=1))
        return leaf, np.where(leaf, 0, self.feature).astype(np.intp), ways.astype(np.intp).ravel()

    def arrays(self) -> dict[str, np.ndarray]:
        """What `trees_from` needs, by name."""
        return {
            "edges": np.concatenate([*self.edges, np.zeros(0, np.float32)]),
            "n_edges": np.array([len(e) for e in self.edges], dtype=np.uint8),
            "feature": self.feature, "cut": self.cut, "jump": self.jump, "roots": self.roots,
        }  # fmt: skip


def trees_from(names: tuple[str, ...], arrays: Mapping[str, np.ndarray]) -> Trees:
    """Trees out of `Trees.arrays`.  Raises ValueError where the arrays contradict each other."""
    n_edges = arrays["n_edges"].astype(int)
    feature, cut, jump, roots = (arrays[k] for k in ("feature", "cut", "jump", "roots"))
    inner = feature != LEAF
    at = np.arange(len(feature))
    if len(n_edges) != len(names) or n_edges.sum() != len(arrays["edges"]):
        raise ValueError("edges do not belong to the features")
    if not len(feature) == len(cut) == len(jump) or (feature[inner] >= len(names)).any():
        raise ValueError("nodes do not belong together")
    if (at[inner] + jump[inner] >= len(feature)).any() or (jump[inner] < 2).any():
        raise ValueError("a node points outside its tree")
    if len(feature) and (inner[-1] or (len(roots) and not 0 <= roots.max() < len(feature))):
        raise ValueError("a tree has no end")
    edges = np.split(arrays["edges"].astype(np.float32), np.cumsum(n_edges)[:-1])
    return Trees(names, tuple(edges), feature, cut, jump, roots)


def trees_of_booster(booster: Any) -> Trees:
    """The trees of a LightGBM booster whose features are finite (no missing values)."""
    names = tuple(booster.feature_name())
    # as text, not as `dump_model`: its JSON takes ten times as long as the rest of this
    told = booster.model_to_string().partition("\nend of trees")[0].split("\nTree=")[1:]
    trees = [_preorder(dict(line.split("=", 1) for line in t.splitlines()[1:] if line))
             for t in told]  # fmt: skip
    ends = np.cumsum([0, *(len(feature) for feature, _, _ in trees)])
    none = np.zeros(0, np.uint8), np.zeros(0, np.float32), np.zeros(0, np.uint16)
    feature, threshold, jump = (np.concatenate(c) for c in zip(none, *trees, strict=True))
    edges = tuple(np.unique(threshold[feature == f]) for f in range(len(names)))
    if any(len(e) > 254 for e in edges):
        raise ValueError("more than 254 cuts in one feature: fit with max_bin <= 255")
    cut = np.zeros(len(feature), np.uint8)
    for f, edge in enumerate(edges):
        mine = feature == f
        cut[mine] = np.searchsorted(edge, threshold[mine])
    return Trees(names, edges, feature, cut, jump, ends[:-1].astype(np.int32))


def _preorder(told: Mapping[str, str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(feature, threshold, jump) of a tree's nodes, [nodes] each, as LightGBM writes it: inner
    nodes from 0 on, and leaf j as a child of number -1 - j."""
    of, left, right = (
        np.array(told.get(name, "").split(), dtype=int)
        for name in ("split_feature", "left_child", "right_child")
    )
    value, threshold = (
        np.array(told.get(name, "").split(), dtype=float) for name in ("leaf_value", "threshold")
    )
    before, after = left.tolist(), right.tolist()
    visited, waiting = [], [0 if len(of) else -1]
    while waiting:
        node = waiting.pop()
        visited.append(node)
        if node >= 0:
            waiting += after[node], before[node]
    order = np.array(visited)
    place = np.empty(len(order), dtype=int)
    place[order] = np.arange(len(order))  # leaves from the end
    inner, feature = order >= 0, np.full(len(order), LEAF, np.uint8)
    feature[inner] = of[order[inner]]
    cuts = np.zeros(len(order), np.float32)
    cuts[inner] = threshold[order[inner]]
    jump = np.empty(len(order), dtype=np.int64)
    jump[inner] = place[right[order[inner]]] - place[order[inner]]
    jump[~inner] = np.clip(np.rint(value[-1 - order[~inner]] / STEP), -32768, 32767)
    return feature, cuts, jump.astype(np.uint16)


def _walk_all(bins, feature, cut, jump, roots, total):
    """Adds every tree's leaf of each row to `total`, in steps.  r row, t tree, i node."""
    for r in range(bins.shape[0]):
        whole = 0
        for t in range(roots.shape[0]):
            i = int(roots[t])
            while feature[i] != LEAF:
                if bins[r, feature[i]] <= cut[i]:
                    i += 1
                else:
                    i += int(jump[i])
            leaf = int(jump[i])
            whole += leaf - 65536 if leaf >= 32768 else leaf
        total[r] = whole


@functools.cache
def _walk() -> Callable[..., None]:
    """The walk, compiled unless FORERUN_JIT=0; integers, so both give the same."""
    if os.environ.get("FORERUN_JIT", "1") == "0":
        return _walk_all
    import numba
    from numba.core import config

    usual = getattr(config, "CACHE_DIR")  # noqa: B009  (numba fills `config` at run time)
    digest = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:16]
    setattr(config, "CACHE_DIR", str(cache_dir() / "compiled" / digest))  # noqa: B010
    try:
        return numba.njit(cache=True, nogil=True)(_walk_all)
    finally:
        setattr(config, "CACHE_DIR", usual)  # noqa: B010
