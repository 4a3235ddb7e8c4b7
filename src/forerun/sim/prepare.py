"""From descriptions to something that runs: each pool with its costs and its memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import chain
from math import inf
from typing import Any

import numpy as np

from forerun import catalog
from forerun.cost import engine_fit, lora
from forerun.cost.clocked import at_clock
from forerun.cost.efficiency import efficiency
from forerun.cost.memory import memory
from forerun.cost.part import Part
from forerun.cost.pick import picking
from forerun.cost.price import price
from forerun.cost.table import CostTable
from forerun.errors import Infeasible, Problem
from forerun.ops.attention import Attention
from forerun.ops.graph import Graph
from forerun.ops.lower import lower
from forerun.sim import drafts, lanes
from forerun.sim.adapters import fitting
from forerun.sim.control.experts import with_levels
from forerun.sim.embeddings import Cache
from forerun.sim.moe.check import check_experts
from forerun.sim.moe.rows import Row, rows_of
from forerun.sim.power.check import check_pool
from forerun.sim.serve import Served
from forerun.sim.tiers import Tier
from forerun.spec.deployment import Deployment, Pool
from forerun.spec.device import Device
from forerun.spec.model import Model

USUAL_LEN = 2048


def prepare(
    model: Model,
    deployment: Deployment,
    *,
    mean_len: int = USUAL_LEN,
    beside_bytes: float = 0.0,
    rewrite: Callable[[Graph, Pool], Graph] | None = None,
    reprice: Callable[[CostTable, Graph, Pool], CostTable] | None = None,
    seed: int = 0,
    span_s: float = 0.0,
    n_adapters: int = 0,
) -> list[Served]:
    """Every pool of the deployment, lowered, priced and fitted into memory.

    mean_len : tokens of a usual request, which sets how many a windowed cache holds.
    beside_bytes : of each device, taken by weights of other models.
    rewrite, reprice : what is done to each pool's graph before it is priced, and to its table after
    (techniques, fitted costs); neither changes what memory holds.
    seed, span_s : of the draws of experts, and how long the run is about to be.
    n_adapters : that requests name; replicas have slots for some of them.
    Rows of other levels of expert load come after all pools; they have no replicas of their own.
    Raises ShapeError where a layout is impossible, Infeasible where the model does not fit, with
    the problems of all pools and what would mend them.
    """
    problems: list[Problem] = []
    adapters = deployment.adapters if n_adapters else None
    ready: list[Served] = []
    others: list[tuple[int, list[Served]]] = []
    for pool in deployment.pools:
        device = catalog.device(pool.device)
        problems += check_pool(pool)
        slots = lora.slots_bytes(lower(model, pool), adapters) if adapters else 0.0
        how = pool.engine.tuning
        kept = how.kept_bytes(model.hidden, model.n_layers) / pool.tp if how else 0.0
        held = memory(model, pool, device, beside_bytes=beside_bytes + slots + kept)
        draft = drafts.of_pool(model, pool)
        if draft is not None and not held.problems:
            held, found = drafts.in_memory(held, draft, pool, device)
            problems += found
            if found:
                continue
        problems += held.problems
        if held.problems:
            continue
        max_len = min(held.max_len, held.max_context)
        if (pool.engine.kept_tokens or held.max_context) < held.max_context:
            max_len = held.max_len  # memory does not end it
        fit = engine_fit.of_pool(pool)
        pool = engine_fit.on_pool(fit, model.name, pool)
        graph = lower(model, pool)
        if rewrite is not None:
            graph = rewrite(graph, pool)
        problems += check_experts(model, pool, device, graph)
        problems += _check_precision(model, pool, device, graph)
        if problems:
            continue

        def table_of(
            graph: Graph, part: Part | None = None, pool: Pool = pool, device: Device = device,
            fit: Any = fit, max_len: int = max_len,
        ) -> CostTable:  # fmt: skip
            table = price(
                graph,
                device,
                max_tokens=pool.engine.max_num_batched_tokens,
                max_seqs=pool.engine.max_num_seqs,
                max_len=max_len,
                runtime=pool.engine.runtime,
                queries=drafts.queries(pool),
                part=part,
            )
            table = engine_fit.on_table(fit, table, pool)
            if pool.engine.attended_by == "pages":
                launch_s = efficiency(device).launch_s
                table = replace(table, pick=picking(graph.ops, pool.engine.page_tokens, launch_s))
            return reprice(table, graph, pool) if reprice is not None else table

        port_bytes_per_s, port_latency_s = port(pool, device)
        rows = rows_of(model, pool, device, graph, table_of, seed=seed, span_s=span_s)
        if draft is not None:
            rows = [
                replace(row, table=drafts.beside(row.table, draft, pool, max_len, fit))
                for row in rows
            ]
        rows = [
            replace(row, table=as_set(
                row.table, pool, device, None if row.waits is None else row.waits.step_s
            ))
            for row in rows
        ]  # fmt: skip
        first, *rest = rows
        usual = max(min(mean_len, max_len), pool.engine.block_tokens)
        n_blocks = held.blocks_for(usual)
        picked = first.table.pick
        if picked is not None and pool.engine.attended_tokens and pool.engine.n_blocks is None:
            n_blocks = int(n_blocks / (1 + picked.memory_share))  # summaries of pages
        mean_token = held.kv_bytes(float(usual)) / usual * held.devices_per_group
        a_token = held.kv_bytes_per_token_replica
        if pool.engine.kv_precision is not None:  # on average, as blocks are
            a_token = mean_token
        block_bytes = mean_token * pool.engine.block_tokens
        fitted = None
        if adapters is not None:
            fitted = fitting(graph, pool, device, adapters, n_adapters, block_bytes)
        served = Served(
            pool=pool,
            table=first.table,
            n_blocks=n_blocks,
            max_len=max_len,
            kv_token_bytes=a_token,
            n_layers=model.n_layers,
            port_bytes_per_s=port_bytes_per_s,
            port_latency_s=port_latency_s,
            draft=drafts.proposing(pool, device),
            weights_bytes=held.weights_bytes,
            course=first.course,
            waits=first.waits,
            adapters=fitted,
        )
        idle = pool.model_copy(update={"replicas": 0, "autoscale": None})
        more = [replace(served, pool=idle, table=row.table, course=None) for row in rest]
        if pool.sm_share is not None:
            (served, *own), *levels = (
                lanes.lanes_of(one, device, partial(on_part, table_of, row))
                for one, row in zip((served, *more), rows, strict=True)
            )
            more = [*own, *chain.from_iterable(levels)]
        ready.append(served)
        if more:
            others.append((len(ready) - 1, more))
    if problems:
        raise Infeasible(*problems)
    return with_levels(ready, others)


def on_part(table_of: Callable[[Graph, Part], CostTable], row: Row, part: Part) -> CostTable:
    """A row's costs on a part of its devices."""
    assert row.graph is not None
    return replace(table_of(row.graph, part), assumed=row.table.assumed)


def as_set(
    table: CostTable, pool: Pool, device: Device, held_s: np.ndarray | None = None
) -> CostTable:
    """The table at a pool's own clock and cap; held_s : of its steps, in which kernels wait."""
    if pool.power is None:
        return table
    said, clock = pool.power, 1.0
    if said.clock_hz is not None and device.clock_hz is not None:
        clock = said.clock_hz / device.clock_hz
    return at_clock(table, device, clock, said.cap_w, held_s=held_s)


def _check_precision(model: Model, pool: Pool, device: Device, graph: Graph) -> list[Problem]:
    """Where older KV cannot be kept in fewer bits."""
    if pool.engine.kv_precision is None:
        return []
    where, out = f"deployment.pools.{pool.name}.engine.kv_precision", []
    shapes = [op.shape for op in graph.ops if isinstance(op.shape, Attention) and op.shape.cached]
    if not shapes or any(shape.old_k_bytes is None for shape in shapes):
        what = f"{model.name} has caches that are not keys and values of single tokens"
        out.append(Problem(where, what, "kv_dtype: fp8, which holds for any cache"))
    elif any(shape.old_share > 1 for shape in shapes):
        what = "older tokens would take more bytes than the last ones"
        out.append(Problem(where, what, "a narrower `old`, or a larger group"))
    if pool.engine.speculation is not None:
        what = "steps that verify proposed tokens are not priced on a cache of two formats"
        out.append(Problem(where, what, "drop one of the two"))
    if "fp32" not in device.peak_flop_per_s:
        what = f"{device.name} has no fp32 rate, which older KV is dequantised at"
        out.append(Problem(where, what, "another device, or kv_dtype: fp8"))
    return out


def tiers(deployment: Deployment) -> tuple[Tier, ...]:
    """The deployment's KV tiers with the rates of their links."""
    out = []
    for one in deployment.kv_tiers:
        rate, latency_s, per_device = one.bandwidth_bytes_per_s or 0.0, one.latency_s, False
        if one.link is not None:
            link = catalog.link(one.link)
            if latency_s is None:
                latency_s = link.latency_s
            if one.bandwidth_bytes_per_s is None:
                rate, per_device = link.bandwidth_bytes_per_s, True
        out.append(
            Tier(
                name=one.tier,
                capacity_bytes=one.capacity_bytes,
                bytes_per_s=rate,
                latency_s=latency_s or 0.0,
                per_device=per_device,
                total_bytes_per_s=one.total_bandwidth_bytes_per_s or inf,
                shared_by=one.shared_by,
                devices_per_node=one.devices_per_node,
                evict=one.evict,
                write=one.write,
                buffer_bytes=one.buffer_bytes,
            )
        )
    return tuple(out)


def embedding_cache(deployment: Deployment) -> Cache | None:
    """The deployment's cache of embeddings with the rate of its link."""
    said = deployment.embedding_cache
    if said is None:
        return None
    rate, latency_s = said.bandwidth_bytes_per_s, said.latency_s
    if said.link is not None:
        link = catalog.link(said.link)
        rate = link.bandwidth_bytes_per_s if rate is None else rate
        latency_s = link.latency_s if latency_s is None else latency_s
    return Cache(said.capacity_bytes, said.memory == "fleet", rate, latency_s or 0.0)


def port(pool: Pool, device: Device) -> tuple[float, float]:
    """Bytes a second that a replica sends (and receives) KV by, and the latency of a transfer.

    Each device has its own link and moves its own share.  (0, 0) when there is no link.
    """
    name = pool.link or device.network
    if name is None:
        return 0.0, 0.0
    link = catalog.link(name)
    return link.bandwidth_bytes_per_s * pool.tp * pool.cp * pool.dp * pool.pp, link.latency_s
