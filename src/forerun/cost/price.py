"""`price`: a graph on a device to the table of what every step costs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from forerun.cost.calibration import Store, store
from forerun.cost.collectives import wires
from forerun.cost.costs import Costs, Point
from forerun.cost.efficiency import SPLIT_TOKENS
from forerun.cost.energy import Power, power
from forerun.cost.generic import peak_flop_per_s
from forerun.cost.part import Part, longer
from forerun.cost.table import CostTable, Verify, Work, grid
from forerun.cost.verify import Sizes, verify
from forerun.errors import SpecError
from forerun.ops.attention import Attention
from forerun.ops.check import math_format
from forerun.ops.collectives import Collective
from forerun.ops.graph import Graph, Op
from forerun.ops.ssm import Scan
from forerun.spec.device import Device, Link
from forerun.spec.dtype import MATH

#: the step whose shares of time, interval and format a table reports
TYPICAL_SEQS, TYPICAL_CTX = 32, 1024
_QUANTITIES = ("time_s", "flop", "hbm_bytes", "link_bytes", "energy_j")


def price(
    graph: Graph,
    device: Device,
    *,
    max_tokens: int,
    max_seqs: int,
    max_len: int | None = None,
    links: Mapping[str, Link] | None = None,
    runtime: str = "vllm",
    calibrations: Store | None = None,
    queries: int = 1,
    part: Part | None = None,
    whole: tuple[int, float] | None = None,
) -> CostTable:
    """What a step of one replica costs, by the four parts of `CostTable`.

    Time is that of the slowest device, summed over operators (no overlap between them) and, with
    pipeline stages, over stages; every other quantity is summed over all devices.  Weights are
    read once a step and stand in `tokens` (LM head: `seqs`), whose first row is zero.  Kernels of
    attention start once a step, so their launches stand in `tokens` too.

    max_len : longest context to price, default the model's; links : catalog links replaced;
    runtime : engine whose kernels run, "vllm 0.24.0"; calibrations : default what is installed;
    queries : most tokens of a decoding request that a step verifies (see `verify`);
    part : of each device that it runs on, all when absent (see `cost.part`);
    whole : (n, tokens of each) of a usual step, where n sequences attend to themselves and nothing
    is cached: it stands for the typical decode step below.
    Raises SpecError where the device has no arithmetic for a format or a needed link is unknown.

    The 80 % interval is that of a typical decode step: operators of one family err together,
    families independently, so their half widths add by squares.
    """
    max_len = max_len or graph.max_len or 8192
    m = costs(graph, device, links=links, runtime=runtime, calibrations=calibrations)
    watts = power(device)
    at = _Axes(
        tokens=grid(max_tokens).astype(float), seqs=grid(max_seqs).astype(float),
        batch=np.arange(max_seqs + 1, dtype=float)[:, None],
        ctx=knots(max_len, graph.kinks), past=knots(max_len, graph.kinks),
    )  # fmt: skip
    total = _Totals(at)
    ops = merged(graph)
    for op in ops:
        _add(total, op, at, m, watts, graph, part)
    share = _typical(ops, graph, m, max_seqs=max_seqs, max_len=max_len, whole=whole)
    n = graph.n_devices
    return CostTable(
        max_tokens=max_tokens, max_seqs=max_seqs, knots_ctx=at.ctx, knots_past=at.past,
        time_s=total.work("time_s"), flop=total.work("flop"), hbm_bytes=total.work("hbm_bytes"),
        link_bytes=total.work("link_bytes"), energy_j=total.work("energy_j"),
        idle_w=watts.idle_w * n, host_step_s=graph.host_step_s, host_seq_s=graph.host_seq_s,
        n_devices=n, peak_flop_per_s=share.peak_flop_per_s * n,
        peak_hbm_bytes_per_s=device.hbm_bytes_per_s * n, low=share.low, high=share.high,
        sources=share.sources, by_operator=share.by_operator, stages=graph.pp,
        eager_s=graph.host_kernel_s * n_kernels(ops),
        verify=_verify(ops, at, m, watts, queries, max_tokens) if queries > 1 else None,
        assumed=tuple(
            dict.fromkeys((*graph.assumed, *_assumed(graph, device, m, share), *watts.assumed))
        ),
    )  # fmt: skip


def _verify(
    ops: list[Op], at: _Axes, m: Costs, watts: Power, queries: int, max_tokens: int
) -> Verify:
    most = len(at.batch) - 1
    sampled = min(max_tokens, most * queries)
    return verify(ops, Sizes(at.batch, at.ctx, most, sampled, queries), m, watts)


def costs(
    graph: Graph, device: Device, *, links: Mapping[str, Link] | None = None,
    runtime: str = "vllm", calibrations: Store | None = None,
) -> Costs:  # fmt: skip
    """Seconds of a graph's operators on a device.

    Raises SpecError where the device has no arithmetic for a format.
    """
    for dtype in sorted({op.dtype for op in graph.ops}):
        if math_format(device, dtype) is None:
            raise SpecError.one(
                f"device.{device.name}", f"has no arithmetic for {dtype} nor a wider format",
                f"one of: {', '.join(device.peak_flop_per_s)}",
            )  # fmt: skip
    held = device.l2_bytes is not None and _weights_bytes(graph) < 0.5 * device.l2_bytes
    return Costs(device, wires(device, links), links, runtime, calibrations or store(), held)


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
        key = (op.name, op.shape, op.axis, op.split, op.devices, op.load)
        counts[key] += op.count
        first.setdefault(key, op)
    return [
        Op(op.name, op.shape, op.axis, counts[k], op.split, op.devices, op.group, op.part, op.load)
        for k, op in first.items()
    ]


def n_kernels(ops: Iterable[Op]) -> float:
    """Kernels that one step launches on each device, collectives included."""
    return sum(op.count * (1 if isinstance(op.shape, Collective) else op.kernels) for op in ops)


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


def _add(
    total: _Totals, op: Op, at: _Axes, m: Costs, watts: Power, graph: Graph, part: Part | None
) -> None:
    """Add one operator to the totals.  Device quantities times its devices, time once."""
    shape, c, dp = op.shape, op.count, op.split
    if isinstance(shape, Attention | Scan):
        total.add("tokens", time_s=c * m.launch(shape) * (at.tokens > 0))
        time = m.decode(shape, np.ceil(at.batch / dp), at.ctx)
        counts = shape.decode(at.batch / dp, at.ctx)
        _add_work(total, "decode", op, time, counts, watts, 1.0, m.device, part)
        q = at.tokens[:, None]
        time = m.prefill(shape, q, at.past)
        # attention groups share the chunks of a step evenly
        counts = shape.prefill(q, at.past)
        _add_work(total, "prefill", op, time, counts, watts, 1.0 / dp, m.device, part)
        return
    units = at.tokens if op.axis == "tokens" else at.seqs
    if isinstance(shape, Collective):
        time = m.by_tokens(shape, units / op.split * op.load)
        sent = shape.sent(units / op.split)
        energy = watts.dynamic_j(0.0, 0.0, sent, time, graph.math)
        total.add(
            op.axis, time_s=c * time, link_bytes=c * op.devices * sent,
            energy_j=c * op.devices * energy,
        )  # fmt: skip
        return
    if not op.kernels:
        return  # only takes memory
    time = m.by_tokens(shape, _busiest(units, op))
    counts = shape.counts(units / op.split)
    _add_work(total, op.axis, op, time, counts, watts, 1.0, m.device, part)


def _busiest(units: Any, op: Op) -> Any:
    """Units of the device that the others wait for."""
    return np.ceil(np.ceil(units / op.split) * op.load)


def _add_work(
    total: _Totals, axis: str, op: Op, time: Any, counts: Any, watts: Power, share: float,
    device: Device, part: Part | None,
) -> None:  # fmt: skip
    sms = 1.0
    if part is not None:  # the same work takes longer
        time, sms = time * longer(counts, device, op.dtype, part), part.flop
    energy = watts.dynamic_j(counts.flop, counts.hbm_bytes, 0.0, time, op.dtype, sms)
    c, all_of = op.count * share, op.count * share * op.devices
    total.add(
        axis, time_s=c * time, flop=all_of * counts.flop, hbm_bytes=all_of * counts.hbm_bytes,
        energy_j=all_of * energy,
    )  # fmt: skip


def _weights_bytes(graph: Graph) -> float:
    return sum(op.stored_bytes * op.count for op in graph.ops if op.name != "embedding") / graph.pp


@dataclass(frozen=True)
class _Share:
    low: float
    high: float
    peak_flop_per_s: float
    sources: dict[str, float]
    outside: tuple[str, ...]  # operators beyond what was measured
    by_operator: dict[str, float] = field(default_factory=dict)


def _typical(
    ops: list[Op], graph: Graph, m: Costs, *, max_seqs: int, max_len: int,
    whole: tuple[int, float] | None = None,
) -> _Share:  # fmt: skip
    """Shares, interval and main format of one decode step of TYPICAL_SEQS requests."""
    B, c = float(min(max_seqs, TYPICAL_SEQS)), float(min(max_len // 2, TYPICAL_CTX))
    time_of: dict[str, float] = defaultdict(float)
    flop_of: dict[str, float] = defaultdict(float)
    source_of: dict[str, float] = defaultdict(float)
    width: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
    outside: list[str] = []
    for op in ops:
        if not op.kernels and not isinstance(op.shape, Collective):
            continue
        n, shape = _busiest(B, op), op.shape
        sequential, count = isinstance(shape, Attention | Scan), op.count
        if whole is not None:
            seqs, each = whole
            n = _busiest(seqs if op.axis == "seqs" else seqs * each, op)
            if sequential:
                n, count = np.ceil(each / op.split), op.count * seqs
            point: Point = m.point(shape, n, whole=True)
        else:
            point = m.point(shape, n, c if sequential else None)
        time = count * point.time_s
        time_of[op.name] += time
        source_of[point.source] += time
        width[op.family][0] += count * (point.time_s - point.low_s)
        width[op.family][1] += count * (point.high_s - point.time_s)
        if point.outside:
            outside.append(op.name)
        if not isinstance(shape, Collective):
            if not isinstance(shape, Attention | Scan):
                counts = shape.counts(np.float64(n))
            else:
                counts = shape.decode(n, c) if whole is None else shape.prefill(np.float64(n), 0.0)
            used = math_format(m.device, op.dtype)
            flop_of[used or ""] += count * float(counts.flop) * op.devices
    total = sum(time_of.values())
    below, above = (np.sqrt(sum(w[k] ** 2 for w in width.values())) / total for k in (0, 1))
    main = max(flop_of, key=lambda k: flop_of[k])
    return _Share(
        low=float(max(0.05, 1 - below)),
        high=float(1 + above),
        peak_flop_per_s=peak_flop_per_s(m.device, main),
        sources={k: t / total for k, t in sorted(source_of.items(), key=lambda kv: -kv[1])},
        outside=tuple(dict.fromkeys(outside)),
        by_operator={k: t / total for k, t in sorted(time_of.items(), key=lambda kv: -kv[1])},
    )


def _assumed(graph: Graph, device: Device, m: Costs, share: _Share) -> list[str]:
    out = []
    if any("roofline" in source for source in share.sources):
        out.append(f"efficiencies of {device.name} are partly uncalibrated ({m.eff.source})")
    if share.outside:
        out.append(f"outside the measured range in {', '.join(share.outside)}")
    if device.kind == "gpu":
        out.append(
            "steps are replayed as graphs: kernels follow each other without the host, which adds "
            "only its own terms"
        )
    for dtype in sorted({op.dtype for op in graph.ops}):
        used, wanted = math_format(device, dtype), MATH.get(dtype, dtype)
        if used and used != wanted:
            out.append(f"{device.name} has no {wanted} arithmetic: {dtype} products run in {used}")
    if graph.pp > 1:
        out.append(f"{graph.pp} batches are in flight, one a pipeline stage")
    out += m.said
    if m.cached:
        out.append("all weights of a device stay in its last-level cache")
    return out
