"""`memory`: what a deployment keeps on each device, and how much context that leaves."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from forerun import units
from forerun.cost.reserve import activation_bytes, padding_bytes, reserve_bytes, visible_bytes
from forerun.errors import Problem, ShapeError
from forerun.ops.attention import Attention
from forerun.ops.check import check_parallel, divisors
from forerun.ops.collectives import Collective
from forerun.ops.graph import Graph
from forerun.ops.lower import lower
from forerun.ops.ssm import Scan
from forerun.spec.deployment import Pool
from forerun.spec.device import Device
from forerun.spec.dtype import WEIGHT_BYTES
from forerun.spec.model import Linear, Model

#: formats tried, in this order, when weights do not fit
SMALLER = ("fp8", "int4_wo")


@dataclass(frozen=True)
class Stage:
    """What one device of one pipeline stage keeps."""

    weights_by_part: Mapping[str, float]
    attention: tuple[tuple[Attention, float], ...]  # shape and layers
    scans: tuple[tuple[Scan, float], ...]

    @cached_property
    def weights_bytes(self) -> float:
        return sum(self.weights_by_part.values())

    @property
    def state_bytes(self) -> float:
        """Recurrent state of one sequence."""
        return sum(s.bytes_per_seq * n for s, n in self.scans)

    def kv_bytes(self, context: float) -> float:
        """Cache of one sequence of `context` tokens."""
        return sum(float(a.cached_bytes(context)) * n for a, n in self.attention)


@dataclass(frozen=True)
class Memory:
    """Bytes of one device of the fullest stage, and what the KV cache holds.

    A replica with attention-data parallelism has `groups` caches; counts of blocks and of
    concurrent requests are of all of them together.
    """

    device: str
    hbm_bytes: float  # that programs can have
    budget_bytes: float  # gpu_memory_utilization of it
    stages: tuple[Stage, ...]
    activation_bytes: float  # of the largest step the engine allows
    reserve_bytes: float  # libraries, communication buffers, captured graphs
    block_tokens: int
    max_num_seqs: int
    groups: int
    devices_per_group: int
    max_len: int  # longest context the model or engine allows
    blocks_override: int | None
    problems: tuple[Problem, ...] = ()
    assumed: tuple[str, ...] = ()

    @property
    def fits(self) -> bool:
        return not self.problems

    @cached_property
    def fullest(self) -> Stage:
        return max(self.stages, key=lambda s: s.weights_bytes)

    @property
    def weights_by_part(self) -> Mapping[str, float]:
        """Weights of one device of the fullest stage, by part."""
        return self.fullest.weights_by_part

    @property
    def weights_bytes(self) -> float:
        return self.fullest.weights_bytes

    def kv_pool(self, stage: Stage) -> float:
        """What a stage leaves for the cache; negative when even the rest does not fit."""
        used = stage.weights_bytes + self.activation_bytes + self.reserve_bytes
        return self.budget_bytes - used

    @cached_property
    def kv_pool_bytes(self) -> float:
        """The least any stage leaves on a device."""
        return min(self.kv_pool(s) for s in self.stages)

    @cached_property
    def kv_bytes_per_token(self) -> float:
        """Cache of one more token while every layer still grows: all stages, one device of each.

        With heads divided over tp this is a device's share; a latent cache is repeated on each.
        Where older tokens take fewer bits it is theirs.
        """
        recent = max((a.recent for s in self.stages for a, _ in s.attention), default=0)
        return self.kv_bytes(recent + 1.0) - self.kv_bytes(float(recent))

    @property
    def kv_bytes_per_token_replica(self) -> float:
        """The same, summed over the devices of one attention group."""
        return self.kv_bytes_per_token * self.devices_per_group

    @property
    def state_bytes_per_seq(self) -> float:
        """Recurrent state of one sequence, all stages, one device of each."""
        return sum(s.state_bytes for s in self.stages)

    def kv_bytes(self, context: float) -> float:
        """Cache of one sequence of `context` tokens, all stages, one device of each."""
        return sum(s.kv_bytes(context) for s in self.stages)

    @property
    def n_blocks(self) -> int:
        """KV blocks of a replica, each token counted as growing in every layer.

        Exact without windows; with them a lower bound (exact for contexts inside the window), see
        `blocks_for`.
        """
        return self.blocks_for(self.block_tokens)

    def blocks_for(self, context: int) -> int:
        """KV blocks of a replica when requests hold about `context` tokens.

        Layers with windows stop growing, so a token costs kv_bytes(context) / context on average.
        Recurrent state of max_num_seqs sequences is set aside first.
        """
        if self.blocks_override is not None:
            return self.blocks_override
        seqs = -(-self.max_num_seqs // self.groups)
        fewest = None
        for stage in self.stages:
            left = self.kv_pool(stage) - seqs * stage.state_bytes
            a_token = stage.kv_bytes(float(context)) / context
            if a_token > 0:
                here = int(max(0.0, left) // (a_token * self.block_tokens))
                fewest = here if fewest is None else min(fewest, here)
        if fewest is None:  # nothing grows with the context: as many blocks as sequences could use
            fits = all(self.kv_pool(s) >= seqs * s.state_bytes for s in self.stages)
            fewest = seqs * -(-self.max_len // self.block_tokens) if fits else 0
        return fewest * self.groups

    def max_concurrency(self, context: int) -> int:
        """Requests of `context` tokens whose caches fit at once; not limited by max_num_seqs.

        0 when one does not fit; a model that keeps nothing per sequence is bounded by max_num_seqs.
        """
        whole = -(-context // self.block_tokens) * self.block_tokens
        if self.blocks_override is not None:
            return self.blocks_override // (whole // self.block_tokens)
        most = None
        for stage in self.stages:
            one = stage.kv_bytes(float(whole)) + stage.state_bytes
            if one > 0:
                here = int(max(0.0, self.kv_pool(stage)) // one)
                most = here if most is None else min(most, here)
        return (self.max_num_seqs if most is None else most * self.groups)  # fmt: skip

    @cached_property
    def max_context(self) -> int:
        """Longest context of a single request, at most what the model allows; 0 if none fits."""
        low, high = 0, self.max_len
        if self.max_concurrency(high):
            return high
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self.max_concurrency(middle) else (low, middle)
        return low


def memory(model: Model, pool: Pool, device: Device, *, beside_bytes: float = 0.0) -> Memory:
    """What a pool's replica keeps, with `problems` naming what would make it fit.

    beside_bytes : of each device, taken by weights of other models.
    Raises ShapeError where the layout itself is impossible.
    """
    found = measure(model, pool, device)
    if beside_bytes:
        found = replace(found, budget_bytes=found.budget_bytes - beside_bytes)
    problems = _problems(found, model, pool, device)
    return replace(found, problems=tuple(problems))


def with_draft(held: Memory, draft: Memory, *, shared: bool) -> Memory:
    """The memory of a target beside which a draft runs on the same devices.

    The draft's weights and cache lie with those of the last stage; every block holds both caches.
    shared : embedding and LM head are the target's own.
    """
    given = ("embedding", "lm_head") if shared else ()
    (own,) = draft.stages
    weights = {"draft": sum(v for k, v in own.weights_by_part.items() if k not in given)}
    last = held.stages[-1]
    both = Stage(
        {**last.weights_by_part, **weights}, last.attention + own.attention, last.scans + own.scans
    )
    return replace(
        held,
        stages=(*held.stages[:-1], both),
        activation_bytes=max(held.activation_bytes, draft.activation_bytes),
    )


def measure(model: Model, pool: Pool, device: Device, graph: Graph | None = None) -> Memory:
    """The sizes alone, without judging them.  graph : the lowered model, when it was changed."""
    graph = graph or lower(model, pool)
    engine = pool.engine
    limit = min(x for x in (engine.max_model_len, model.max_len, 10**7) if x is not None)
    assumed = []
    windows = any(isinstance(op.shape, Attention) and op.shape.reach for op in graph.ops)
    if windows or any(isinstance(g.mixer, Linear) for g in model.layers):
        assumed.append(
            "block counts take every token as growing in every layer: a lower bound where layers "
            "have windows"
        )
    if model.max_len is None and engine.max_model_len is None:
        assumed.append("the model's longest context is not known; none is assumed")
    return Memory(
        device=device.name, hbm_bytes=visible_bytes(device),
        budget_bytes=visible_bytes(device) * engine.gpu_memory_utilization,
        stages=tuple(_stage(graph, parts) for parts in graph.stages()),
        activation_bytes=activation_bytes(graph, pool),
        reserve_bytes=reserve_bytes(device, pool),
        block_tokens=engine.block_tokens, max_num_seqs=engine.max_num_seqs, groups=pool.dp,
        devices_per_group=pool.tp * pool.cp, max_len=limit, blocks_override=engine.n_blocks,
        assumed=tuple(assumed),
    )  # fmt: skip


def _stage(graph: Graph, parts: list[tuple[int, int]]) -> Stage:
    weights: dict[str, float] = defaultdict(float)
    attention: list[tuple[Attention, float]] = []
    scans: list[tuple[Scan, float]] = []
    for op in graph.ops:
        for group, n in parts:
            if op.group != group or isinstance(op.shape, Collective):
                continue
            whole = graph.layers_of_group[group] if group >= 0 else 1
            times = op.count * n / whole
            weights[op.part] += op.stored_bytes * times
            weights["padding"] += padding_bytes(op) * times
            if isinstance(op.shape, Attention):
                attention.append((op.shape, times))
            elif isinstance(op.shape, Scan):
                scans.append((op.shape, times))
    kept = {k: v for k, v in weights.items() if v}
    return Stage(kept, tuple(attention), tuple(scans))


def _problems(found: Memory, model: Model, pool: Pool, device: Device) -> list[Problem]:
    where = f"deployment.{pool.name}"
    longest = found.max_context
    asked = pool.engine.max_model_len
    if longest > 0 and (asked is None or longest >= asked):
        if found.n_blocks > 0:
            return []
        need = found.state_bytes_per_seq * -(-found.max_num_seqs // found.groups)
        what = f"recurrent state of {found.max_num_seqs} sequences takes {_gb(need)} a device"
        return [Problem(where, what, "a smaller max_num_seqs")]
    fix = "; ".join(repairs(model, pool, device)) or "a device with more memory"
    if longest == 0:
        what = (
            f"{model.name} needs {_gb(found.weights_bytes)} weights, "
            f"{_gb(found.activation_bytes)} activations and {_gb(found.reserve_bytes)} for the "
            f"runtime on each {device.name}, which gives {_gb(found.budget_bytes)} "
            f"({pool.engine.gpu_memory_utilization:.0%} of {_gb(found.hbm_bytes)})"
        )
        return [Problem(where, what, fix)]
    what = f"max_model_len {asked} does not fit: the KV cache holds {longest} tokens of a request"
    return [Problem(where, what, f"max_model_len <= {longest}; {fix}")]


def _gb(n: float) -> str:
    return units.show(n, "bytes")


def repairs(model: Model, pool: Pool, device: Device) -> list[str]:
    """The smallest changes that make it fit, one a kind: more devices, smaller weights, a larger
    device."""
    out = []
    tp = smallest_tp(model, pool, device)
    if tp is not None and tp > pool.tp:
        out.append(f"tp = {tp}")
    elif tp is None:
        out += _wider(model, pool, device)
    stored = pool.dtype or (model.quantization.weights if model.quantization else model.dtype)
    for dtype in SMALLER:
        if WEIGHT_BYTES[dtype] < WEIGHT_BYTES[stored]:
            smaller = pool.model_copy(update={"dtype": dtype})
            if _holds(model, smaller, device):
                out.append(f"dtype = {dtype}")
                break
            tp = smallest_tp(model, smaller, device)
            if tp is not None and not out:
                out.append(f"tp = {tp} with dtype = {dtype}")
                break
    if not check_parallel(model, pool, device):
        found = measure(model, pool, device)
        least = found.weights_bytes + found.activation_bytes + found.reserve_bytes
        least /= pool.engine.gpu_memory_utilization
        if least > device.hbm_bytes:
            out.append(f"a device with more than {_gb(least)}")
    return out


def _wider(model: Model, pool: Pool, device: Device) -> list[str]:
    """Pipeline stages over several domains, when one domain is not enough."""
    if not device.network:
        return []
    domain = device.scale_up_domain or device.devices_per_node
    for pp in (2, 4, 8):
        for tp in reversed(divisors(domain, limit=domain)):
            wide = pool.model_copy(update={"tp": tp, "pp": pp})
            if _holds(model, wide, device):
                return [f"tp = {tp} with pp = {pp}"]
    return []


def smallest_tp(model: Model, pool: Pool, device: Device, *, most: int | None = None) -> int | None:
    """The smallest tensor-parallel degree that fits in one scale-up domain, or None."""
    most = most or device.scale_up_domain or device.devices_per_node
    for tp in divisors(most, limit=most):
        if _holds(model, pool.model_copy(update={"tp": tp}), device):
            return tp
    return None


def _holds(model: Model, pool: Pool, device: Device) -> bool:
    if check_parallel(model, pool, device):
        return False
    try:
        found = measure(model, pool, device)
    except ShapeError:
        return False
    asked = pool.engine.max_model_len or 1
    return found.max_context >= asked and found.n_blocks > 0
