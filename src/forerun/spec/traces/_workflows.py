"""Workflows drawn from their description: lengths, who waits for whom, which prompts begin alike.

Every node has its own random streams (lengths, counts, delays), so a change to one leaves the
draws of the others as they were.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from forerun.spec.requests import Requests
from forerun.spec.traces._processes import draw_tokens
from forerun.spec.workload import Delay, Lengths, Node, Workflow

_BATCH = 1024
_SYSTEM = 1 << 40  # block ids of what all requests of a node begin with, a range a node


def draw_workflows(workflow: Workflow, arrival_s: np.ndarray, rng: np.random.Generator) -> Requests:
    """One drawn workflow for each arrival; the requests of one stand together, at its arrival."""
    order = in_order(workflow)
    sources = dict(zip(workflow.nodes, rng.spawn(len(workflow.nodes)), strict=True))
    nodes = {
        name: _Drawn(workflow.nodes[name], (k + 1) * _SYSTEM, sources[name])
        for k, name in enumerate(workflow.nodes)
    }
    alike = any(node.extends or node.system for node in workflow.nodes.values())
    out = _Columns(workflow.block_tokens if alike else 0)
    for _ in arrival_s:
        out.first.append(len(out.isl))
        chains: dict[str, list[list[int]]] = {}
        for name in order:
            chains[name] = _place(name, nodes[name], chains, out)
    return out.requests(arrival_s, workflow.deadline_s)


def in_order(workflow: Workflow) -> list[str]:
    """Names of the nodes, each after those it waits for; they are known to make no circle."""
    placed: dict[str, None] = {}

    def place(name: str) -> None:
        node = workflow.nodes[name]
        for before in (*node.after, *([node.each] if node.each else [])):
            place(before)
        placed.setdefault(name)

    for name in workflow.nodes:
        place(name)
    return list(placed)


@dataclass(frozen=True)
class _Drawn:
    """A node with its streams: each call of a field gives the next number."""

    node: Node
    system_id: int
    rng: np.random.Generator
    isl: Callable[[], int] = field(init=False)
    osl: Callable[[], int] = field(init=False)
    copies: Callable[[], int] = field(init=False)
    repeat: Callable[[], int] = field(init=False)
    delay_s: Callable[[], float] = field(init=False)

    def __post_init__(self) -> None:
        names = ("isl", "osl", "copies", "repeat")
        *streams, last = self.rng.spawn(5)
        for name, source in zip(names, streams, strict=True):
            object.__setattr__(self, name, _tokens(getattr(self.node, name), source))
        object.__setattr__(self, "delay_s", _times(self.node.delay, last))


def _tokens(x: Lengths, rng: np.random.Generator) -> Callable[[], int]:
    def numbers() -> Iterator[int]:
        while True:
            yield from draw_tokens(x, rng, _BATCH).tolist()

    return numbers().__next__


def _times(x: Delay, rng: np.random.Generator) -> Callable[[], float]:
    """exponential: mean m; lognormal: mean m, cv c, sigma^2 = ln(1 + c^2), mu = ln m - sigma^2/2"""

    def numbers() -> Iterator[float]:
        variance = np.log1p(x.cv**2)
        while True:
            if x.kind == "exponential":
                drawn = rng.standard_exponential(_BATCH) * x.mean_s
            elif x.kind == "lognormal":
                normal = rng.standard_normal(_BATCH)
                drawn = x.mean_s * np.exp(np.sqrt(variance) * normal - variance / 2)
            else:
                drawn = np.full(_BATCH, x.mean_s)
            yield from drawn.tolist()

    return numbers().__next__


def _place(
    name: str, drawn: _Drawn, chains: dict[str, list[list[int]]], out: _Columns
) -> list[list[int]]:
    """All requests of a node in one workflow: a list of turns for each copy."""
    node = drawn.node
    joined = [chain[-1] for before in node.after for chain in chains[before]]
    mine: list[list[int]] = []
    for alone in chains[node.each] if node.each else [None]:
        before = sorted({*joined, *([alone[-1]] if alone else [])})
        for _ in range(drawn.copies()):
            parent = None
            if node.extends is not None and node.extends != name:
                choice = chains[node.extends]
                parent = alone[-1] if alone and node.extends == node.each else (
                    choice[len(mine) % len(choice)][-1]
                )  # fmt: skip
            chain = [out.add(drawn, before, parent)]
            for _ in range(drawn.repeat() - 1):
                last = chain[-1]
                chain.append(out.add(drawn, [last], last if node.extends else None))
            mine.append(chain)
    return mine


@dataclass
class _Columns:
    """The requests so far, column by column."""

    block_tokens: int
    first: list[int] = field(default_factory=list)  # request of each workflow
    isl: list[int] = field(default_factory=list)
    osl: list[int] = field(default_factory=list)
    edges: list[tuple[int, int, float]] = field(default_factory=list)
    blocks: list[np.ndarray] = field(default_factory=list)
    n_ids: int = 0

    def add(self, drawn: _Drawn, before: list[int], parent: int | None) -> int:
        """One request after those of `before`, whose prompt begins with all of `parent`."""
        r = len(self.isl)
        isl = drawn.isl() + (0 if parent is None else self.isl[parent] + self.osl[parent])
        self.isl.append(isl)
        self.osl.append(drawn.osl())
        delay = drawn.delay_s()
        self.edges += [(b, r, delay) for b in before]
        if self.block_tokens:
            shared = np.zeros(0, dtype=np.int64)
            if parent is not None:
                shared = self.blocks[parent]
            elif drawn.node.system:
                alike = min(drawn.node.system, isl) // self.block_tokens
                shared = drawn.system_id + np.arange(alike)
            fresh = (isl + self.osl[r]) // self.block_tokens - len(shared)
            self.blocks.append(np.concatenate([shared, self.n_ids + np.arange(fresh)]))
            self.n_ids += fresh
        return r

    def requests(self, arrival_s: np.ndarray, deadline_s: float | None) -> Requests:
        n = len(self.isl)
        workflow = np.repeat(np.arange(len(self.first)), np.diff([*self.first, n]))
        edges = sorted(self.edges)
        before = np.array([a for a, _, _ in edges], dtype=np.int64)
        named: dict[str, Any] = {}
        if self.block_tokens:
            named = {
                "block_hashes": np.concatenate(self.blocks).astype(np.int64),
                "block_starts": np.cumsum([0, *map(len, self.blocks)]),
                "hash_tokens": self.block_tokens,
                "answers_named": True,
            }
        return Requests(
            arrival_s=arrival_s[workflow],
            isl=np.array(self.isl, dtype=np.int64),
            osl=np.array(self.osl, dtype=np.int64),
            session=workflow,
            deadline_s=None if deadline_s is None else np.full(n, deadline_s),
            workflow=workflow,
            successors=np.array([b for _, b, _ in edges], dtype=np.int64),
            successor_starts=np.searchsorted(before, np.arange(n + 1)),
            delay_s=np.array([d for _, _, d in edges], dtype=np.float64),
            **named,
        )
