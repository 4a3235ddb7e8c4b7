"""A diffusion model ready to run: its denoiser, the text encoders in front, the VAE behind."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from forerun import units
from forerun.cost import lora
from forerun.cost.price import price
from forerun.cost.reserve import activation_bytes, reserve_bytes, visible_bytes
from forerun.cost.table import CostTable, Work, grid
from forerun.errors import Infeasible, SpecError
from forerun.ops.diffusion import (
    described,
    lower_control,
    lower_denoiser,
    lower_first,
    lower_text,
    lower_vae,
    weights_bytes,
)
from forerun.ops.graph import Graph
from forerun.sim.adapters import fitting
from forerun.sim.branches import (
    ASSUMED,
    LOADED,
    Branching,
    beside_bytes,
    branching,
    check_used,
    with_branch,
)
from forerun.sim.power.check import check_pool
from forerun.sim.prepare import as_set, port
from forerun.sim.serve import Served
from forerun.spec.adapters import Adapters
from forerun.spec.deployment import Engine, Policy, Pool
from forerun.spec.device import Device
from forerun.spec.diffusion import Diffusion
from forerun.spec.model import Model

#: of graphs without a past: attention does not depend on what stands before
SHORT = 64
#: contexts of the decode part, by which energy and flop of steps are told, in an octave
PER_OCTAVE = 4
#: bytes of a latent's value between steps, and of the noise that is predicted (fp32, two of each)
LATENT_BYTES = 16.0


@dataclass(frozen=True)
class Asked:
    """What the requests of a model are, all together."""

    tokens: int  # that the largest of them computes in a step
    mean_tokens: int
    copies: int  # 2 with guidance
    past: int = 0  # tokens of earlier chunks that attention reads, of a usual stream ...
    most_past: int = 0  # ... and of the largest
    least_tokens: int = 1  # that the smallest request computes in a step
    n_controls: int = 0  # ControlNets that requests use


def alone(model: Model, pool: Pool, device: Device) -> Served:
    """A pool that encodes text: its memory holds the encoders, and what they gave until it is sent.

    Raises Infeasible where they do not fit, ShapeError for an impossible layout.
    """
    d, graph = described(model), lower_text(model, pool)
    most = max(pool.engine.max_num_batched_tokens, d.read)
    engine = _own(pool, most, "chunked")
    pool = pool.model_copy(update={"engine": engine, "stream_kv": False})
    weights = weights_bytes(model, pool, graph)
    left = _left(pool, device, weights + activation_bytes(graph, pool))
    a_block = engine.block_tokens * 2.0 * d.text_dim
    n_blocks = engine.n_blocks or int(max(0.0, left) // a_block)
    if n_blocks < 1:
        raise _too_large(model, pool, device, weights, "its text encoders take")
    rate, latency_s = port(pool, device)
    table = _price(graph, device, pool, most, (1, d.read))
    return Served(
        pool=pool, table=as_set(table, pool, device), n_blocks=n_blocks,
        max_len=1 << 40, kv_token_bytes=2.0 * d.text_dim, port_bytes_per_s=rate,
        port_latency_s=latency_s, weights_bytes=weights,
    )  # fmt: skip


def stages(
    model: Model, pool: Pool, device: Device, asked: Asked, *, apart: bool,
    adapters: Adapters | None = None, n_adapters: int = 0,
) -> list[Served]:  # fmt: skip
    """A pool that denoises, then the rows of what its replicas do before and after.

    apart : whether another pool encodes the text, so that this one does not keep the encoders.
    adapters : how replicas keep those n_adapters that requests name.
    The rows are [denoiser, text encoders, ControlNet, VAE], without the encoders where those are
    apart, and without a ControlNet where requests use none.
    Raises Infeasible where the model does not fit, ShapeError for an impossible layout.
    """
    if wrong := check_pool(pool):
        raise Infeasible(*wrong)
    if pool.engine.batch.name not in ("chunked", "denoise"):
        what = f"{pool.engine.batch.name} batches are of prompts and answers"
        where = f"deployment.pools.{pool.name}.engine.batch"
        raise SpecError.one(where, what, "drop it: requests join steps of denoising whole")
    d = described(model)
    check_used(model, pool, asked.n_controls)
    graph, pixels = lower_denoiser(model, pool, asked.copies), lower_vae(model, pool)
    text = None if apart else lower_text(model, pool)
    engine = _own(pool, max(pool.engine.max_num_batched_tokens, asked.tokens), "denoise")
    pool = pool.model_copy(update={"engine": engine, "stream_kv": False})
    graphs = [one for one in (graph, text, pixels) if one is not None]
    weights = sum(weights_bytes(model, pool, one) for one in graphs)
    weights += beside_bytes(model, pool, asked.copies, asked.n_controls)
    weights += lora.slots_bytes(graph, adapters) if adapters is not None and n_adapters else 0.0
    working = max(activation_bytes(graph, pool), _shown_bytes(d, asked))
    left = _left(pool, device, weights + working)
    a_token = LATENT_BYTES * d.vae.latent_channels * d.patch**2 / asked.copies
    if asked.past:  # keys and values of all blocks stay beside the chunk in work
        kept = 4.0 * sum(run.n for run in d.blocks) * d.n_heads * d.head_dim / pool.tp
        a_token += kept * asked.most_past / (asked.tokens / asked.copies)
    n_blocks = engine.n_blocks or int(max(0.0, left) // (a_token * engine.block_tokens))
    if n_blocks * engine.block_tokens < asked.tokens:
        raise _too_large(model, pool, device, weights, f"with {units.show(working, 'bytes')} of "
                         "activations it takes", working)  # fmt: skip
    rate, latency_s = port(pool, device)
    most = engine.max_num_batched_tokens
    idle = pool.model_copy(update={"replicas": 0, "autoscale": None})
    each = asked.mean_tokens / asked.copies
    usual = (asked.copies, each)
    steps = as_set(_stepwise(_price(graph, device, pool, most, usual), asked), pool, device)
    if engine.max_step_s is not None:
        most = max(asked.tokens, within(steps, engine.max_step_s, asked.mean_tokens))
        engine = engine.model_copy(update={"max_num_batched_tokens": most})
        pool = pool.model_copy(update={"engine": engine})
    branch = control = None
    if asked.n_controls:
        branch, control = _controls(model, pool, device, asked, most, usual, steps)
        control = as_set(_at_once(control), pool, device)
        steps = with_branch(steps, control, pool)
    out = [Served(
        pool=pool, table=steps, branch=branch, n_blocks=n_blocks, max_len=1 << 40,
        kv_token_bytes=a_token, port_bytes_per_s=rate, port_latency_s=latency_s,
        weights_bytes=weights, denoises=True,
    )]  # fmt: skip
    if text is not None:
        table = _price(text, device, pool, max(most, 2 * d.read), (asked.copies, d.read))
        out.append(_behind(idle, "text", as_set(_at_once(table), pool, device), role="encode"))
    if control is not None:
        out.append(_behind(idle, "controlnet", control))
    largest = _latents(d, asked, asked.tokens)
    usual = (1, _latents(d, asked, asked.mean_tokens))
    drawn = _price(pixels, device, pool.model_copy(update={"tp": 1}), largest, usual)
    shown = _shown(drawn, d, asked, steps)
    out.append(_behind(idle, "pixels", as_set(_at_once(shown), pool, device)))
    if adapters is None or not n_adapters:
        return out
    early_s = adapters.early_steps * step_s(steps, asked.least_tokens)
    found = fitting(graph, pool, device, adapters, n_adapters)
    return [replace(one, adapters=replace(found, early_s=early_s)) for one in out]


def _controls(
    model: Model, pool: Pool, device: Device, asked: Asked, most: int, usual: tuple[int, float],
    steps: CostTable,
) -> tuple[Branching, CostTable]:  # fmt: skip
    """What the pool has of ControlNets, and what one of them takes in a step."""
    own = pool.model_copy(update={"tp": 1}) if pool.control_devices else pool
    graphs = lower_control(model, own, asked.copies), lower_first(model, pool, asked.copies)
    branch, first = (
        _stepwise(_price(graph, device, one, most, usual), asked)
        for graph, one in zip(graphs, (own, pool), strict=True)
    )
    share = _own_s(first, asked.mean_tokens) / _own_s(steps, asked.mean_tokens)
    found = branching(model, pool, device, asked.copies, asked.n_controls, share)
    told = (ASSUMED, LOADED) if found.slots else (ASSUMED,)
    return found, replace(branch, assumed=(*branch.assumed, *told))


def _own_s(table: CostTable, tokens: int) -> float:
    """Seconds of a step of one request of so many tokens, without the host's."""
    at, time = grid(table.max_tokens).astype(float), table.time_s
    work = np.interp(tokens, at, time.tokens) + np.interp(tokens, at, time.prefill[:, 0])
    return float(max(work + time.seqs[1], table.eager_s))


def _own(pool: Pool, most: int, batch: str) -> Engine:
    """The engine's settings, with what these stages have of their own."""
    own: dict[str, Any] = {
        "batch": Policy(name=batch), "prefix_caching": False, "preemption": "recompute",
        "reserve": "chunk", "max_num_batched_tokens": most,
        "max_num_seqs": min(pool.engine.max_num_seqs, most),
    }  # fmt: skip
    return pool.engine.model_copy(update=own)


def _price(
    graph: Graph, device: Device, pool: Pool, most: int, usual: tuple[int, float]
) -> CostTable:
    """usual : sequences of a step, and tokens of each, at which the table's error is stated."""
    return price(
        graph, device, max_tokens=most, max_seqs=min(pool.engine.max_num_seqs, most),
        max_len=SHORT, runtime=pool.engine.runtime, whole=usual,
    )  # fmt: skip


def _behind(idle: Pool, name: str, table: CostTable, role: str = "both") -> Served:
    """A row of costs that has no replicas of its own."""
    engine = idle.engine.model_copy(
        update={"max_num_batched_tokens": table.max_tokens, "max_num_seqs": 1}
    )
    update = {"name": f"{idle.name} {name}", "role": role, "engine": engine}
    return Served(pool=idle.model_copy(update=update), table=table, n_blocks=0, max_len=0)


def _at_once(table: CostTable) -> CostTable:
    """In the engine's own iteration: the scheduler is not asked once more."""
    return replace(table, host_step_s=0.0, host_seq_s=0.0)


# -- tables ---------------------------------------------------------------------------------------


def _each(table: CostTable, change: Callable[[Work], Work]) -> CostTable:
    """The table with every quantity changed alike."""
    names = ("time_s", "flop", "hbm_bytes", "link_bytes", "energy_j")
    changed: dict[str, Any] = {name: change(getattr(table, name)) for name in names}
    return replace(table, **changed)


def _stepwise(table: CostTable, asked: Asked) -> CostTable:
    """Steps in which each request computes all its tokens.

        prefill(q)   = copies * attention(q / copies)         each copy attends to itself ...
                       times (q / copies + past) / (q / copies)   ... and to a stream's past
        decode(B, c) = B * prefill(c)                         of c tokens each, on average

    The simulator takes `prefill` of each request; `decode` tells energy and flop of logged steps.
    """
    at = grid(table.max_tokens).astype(float)
    n = int(np.log2(table.max_tokens / SHORT) * PER_OCTAVE) + 1
    knots = np.unique(np.rint(np.geomspace(SHORT, table.max_tokens, max(2, n)))).astype(np.int64)
    knots = np.concatenate([[0], knots])
    batch = np.arange(table.max_seqs + 1)[:, None]

    def change(work: Work) -> Work:
        own = at / asked.copies
        longer = 1 + asked.past / np.maximum(own, 1)  # each token sees those before, too
        each = asked.copies * longer * np.interp(own, at, work.prefill[:, 0])
        return Work(
            tokens=work.tokens, seqs=work.seqs, decode=batch * np.interp(knots, at, each)[None, :],
            prefill=each[:, None],
        )  # fmt: skip

    return replace(_each(table, change), knots_ctx=knots, knots_past=np.zeros(1, dtype=np.int64))


def within(table: CostTable, limit_s: float, tokens: int) -> int:
    """The most tokens of a step that takes no longer, where each request has so many of them."""
    at = grid(table.max_tokens).astype(float)
    time, n = table.time_s, at / tokens
    own = n * np.interp(tokens, at, time.prefill[:, 0])
    seqs = np.interp(n, grid(table.max_seqs), time.seqs)
    whole = np.maximum(time.tokens + own + seqs, table.eager_s) + table.host_step_s
    fits = np.flatnonzero(whole <= limit_s)
    return int(at[fits[-1]]) if len(fits) else 0


def step_s(table: CostTable, tokens: int) -> float:
    """Seconds of a step of one request of so many tokens."""
    return _own_s(table, tokens) + table.host_step_s + table.host_seq_s


def _shown(table: CostTable, d: Diffusion, asked: Asked, steps: CostTable) -> CostTable:
    """What the VAE takes for a request of so many tokens of the denoiser's, one after another."""
    at = grid(table.max_tokens).astype(float)
    tokens = grid(steps.max_tokens).astype(float)
    latents = np.maximum(0.0, tokens / asked.copies - d.joined) * d.patch**2

    def change(work: Work) -> Work:
        whole = work.tokens + work.prefill[:, 0]
        each = np.interp(latents, at, whole) * (latents > 0)
        none = np.zeros(2)
        return Work(
            tokens=np.zeros(len(tokens)), seqs=none, decode=np.zeros((2, 1)), prefill=each[:, None]
        )

    changed = _each(table, change)
    none = np.zeros(1, dtype=np.int64)
    return replace(
        changed, max_tokens=steps.max_tokens, max_seqs=1, knots_ctx=none, knots_past=none,
    )  # fmt: skip


def _latents(d: Diffusion, asked: Asked, tokens: int) -> int:
    """Latents (not joined into patches) of a request of so many tokens."""
    return max(1, tokens // asked.copies - d.joined) * d.patch**2


# -- memory ---------------------------------------------------------------------------------------


def _shown_bytes(d: Diffusion, asked: Asked) -> float:
    """Activations of the VAE's widest level: three of them at once, 16 bits each.

    Videos are decoded a few latents at a time (Wan's causal cache): those of one frame of latents
    are counted where there are several.
    """
    spread, widest = 1.0, 0.0
    for level, wide in enumerate(d.vae.widths):
        widest = max(widest, spread * wide)
        doubled = 2.0 if d.vae.frames and level < len(d.vae.frames) and d.vae.frames[level] else 1.0
        spread *= 4 * doubled
    latents = _latents(d, asked, asked.tokens)
    stages = 1 if d.vae.temporal == 1 else 1 + (d.frames - 1) // d.vae.temporal
    return 3 * 2.0 * widest * latents / stages


def _left(pool: Pool, device: Device, held: float) -> float:
    """What weights, activations and reserve leave of each device."""
    budget = visible_bytes(device) * pool.engine.gpu_memory_utilization
    return budget - held - reserve_bytes(device, pool)


def _too_large(
    model: Model, pool: Pool, device: Device, weights: float, how: str, working: float = 0.0
) -> Infeasible:
    held = units.show(weights + working + reserve_bytes(device, pool), "bytes")
    have = units.show(visible_bytes(device) * pool.engine.gpu_memory_utilization, "bytes")
    fix = "tp, dtype: fp8, a device with more memory, or text encoders in a pool with role: encode"
    what = f"{model.name} does not fit: {how} {held} of each device, which has {have}"
    return Infeasible.one(f"deployment.pools.{pool.name}", what, fix)
