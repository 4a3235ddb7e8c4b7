"""A pool's rows: its costs at each level of expert load, and what waits for the host.

    experts              time of a step of load * T tokens: that of the busiest device
    dispatch, combine    bytes times `exchange`, time of `port` times the message

Sums (flop, bytes, joule) are of the tokens there are.  On the busiest device itself experts are
loaded as on any (`ExpertRun.distribution`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice

import numpy as np

from forerun import catalog
from forerun.cost.efficiency import LINK
from forerun.cost.price import costs, merged
from forerun.cost.table import CostTable, grid
from forerun.ops import moe as moe_ops
from forerun.ops.collectives import Collective
from forerun.ops.graph import Graph
from forerun.sim.moe import offload as host_room
from forerun.sim.moe.check import move_link
from forerun.sim.moe.course import (
    MOST_LEVELS,
    Experts,
    Window,
    course,
    is_still,
    levels,
    nearest_level,
)
from forerun.sim.moe.layout import Spread
from forerun.sim.moe.routing import guessed, mean_shares
from forerun.spec.deployment import Pool
from forerun.spec.device import Device
from forerun.spec.model import Model, Moe

FEWEST, MOST = 64, 20_000  # windows that are looked at to choose the levels


@dataclass(eq=False)
class Course:
    """The windows of a pool and the level of each, as far as they were asked for."""

    windows: list[Window]
    known: tuple[Spread, ...]
    window_s: float
    more: Iterator[Window] | None = None  # further windows; None: all are like the first
    _of: list[int] = field(default_factory=list)

    def level(self, t: int) -> int:
        """The level of window t."""
        if self.more is None:
            return 0
        while len(self._of) <= t:
            n = len(self._of)
            if n >= len(self.windows):
                self.windows.append(next(self.more))
            self._of.append(nearest_level(self.windows[n].spread, self.known))
        return self._of[t]

    def rows(self, first: int, others: int, step: int = 1) -> tuple[int, ...]:
        """Rows of the levels: that of window 0 is row `first`, the others follow from `others`,
        every `step` rows one."""
        start, rest = self.level(0), iter(range(others, others + step * len(self.known), step))
        return tuple(first if k == start else next(rest) for k in range(len(self.known)))

    def seen(self, until_s: float) -> list[Window]:
        """Windows up to a time."""
        if self.more is None:
            return self.windows[:1]
        n = max(1, int(np.ceil(until_s / self.window_s)))
        self.level(n - 1)
        return self.windows[:n]


def experts_of(model: Model, pool: Pool, device: Device, graph: Graph) -> Experts:
    """The routed experts of a pool's model over the devices of a replica."""
    ffn = next(g.ffn for g in model.layers if isinstance(g.ffn, Moe))
    shape = next(op.shape for op in graph.ops if isinstance(op.shape, moe_ops.Experts))
    shape = replace(shape, resident=1.0)
    name = move_link(pool, device)
    link = catalog.link(name).bandwidth_bytes_per_s * LINK if name else np.inf
    return Experts(
        n_layers=sum(g.n for g in model.layers if isinstance(g.ffn, Moe)),
        n_experts=ffn.n_experts, topk=ffn.topk, n_devices=pool.ep,
        n_slots=ffn.n_experts + pool.redundant_experts,
        expert_bytes=shape.stored_bytes / shape.n_local, link_bytes_per_s=float(link),
    )  # fmt: skip


def course_of(x: Experts, pool: Pool, *, seed: int, span_s: float) -> Course:
    """The pool's course; levels are chosen from the windows of `span_s`."""
    assert pool.moe is not None
    run = pool.moe
    windows = course(run, x, seed)
    if is_still(run):
        first = [next(windows)]
        return Course(first, levels(first), run.window_s)
    n = int(np.clip(np.ceil(span_s / run.window_s), FEWEST, MOST))
    seen = list(islice(windows, n))
    return Course(seen, levels(seen), run.window_s, windows)


@dataclass(frozen=True, eq=False)
class Row:
    """What a pool's replicas run at one level."""

    table: CostTable
    course: Course | None = None
    waits: Waits | None = None
    graph: Graph | None = None  # that the table is of


def rows_of(
    model: Model, pool: Pool, device: Device, graph: Graph, table_of: Callable[[Graph], CostTable],
    *, seed: int, span_s: float,
) -> list[Row]:  # fmt: skip
    """The pool's rows, that of its first window before those of the other levels."""
    if pool.moe is None:
        return [Row(table_of(graph), graph=graph)]
    x = experts_of(model, pool, device, graph)
    found = course_of(x, pool, seed=seed, span_s=span_s)
    start = found.level(0)
    out = []
    for level in sorted(range(len(found.known)), key=lambda k: (k != start, k)):
        spread = found.known[level]
        here = loaded(graph, spread)
        table, late = table_of(here), None
        if pool.moe.offload is not None and pool.moe.offload.in_hbm < 1:
            late = waits(model, pool, device, here, table, seed)
            table = with_waits(table, late)
        told = [*table.assumed, *sentences(pool, spread, late)]
        out.append(Row(replace(table, assumed=tuple(dict.fromkeys(told))), found, late, here))
    return out


def loaded(graph: Graph, level: Spread) -> Graph:
    """The graph when the busiest device has `level.load` times the mean."""
    ops = []
    for op in graph.ops:
        if isinstance(op.shape, moe_ops.Experts):
            op = replace(op, load=level.load)
        elif op.name in ("moe.dispatch", "moe.combine") and isinstance(op.shape, Collective):
            shape = replace(op.shape, bytes_per=op.shape.bytes_per * level.exchange)
            op = replace(op, shape=shape, load=level.port / max(level.exchange, 1e-12))
        ops.append(op)
    return replace(graph, ops=tuple(ops))


@dataclass(frozen=True)
class Waits:
    """What a pool's steps wait for experts that are on the host, a step's tokens by tokens."""

    step_s: np.ndarray  # at grid(max_tokens)
    hit: Mapping[int, float]  # share of wanted experts that are in device memory, by tokens
    guess: float


def waits(
    model: Model, pool: Pool, device: Device, graph: Graph, table: CostTable, seed: int
) -> Waits:
    """Seconds a step waits for the host, beyond what the table holds."""
    assert pool.moe is not None
    assert pool.moe.offload is not None
    run, offload = pool.moe, pool.moe.offload
    x = experts_of(model, pool, device, graph)
    share = mean_shares(
        run.routing, n_layers=x.n_layers, n_experts=x.n_experts, topk=x.topk, seed=seed
    )
    op = next(op for op in merged(graph) if isinstance(op.shape, moe_ops.Experts))
    shape = op.shape
    assert isinstance(shape, moe_ops.Experts)
    assert device.host_link is not None
    host = host_room.host_of(
        offload, catalog.device(offload.host), catalog.link(device.host_link), shape.dtype
    )
    host = host_room.shared(host, min(pool.n_devices, device.devices_per_node))
    T = grid(table.max_tokens).astype(float)
    m = costs(graph, device, runtime=pool.engine.runtime)
    n = np.ceil(np.ceil(T / op.split) * op.load)
    expert_s = m.by_tokens(replace(shape, resident=1.0), n)
    rest_s = np.maximum(0.0, table.time_s.tokens / x.n_layers - expert_s)
    guess = [
        guessed(share[l], share[l + 1], run.routing.affinity, offload.prefetch)
        for l in range(x.n_layers - 1)
    ]
    mean_guess = float(np.mean(guess)) if guess else 0.0
    n_mat = 3 if shape.gated else 2
    total, hit = np.zeros(len(T)), {}
    probe = [b for b in (1, 8, 64, 512) if b <= table.max_tokens]
    gone, asked = np.zeros(len(probe)), np.zeros(len(probe))
    kinds, times = _distinct(share)
    for row, count in zip(kinds, times, strict=True):
        layer = host_room.Layer(
            share=row, topk=x.topk, ep=pool.ep, expert_bytes=x.expert_bytes,
            expert_flop=2.0 * shape.hidden * shape.inter * n_mat,
            token_bytes=2 * shape.hidden * shape.act_bytes, guess=mean_guess,
        )  # fmt: skip
        total += count * host_room.wait_s(layer, offload, host, T, expert_s=expert_s, rest_s=rest_s)
        kept = "lfu" if offload.misses != "fetch" else offload.cache
        found = host_room.misses(layer, np.array(probe), offload.in_hbm, kept)
        gone, asked = gone + count * found.n_missing, asked + count * found.n_wanted
    hit = {b: float(1 - gone[i] / asked[i]) for i, b in enumerate(probe)}
    return Waits(total, hit, mean_guess)


def _distinct(share: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Layers whose experts are chosen alike, whatever their numbers, and how many of each."""
    ranked = np.round(-np.sort(-share, axis=1), 12)
    return np.unique(ranked, axis=0, return_counts=True)


def with_waits(table: CostTable, found: Waits) -> CostTable:
    """The table with what steps wait for the host; a step of more tokens never takes less."""
    if not found.step_s.any():
        return table
    time = table.time_s
    tokens = np.maximum.accumulate(time.tokens + found.step_s)
    return replace(table, time_s=replace(time, tokens=tokens))


def sentences(pool: Pool, level: Spread, found: Waits | None) -> list[str]:
    """What the result is told to have assumed."""
    run = pool.moe
    assert run is not None
    out = []
    if level.load > 1:
        out.append(
            f"replicas of {pool.name} share one routing, and every layer waits for the mean of its "
            "busiest device over the layers"
        )
    if run.tokens_stay:
        out.append("what keeping every token's context on every device costs is not priced")
    if run.routing.drift or run.rebalance_s:
        out.append(
            f"steps are priced at one of {MOST_LEVELS} loads at most, looked at every "
            f"{run.window_s:g} s"
        )
    if found is not None:
        shown = ", ".join(f"{100 * h:.3g} % at {b} tokens" for b, h in found.hit.items())
        out.append(f"experts wanted by a step that are in device memory: {shown}")
        out.append("tokens of one step choose experts independently, so are successive steps")
    return out
