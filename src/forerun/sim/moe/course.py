"""The course of a run: window by window, how unevenly experts are loaded where they are.

Every `rebalance_s` the placement is made anew from the mean load since the last time, the past
alone.  It holds once the experts have arrived:

    move = experts new to the busiest receiver * bytes of one / (link rate * LINK)

Until then the old one holds.  A step is priced at one of a few levels of load (`levels`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from forerun.sim.moe import layout
from forerun.sim.moe.layout import Spread
from forerun.sim.moe.routing import links, mean_shares, shares
from forerun.spec.moe import ExpertRun

MOST_LEVELS = 8
#: loads closer than this are one level
STEP = 0.02


@dataclass(frozen=True)
class Experts:
    """The routed experts of a model over the devices of a replica."""

    n_layers: int
    n_experts: int
    topk: int
    n_devices: int  # ep
    n_slots: int  # experts and copies
    expert_bytes: float  # one expert's share on one device
    link_bytes_per_s: float  # that a device receives experts by


@dataclass(frozen=True)
class Window:
    """One window: its spread, and whether a new placement began to hold in it."""

    spread: Spread
    rebalanced: bool
    move_s: float  # time that the placement which began to hold had needed


def course(run: ExpertRun, x: Experts, seed: int) -> Iterator[Window]:
    """Windows from time 0 on, for ever."""
    routing = run.routing
    common = {"n_layers": x.n_layers, "n_experts": x.n_experts, "topk": x.topk, "seed": seed}
    _, learns = layout.find(run.placement)

    def placed(load: np.ndarray) -> np.ndarray:
        return layout.place(
            run.placement, load, n_devices=x.n_devices, n_slots=x.n_slots,
            affinity=routing.affinity, follows=follows,
        )  # fmt: skip

    mean = mean_shares(routing, **common)
    near = run.tokens_stay or run.placement == "affine"
    follows = links(mean) if near else None
    slots = placed(mean)
    waiting: tuple[float, np.ndarray, float] | None = None  # (holds from, slots, move_s)
    seen, n_seen, next_s = np.zeros((x.n_layers, x.n_experts)), 0, run.rebalance_s or np.inf
    known: Spread | None = None
    for t, share in enumerate(shares(routing, window_s=run.window_s, **common)):
        now = t * run.window_s
        if learns and run.rebalance_s and now >= next_s and waiting is None:
            wanted = placed(seen / n_seen)
            move = layout.moved(slots, wanted, x.n_devices) * x.expert_bytes / x.link_bytes_per_s
            waiting = (now + move, wanted, move)
            seen, n_seen = np.zeros_like(seen), 0
            next_s += run.rebalance_s * np.ceil((now - next_s + 1e-9) / run.rebalance_s)
        began, move_s = False, 0.0
        if waiting is not None and now >= waiting[0]:
            _, slots, move_s = waiting
            waiting, began, known = None, True, None
        if known is None or routing.drift:
            known = layout.spread(
                share, slots, n_devices=x.n_devices, topk=x.topk, affinity=routing.affinity,
                tokens_stay=run.tokens_stay, follows=follows,
            )  # fmt: skip
        yield Window(known, began, move_s)
        seen, n_seen = seen + share, n_seen + 1


def is_still(run: ExpertRun) -> bool:
    """Whether every window is like the first."""
    return not run.routing.drift and (run.rebalance_s is None or not layout.find(run.placement)[1])


def levels(windows: list[Window]) -> tuple[Spread, ...]:
    """At most MOST_LEVELS spreads that stand for the windows: equal ranges of load, each by the
    mean of its windows.  Windows that are all alike give that one, exactly."""
    load = np.array([w.spread.load for w in windows])
    low, high = float(load.min()), float(load.max())
    n = min(MOST_LEVELS, 1 + int((high - low) / STEP))
    of = _range_of(load, low, high, n)
    out = []
    for i in range(n):
        mine = [windows[j].spread for j in np.flatnonzero(of == i)]
        if not mine:
            continue
        first = mine[0]
        same = all(s == first for s in mine)
        mean = Spread(*np.mean([(s.load, s.exchange, s.port) for s in mine], axis=0).tolist())
        out.append(first if same else mean)
    return tuple(out)


def nearest_level(spread: Spread, known: tuple[Spread, ...]) -> int:
    """The level that a window is priced at."""
    return int(np.argmin([abs(level.load - spread.load) for level in known]))


def _range_of(load: np.ndarray, low: float, high: float, n: int) -> np.ndarray:
    if n == 1:
        return np.zeros(len(load), dtype=np.int64)
    return np.minimum(((load - low) / (high - low) * n).astype(np.int64), n - 1)
