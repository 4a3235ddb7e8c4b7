"""Encoders of images and sound, ready to run in front of the model or in pools of their own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from forerun import units
from forerun.cost import engine_fit
from forerun.cost.memory import measure
from forerun.cost.part import Part
from forerun.cost.price import price
from forerun.cost.reserve import activation_bytes, reserve_bytes, visible_bytes
from forerun.errors import Infeasible
from forerun.ops.encoder import embedding_bytes, encoder_bytes, lower_encoder
from forerun.sim.power.check import check_pool
from forerun.sim.prepare import as_set, port
from forerun.sim.serve import Served
from forerun.spec.deployment import Policy, Pool
from forerun.spec.device import Device
from forerun.spec.model import Model

#: attention of an item does not depend on what stands before it, so one knot says it all
SHORT = 64


def alone(
    model: Model, pool: Pool, device: Device, units_most: int, kept_bytes: float = 0.0
) -> Served:
    """A pool that encodes: its memory holds the encoder and embeddings until they have left.

    kept_bytes : of each device, for embeddings that are kept after that.

    What it counts as tokens are patches; a step has those of `budget`, and max_num_seqs requests.
    Raises Infeasible where the encoder does not fit or the pool's clock or cap is none of its
    device's, ShapeError for an impossible layout.
    """
    if wrong := check_pool(pool):
        raise Infeasible(*wrong)
    own: dict[str, Any] = {
        "batch": Policy(name="chunked"), "prefix_caching": False, "preemption": "recompute",
        "reuse": "prefix", "kept_tokens": None, "attended_tokens": None, "speculation": None,
    }  # fmt: skip
    pool = engine_fit.on_pool(engine_fit.of_pool(pool), model.name, pool)
    graph = lower_encoder(model, pool)
    own["max_num_batched_tokens"] = budget(model, pool, units_most)
    engine = pool.engine.model_copy(update=own)
    pool = pool.model_copy(update={"engine": engine, "stream_kv": False})
    weights = encoder_bytes(model, pool.tp)
    held = weights + activation_bytes(graph, pool) + reserve_bytes(device, pool)
    left = visible_bytes(device) * engine.gpu_memory_utilization - held - kept_bytes
    a_block = engine.block_tokens * embedding_bytes(model) / _patches_a_token(model)
    n_blocks = engine.n_blocks or int(max(0.0, left) // a_block)
    if n_blocks < 1:
        held += kept_bytes
        what = f"the encoder of {model.name} takes {units.show(held, 'bytes')} of each device"
        fix = "a device with more memory, or a smaller max_num_batched_tokens"
        raise Infeasible.one(f"deployment.pools.{pool.name}", what, fix)
    rate, latency_s = port(pool, device)
    table = price(
        graph, device, max_tokens=engine.max_num_batched_tokens,
        max_seqs=engine.max_num_seqs, max_len=SHORT, runtime=engine.runtime,
    )  # fmt: skip
    return Served(
        pool=pool,
        table=as_set(table, pool, device),
        n_blocks=n_blocks,
        max_len=1 << 40,
        kv_token_bytes=embedding_bytes(model),
        port_bytes_per_s=rate,
        port_latency_s=latency_s,
        weights_bytes=weights,
    )


def in_front(
    model: Model, pool: Pool, device: Device, units_most: int, part: Part | None = None
) -> tuple[Served, float]:
    """The row by whose costs a pool's replicas encode, and bytes of each device that it takes.

    part : of each device that it runs on, all when absent.

    The bytes are those of embeddings of as many tokens (the encoder cache),
    and what its activations take beyond the model's; its weights are counted with the model's.
    Raises ShapeError for a layout in which encoders do not run.
    """
    fitted = engine_fit.on_pool(engine_fit.of_pool(pool), model.name, pool)
    graph = lower_encoder(model, fitted)
    most = budget(model, fitted, units_most)
    stepping = {
        "max_num_batched_tokens": most, "max_num_seqs": 1, "speculation": None, "tuning": None,
    }  # fmt: skip
    idle = pool.model_copy(
        update={
            "name": f"{pool.name} encoder",
            "role": "encode",
            "replicas": 0,
            "autoscale": None,
            "engine": fitted.engine.model_copy(update=stepping),
        }
    )
    table = price(
        graph, device, max_tokens=most, max_seqs=1, max_len=SHORT, runtime=pool.engine.runtime,
        part=part,
    )  # fmt: skip
    # it runs in the engine's own iteration: the scheduler is not asked once more
    table = as_set(replace(table, host_step_s=0.0, host_seq_s=0.0), pool, device)
    beyond = activation_bytes(graph, idle) - measure(model, pool, device).activation_bytes
    taken = max(0.0, beyond) + most / _patches_a_token(model) * embedding_bytes(model)
    row = Served(
        pool=idle, table=table, n_blocks=0, max_len=0, kv_token_bytes=embedding_bytes(model)
    )
    return row, taken


def of_lanes(
    model: Model, device: Device, units_most: int, pool: Pool, rows: Sequence[Served]
) -> list[Served]:
    """The rows by whose costs lanes encode that compute prompts: each has one, on its part of the
    devices, with its `block` and `lane`."""
    lanes = [row for row in rows if row.block is not None and row.dial is None]
    mine = [row for row in lanes if row.pool.role == "prefill"]
    found = [in_front(model, pool, device, units_most, row.part)[0] for row in mine]
    said = "encoders on a share of SMs: answers beside one are slowed as by a usual prompt"
    return [
        replace(
            one, block=row.block, lane=row.lane,
            table=replace(one.table, stages=2, assumed=(*one.table.assumed, said)),
        )
        for one, row in zip(found, mine, strict=True)
    ]  # fmt: skip


def budget(model: Model, pool: Pool, units_most: int) -> int:
    """Patches that an encoder computes in a step: those of max_num_batched_tokens tokens, or of the
    largest item (vLLM's `max_num_encoder_input_tokens`)."""
    return max(units_most, round(pool.engine.max_num_batched_tokens * _patches_a_token(model)))


def _patches_a_token(model: Model) -> float:
    encoder = model.vision or model.audio
    assert encoder is not None  # `lower_encoder` has looked
    return encoder.patches_a_token
