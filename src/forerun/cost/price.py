"""`price`: a graph on a device to the table of what every step costs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from forerun.cost.collectives import wires
from forerun.cost.efficiency import LINK, SPLIT_TOKENS
from forerun.cost.energy import Power, power
from forerun.cost.roofline import (
    Machine,
    decode_time,
    launch_time,
    machine,
    prefill_time,
    step_shape_time,
)
from forerun.cost.table import CostTable, Work, grid
from forerun.ops.attention import Attention
from forerun.ops.check import math_format
from forerun.ops.collectives import Collective
from forerun.ops.graph import Graph, Op
from forerun.ops.ssm import Scan
from forerun.spec.device import Device, Link
from forerun.spec.dtype import MATH

#: the step whose shares of time, interval and format a table reports
TYPICAL_SEQS, TYPICAL_CTX = 32, 1024
#: the pessimistic end of the interval: rates at this share of the table's, launches twice
PESSIMISTIC_RATE, PESSIMISTIC_LAUNCH = 0.8, 2.0

_QUANTITIES = ("time_s", "flop", "hbm_bytes", "link_bytes", "energy_j")


def price(
    graph: Graph,
    device: Device,
    *,
    max_tokens: int,
    max_seqs: int,
    max_len: int | None = None,
    links: Mapping[str, Link] | None = None,
) -> CostTable:
    """What a step of one replica costs, by the four parts of `CostTable`.

    Time is that of the slowest device, summed over operators (no overlap between them) and, with
    pipeline stages, over stages; every other quantity is summed over all devices.  Weights are
    read once a step and stand in `tokens` (LM head: `seqs`), whose first row is zero.  Kernels of
    attention start once a step, so their launches stand in `tokens` too.

    max_len : longest context to price, default the model's; links : catalog links replaced.
    Raises SpecError where the device has no arithmetic for a format or a needed link is unknown.

    The interval, before calibration, is the honest band [max, sum] of a typical decode step:
    low  = max(flop at full peak, bytes at full peak, link bytes at full rate), all overlapped;
    high = compute + traffic + links one after the other at PESSIMISTIC_RATE of the efficiencies,
    and launches at twice the table's.
    """
    max_len = max_len or graph.max_len or 8192
    m = machine(device, wires(device, links), weights_bytes=_weights_bytes(graph))
    watts = power(device)
    at = _Axes(
        tokens=grid(max_tokens).astype(float), seqs=grid(max_seqs).astype(float),
        batch=np.arange(max_seqs + 1, dtype=float)[:, None],
        ctx=knots(max_len, graph.kinks), past=knots(max_len, graph.kinks),
    )  # fmt: skip
    total = _Totals(at)
    ops = merged(graph)
    for op in ops:
        _add(total, op, at, m, watts, graph)
    share = _typical(ops, graph, m, max_seqs=max_seqs, max_len=max_len)
    n = graph.n_devices
    return CostTable(
        max_tokens=max_tokens, max_seqs=max_seqs, knots_ctx=at.ctx, knots_past=at.past,
        time_s=total.work("time_s"), flop=total.work("flop"), hbm_bytes=total.work("hbm_bytes"),
        link_bytes=total.work("link_bytes"), energy_j=total.work("energy_j"),
        idle_w=watts.idle_w * n, host_step_s=graph.host_step_s, host_seq_s=graph.host_seq_s,
        n_devices=n, peak_flop_per_s=share.peak_flop_per_s * n,
        peak_hbm_bytes_per_s=device.hbm_bytes_per_s * n, low=share.low, high=share.high,
        sources={"roofline": 1.0}, by_operator=share.by_operator, stages=graph.pp,
        assumed=tuple(dict.fromkeys((*graph.assumed, *_assumed(graph, device, m), *watts.assumed))),
    )  # fmt: skip


def knots(max_len: int, kinks: tuple[int, ...] = (), *, most: int = 14) -> np.ndarray:
    """Contexts at which a table is given: 0, powers of two up to max_len, and every kink.

    Costs are affine beyond one split of the decode kernel and between kinks, so few suffice.
    """
    powers = [2**i for i in range(6, 40) if 2**i < max_len]
    stride = -(-len(powers) // (most - 2)) if powers else 1
    chosen = {0, max_len, *powers[::stride]}
    chosen |= {k for k in (*kinks, SPLIT_TOKENS) if k < max_len}
    return np.array(sorted(chosen), dtype=np.int64)


def merged(graph: Graph) -> list[Op]:
    """The graph's operators with equal ones of different layers put together."""
    counts: dict[tuple[Any, ...], float] = defaultdict(float)
    first: dict[tuple[Any, ...], Op] = {}
    for op in graph.ops:
        key = (op.name, op.shape, op.axis, op.split, op.devices)
        counts[key] += op.count
        first.setdefault(key, op)
    return [
        Op(op.name, op.shape, op.axis, counts[k], op.split, op.devices, op.group, op.part)
        for k, op in first.items()
    ]


@dataclass(frozen=True)
class _Axes:
    tokens: np.ndarray  # [G_T]
    seqs: np.ndarray  # [G_S]
    batch: np.ndarray  # [B+1, 1]
    ctx: np.ndarray  # [K_c]
    past: np.ndarray  # [K_p]


class _Totals:
    """Sums over operators by quantity and part."""

    def __init__(self, at: _Axes) -> None:
        shapes = {
            "tokens": at.tokens.shape, "seqs": at.seqs.shape,
            "decode": (len(at.batch), len(at.ctx)), "prefill": (len(at.tokens), len(at.past)),
        }  # fmt: skip
        self._of = {q: {p: np.zeros(s) for p, s in shapes.items()} for q in _QUANTITIES}

    def add(self, part: str, **values: Any) -> None:
        for quantity, value in values.items():
            self._of[quantity][part] += value

    def work(self, quantity: str) -> Work:
        return Work(**self._of[quantity])


def _add(total: _Totals, op: Op, at: _Axes, m: Machine, watts: Power, graph: Graph) -> None:
    """Add one operator to the totals.  Device quantities times its devices, time once."""
    shape, c, dp = op.shape, op.count, op.split
    start = launch_time(shape, m)
    if isinstance(shape, Attention | Scan):
        total.add("tokens", time_s=c * start * (at.tokens > 0))
        time = decode_time(shape, np.ceil(at.batch / dp), at.ctx, m)
        counts = shape.decode(at.batch / dp, at.ctx)
        _add_work(total, "decode", op, time, counts, watts, 1.0)
        q = at.tokens[:, None]
        time = prefill_time(shape, q, at.past, m)
        # attention groups share the chunks of a step evenly
        _add_work(total, "prefill", op, time, shape.prefill(q, at.past), watts, 1.0 / dp)
        return
    units = at.tokens if op.axis == "tokens" else at.seqs
    runs = units > 0
    if isinstance(shape, Collective):
        time = step_shape_time(shape, units / op.split, m)
        sent = shape.sent(units / op.split)
        energy = watts.dynamic_j(0.0, 0.0, sent, time, graph.math)
        total.add(
            op.axis, time_s=c * time, link_bytes=c * op.devices * sent,
            energy_j=c * op.devices * energy,
        )  # fmt: skip
        return
    if not op.kernels:
        return  # only takes memory
    time = step_shape_time(shape, np.ceil(units / op.split), m)
    counts = shape.counts(units / op.split)
    _add_work(total, op.axis, op, (time + start) * runs, counts, watts, 1.0)


def _add_work(
    total: _Totals, part: str, op: Op, time: Any, counts: Any, watts: Power, share: float
) -> None:
    energy = watts.dynamic_j(counts.flop, counts.hbm_bytes, 0.0, time, op.dtype)
    c, all_of = op.count * share, op.count * share * op.devices
    total.add(
        part, time_s=c * time, flop=all_of * counts.flop, hbm_bytes=all_of * counts.hbm_bytes,
        energy_j=all_of * energy,
    )  # fmt: skip


def _weights_bytes(graph: Graph) -> float:
    return sum(op.stored_bytes * op.count for op in graph.ops if op.name != "embedding") / graph.pp


@dataclass(frozen=True)
class _Share:
    low: float
    high: float
    peak_flop_per_s: float
    by_operator: dict[str, float] = field(default_factory=dict)


def _typical(ops: list[Op], graph: Graph, m: Machine, *, max_seqs: int, max_len: int) -> _Share:
    """Shares, interval and main format of one decode step of TYPICAL_SEQS requests."""
    B, c = float(min(max_seqs, TYPICAL_SEQS)), float(min(max_len // 2, TYPICAL_CTX))
    time_of: dict[str, float] = defaultdict(float)
    flop_of: dict[str, float] = defaultdict(float)
    compute = traffic = wire = slow = 0.0
    for op in ops:
        n, shape = B / op.split, op.shape
        if isinstance(shape, Collective):
            time = op.count * float(step_shape_time(shape, n, m))
            level = m.wires.level(shape.n, shape.stride)
            if level is not None:
                wire += op.count * float(shape.sent(n)) / (level.bytes_per_s / LINK)
            time_of[op.name] += time
            slow += time / PESSIMISTIC_RATE
            continue
        if not op.kernels:
            continue
        if isinstance(shape, Attention | Scan):
            busy = float(decode_time(shape, np.ceil(n), c, m))
            counts = shape.decode(n, c)
        else:
            busy = float(step_shape_time(shape, np.ceil(n), m))
            counts = shape.counts(np.float64(n))
        start = launch_time(shape, m)
        used = math_format(m.device, op.dtype)
        peak = m.peak(op.dtype)[0]
        flop_of[used or ""] += op.count * float(counts.flop) * op.devices
        ideal = float(counts.flop) / peak, float(counts.hbm_bytes) / m.device.hbm_bytes_per_s
        compute += op.count * ideal[0]
        traffic += op.count * ideal[1]
        time_of[op.name] += op.count * (busy + start)
        # nothing overlaps: the smaller of compute and traffic adds to the larger
        slow += op.count * (
            (busy + min(ideal)) / PESSIMISTIC_RATE + PESSIMISTIC_LAUNCH * start
        )  # fmt: skip
    whole = sum(time_of.values())
    main = max(flop_of, key=lambda k: flop_of[k])
    return _Share(
        low=min(0.99, max(compute, traffic, wire) / whole),
        high=max(1.01, slow / whole),
        peak_flop_per_s=m.device.peak_flop_per_s[main],  # type: ignore[index]
        by_operator={k: t / whole for k, t in sorted(time_of.items(), key=lambda kv: -kv[1])},
    )


def _assumed(graph: Graph, device: Device, m: Machine) -> list[str]:
    out = [f"efficiencies of {device.name} are uncalibrated ({m.eff.source})"]
    if device.kind == "gpu":
        out.append(
            "steps are replayed as graphs: kernels follow each other at "
            f"{m.eff.launch_s * 1e6:.1f} us, the host adds only its own terms"
        )
    for dtype in sorted({op.dtype for op in graph.ops}):
        used, wanted = math_format(device, dtype), MATH.get(dtype, dtype)
        if used and used != wanted:
            out.append(f"{device.name} has no {wanted} arithmetic: {dtype} products run in {used}")
    if graph.pp > 1:
        out.append(f"{graph.pp} batches are in flight, one a pipeline stage")
    if m.cached:
        out.append("all weights of a device stay in its last-level cache")
    return out
