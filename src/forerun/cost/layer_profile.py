"""Costs from a measured layer profile of one engine: what a step takes as the sum of its kernels.

A folder holds, plain or gzipped, in microseconds of one call on one device:

    dense.csv         layer, tokens, time_us
    per_sequence.csv  layer, sequences, time_us                      (LM head, sampler)
    attention.csv     prefill_chunk, kv_prefill, n_decode, kv_decode, time_us
    moe.csv           tokens, activated_experts, time_us             (mixtures of experts)
    skew.csv          regime, n, kv_big, kv_mean, t_mean_us, t_max_us, t_skew_us   (optional)

With A(q, p, n, c) the attention of one layer for a chunk of q tokens after p and n decoding
requests with c cached tokens each, and q0 the smallest chunk measured:

    launch           = A(q0, 0, 0, 0)                        every step; the rest is above it
    prefill(q, p)    = A(q, p, 0, 0) - launch
    decode(n, c)     = A(0, 0, n, c) - launch                steps that only decode
    mixed(n, c)      = A(q0, 0, n, c) - launch               steps with a chunk: one kernel for both
    cross            = least squares of A - prefill - mixed - launch on n * (q - q0)

Requests of unequal context: t = t(mean) + alpha(n) * (t(longest) - t(mean)), alpha from skew.csv,
the longest of n as the requests' own lengths make it (`longest_to_mean`).

Source of the format and of alpha: casys-kaist/LLMServingSim, profiler/README.md (MIT), read for its
definitions; cross is our reading of the same table.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from forerun.cost.layer_files import LayerProfile, median
from forerun.cost.price import costs, merged, price
from forerun.cost.table import CostTable, Work, grid
from forerun.errors import SpecError
from forerun.ops.collectives import Collective
from forerun.ops.graph import Graph
from forerun.ops.lower import lower
from forerun.ops.moe import active_experts
from forerun.spec.deployment import Pool
from forerun.spec.device import Device
from forerun.spec.model import Model, Moe
from forerun.spec.requests import Requests

ONCE = ("embedding", "lm_head", "sampler")  # once a step, like all that begins with "final_"
TWICE = ("layernorm",)  # before attention and before the feed-forward, measured as one
HALF = 0.05  # 80 % interval of steps summed from kernels: 2-4 % was seen on the run in tests/laws


def longest_to_mean(requests: Requests, max_seqs: int) -> np.ndarray:
    """Expected longest context of n decoding requests over the mean one, float64 [max_seqs + 1].

    A request decodes osl steps at contexts isl .. isl + osl; with F the share of all those steps at
    a context of at most x, the longest of n has the distribution F(x)**n.  1 where n is 0.
    """
    part = (np.arange(8) + 0.5) / 8
    context = (requests.isl[:, None] + requests.osl[:, None] * part).reshape(-1)
    weight = np.repeat(requests.osl / requests.osl.sum(), len(part)) / len(part)
    order = np.argsort(context)
    context, up_to = context[order], np.cumsum(weight[order])
    n = np.arange(max_seqs + 1)[:, None]
    below = np.concatenate([[0.0], up_to[:-1]])
    longest = (context * (up_to**n - below**n)).sum(axis=1)
    ratio = np.maximum(longest / float((context * weight[order]).sum()), 1.0)
    ratio[0] = 1.0
    return ratio


def cost_table(
    profile: LayerProfile,
    model: Model,
    pool: Pool,
    device: Device,
    *,
    max_len: int,
    longest: np.ndarray | None = None,
) -> CostTable:
    """What a step of one replica takes, from the profile; flop, bytes and energy as modelled.

    longest : the longest context over the mean one by number of requests (`longest_to_mean`);
        without it every context is the mean.
    With tensor parallelism the all-reduces are modelled, as the profile is of one device.
    """
    engine = pool.engine
    max_tokens, max_seqs = engine.max_num_batched_tokens, engine.max_num_seqs
    graph = lower(model, pool)
    base = price(graph, device, max_tokens=max_tokens, max_seqs=max_seqs, max_len=max_len)
    tokens, seqs = grid(max_tokens).astype(float), grid(max_seqs).astype(float)
    L = model.n_layers
    shortest, launch = _smallest_chunk(profile)
    known_c, known_p = (np.unique(profile.attention[:, k]) for k in (3, 1))
    ctx, past = (
        np.unique(np.concatenate([[0.0], known[known <= max_len]])) for known in (known_c, known_p)
    )
    n = np.arange(max_seqs + 1.0)
    alone = _decode(profile, (0.0, 0.0), n, ctx) - launch
    beside = _decode(profile, (shortest, 0.0), n, ctx) - launch
    if longest is not None:
        alone = alone + _stretched(profile, "pure", (0.0, 0.0), n, ctx, longest)
        beside = beside + _stretched(profile, "mixed", (shortest, 0.0), n, ctx, longest)
    cross_s = _cross(profile)
    beside = beside - cross_s * shortest * n[:, None]  # the table's cross counts from no chunk
    alone, beside = np.maximum(alone, 0.0), np.maximum(beside, 0.0)
    alone[0] = beside[0] = 0.0
    chunks = np.maximum(_prefill(profile, np.maximum(tokens, 1.0), past) - launch, 0.0)
    chunks[0] = 0.0
    runs, sampled = tokens > 0, seqs > 0
    linear = sum(_calls(name, L) * _at(tokens, *xy) for name, xy in profile.dense.items())
    linear = linear + L * launch * runs + _experts(profile, model, pool.expert_loads, tokens)
    linear = linear + _collectives(graph, device, tokens)
    heads = sum(_calls(name, L) * _at(seqs, *xy) for name, xy in profile.per_sequence.items())
    time = Work(
        tokens=np.asarray(linear) * runs, seqs=np.asarray(heads) * sampled,
        decode=L * alone, prefill=L * chunks,
    )  # fmt: skip
    said = [
        f"step times are sums of {profile.n_rows:,} measured kernels of {profile.folder.name}; "
        "flop, traffic and energy are modelled",
    ]
    if longest is None or not profile.skew:
        said.append("requests of a batch are taken to have the mean context")
    if pool.tp > 1:
        said.append("all-reduces are modelled: the profile is of one device")
    return replace(
        base, knots_ctx=ctx.astype(np.int64), knots_past=past.astype(np.int64), time_s=time,
        flop=_on_knots(base.flop, base, ctx, past),
        hbm_bytes=_on_knots(base.hbm_bytes, base, ctx, past),
        link_bytes=_on_knots(base.link_bytes, base, ctx, past),
        energy_j=_on_knots(base.energy_j, base, ctx, past),
        low=1 - HALF, high=1 + HALF, sources={"measured, interpolated": 1.0},
        assumed=(*base.assumed, *said), by_operator=_shares(time, max_seqs),
        mixed_decode=L * beside, mixed_cross_s=L * cross_s,
    )  # fmt: skip


def _calls(layer: str, n_layers: int) -> int:
    """How often a kernel runs in a step."""
    if layer in ONCE or layer.startswith("final_"):
        return 1
    return 2 * n_layers if layer in TWICE else n_layers


def _at(at: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """y at given counts: linear between points, the first value before, the last slope beyond."""
    out = np.interp(at, x, y)
    if len(x) > 1:
        slope = max((y[-1] - y[-2]) / (x[-1] - x[-2]), 0.0)
        out = np.where(at > x[-1], y[-1] + slope * (at - x[-1]), out)
    return out


def _surface(
    x: np.ndarray, y: np.ndarray, z: np.ndarray, at_x: np.ndarray, at_y: np.ndarray
) -> np.ndarray:
    """z measured at scattered (x, y) on a grid [at_x, at_y]: along y first, then between rows."""
    known = np.unique(x)
    rows = np.array([_at(at_y, *median(y[x == k], z[x == k])) for k in known])
    return np.array([_at(at_x, known, column) for column in rows.T]).T


def _smallest_chunk(profile: LayerProfile) -> tuple[float, float]:
    """The smallest chunk measured alone, and its seconds."""
    a = profile.attention
    alone = a[(a[:, 0] > 0) & (a[:, 1] == 0) & (a[:, 2] == 0)]
    if not len(alone):
        what = "holds no chunk without requests that decode beside it"
        raise SpecError.one(str(profile.folder / "attention.csv"), what, "rows with n_decode 0")
    smallest = alone[np.argmin(alone[:, 0])]
    return float(smallest[0]), float(smallest[4])


def _decode(
    profile: LayerProfile, chunk: tuple[float, float], n: np.ndarray, ctx: np.ndarray
) -> np.ndarray:
    """Attention of n decoding requests beside a (chunk, past), [n, ctx]."""
    a = profile.attention
    mine = a[(a[:, 0] == chunk[0]) & (a[:, 1] == chunk[1]) & (a[:, 2] > 0)]
    if not len(mine):
        what = f"holds no decoding requests beside a chunk of {chunk[0]:g} tokens"
        raise SpecError.one(str(profile.folder / "attention.csv"), what, "measure those too")
    return _surface(mine[:, 2], mine[:, 3], mine[:, 4], n, ctx)


def _stretched(
    profile: LayerProfile, regime: str, chunk: tuple[float, float], n: np.ndarray,
    ctx: np.ndarray, longest: np.ndarray,
) -> np.ndarray:  # fmt: skip
    """What unequal contexts add: alpha(n) * (t(n, longest) - t(n, mean)), [n, ctx]."""
    if regime not in profile.skew:
        return np.zeros((len(n), len(ctx)))
    at, alpha = profile.skew[regime]
    share = np.interp(np.log2(np.maximum(n, 1.0)), np.log2(at), alpha)
    out = np.zeros((len(n), len(ctx)))
    for i, (count, ratio) in enumerate(zip(n, longest, strict=True)):
        if count:
            both = _decode_row(profile, chunk, count, np.concatenate([ctx, ctx * ratio]))
            out[i] = share[i] * (both[len(ctx) :] - both[: len(ctx)])
    return np.maximum(out, 0.0)


def _decode_row(
    profile: LayerProfile, chunk: tuple[float, float], n: float, ctx: np.ndarray
) -> np.ndarray:
    """`_decode` at one number of requests, from the measured rows on either side."""
    a = profile.attention
    mine = a[(a[:, 0] == chunk[0]) & (a[:, 1] == chunk[1]) & (a[:, 2] > 0)]
    known = np.unique(mine[:, 2])
    i = int(np.clip(np.searchsorted(known, n), 1, len(known) - 1)) if len(known) > 1 else 0
    near = mine[np.isin(mine[:, 2], known[max(i - 1, 0) : i + 1])]
    return _surface(near[:, 2], near[:, 3], near[:, 4], np.array([n]), ctx)[0]


def _prefill(profile: LayerProfile, q: np.ndarray, past: np.ndarray) -> np.ndarray:
    """Attention of a lone chunk of q tokens after each past, [q, past]."""
    a = profile.attention
    mine = a[(a[:, 0] > 0) & (a[:, 2] == 0)]
    return _surface(mine[:, 0], mine[:, 1], mine[:, 4], q, past)


def _cross(profile: LayerProfile) -> float:
    """Seconds per decoding request and token of the chunk beyond the smallest, relative errors."""
    a = profile.attention
    shortest, launch = _smallest_chunk(profile)
    alone = {(q, p): t for q, p, n, _, t in a.tolist() if q and not n}
    mixed = {(n, c): t for q, p, n, c, t in a.tolist() if q == shortest and p == 0 and n}
    rows = np.array(
        [
            ((q - shortest) * n, t - (alone[q, p] - launch) - mixed[n, c], t)
            for q, p, n, c, t in a.tolist()
            if q > shortest and n and (q, p) in alone and (n, c) in mixed
        ]
    )
    if not len(rows):
        return 0.0
    x, y, t = rows.T
    return max(float((x * y / t**2).sum() / (x * x / t**2).sum()), 0.0)


def _experts(
    profile: LayerProfile, model: Model, distribution: str, tokens: np.ndarray
) -> np.ndarray:
    """All mixture layers at each count of tokens, so distributed over experts; [tokens]."""
    total = np.zeros(len(tokens))
    for group in model.layers:
        if not isinstance(group.ffn, Moe):
            continue
        if not len(profile.experts):
            what = f"has no moe.csv, and {model.name} is a mixture of experts"
            raise SpecError.one(str(profile.folder), what, "the profile of that model")
        E, k = group.ffn.n_experts, group.ffn.topk
        active = active_experts(
            np.maximum(tokens, 1.0), n_experts=E, topk=k, n_local=E, distribution=distribution
        )
        x, y, z = profile.experts.T
        for i, (count, distinct) in enumerate(zip(tokens, active, strict=True)):
            known = np.unique(x)
            j = int(np.clip(np.searchsorted(known, count), 1, max(len(known) - 1, 1)))
            near = np.isin(x, known[j - 1 : j + 1])
            at = np.array([max(count, 1.0)])
            total[i] += group.n * float(
                _surface(x[near], y[near], z[near], at, np.array([distinct]))[0, 0]
            )
    return total


def _collectives(graph: Graph, device: Device, tokens: np.ndarray) -> np.ndarray:
    """All-reduces and the like of a step, as they are priced without a profile; [tokens]."""
    known = costs(graph, device)
    total = np.zeros(len(tokens))
    for op in merged(graph):
        if isinstance(op.shape, Collective) and op.axis == "tokens":
            total += op.count * known.by_tokens(op.shape, tokens / op.split * op.load)
    return total


def _on_knots(work: Work, base: CostTable, ctx: np.ndarray, past: np.ndarray) -> Work:
    """The same quantity with decode and prefill at other knots."""
    return replace(
        work,
        decode=np.array([_at(ctx, base.knots_ctx, row) for row in work.decode]),
        prefill=np.array([_at(past, base.knots_past, row) for row in work.prefill]),
    )


def _shares(time: Work, max_seqs: int) -> dict[str, float]:
    """Shares of time of a step in which 32 requests decode in the middle of the table."""
    n = min(32, max_seqs)
    parts = {
        "linear": float(time.tokens[n]), "lm_head, sampler": float(time.seqs[n]),
        "attention": float(time.decode[n, time.decode.shape[1] // 2]),
    }  # fmt: skip
    total = sum(parts.values())
    return {name: value / total for name, value in parts.items()}
