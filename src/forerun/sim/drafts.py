"""Who computes proposals: the draft of a pool lowered, fitted into memory, priced."""

from __future__ import annotations

from dataclasses import dataclass, replace

from forerun import catalog
from forerun.cost.engine_fit import EngineFit
from forerun.cost.engine_profile import EngineProfile
from forerun.cost.memory import Memory, measure, with_draft
from forerun.cost.price import price
from forerun.cost.table import CostTable
from forerun.errors import Problem, SpecError
from forerun.ops.graph import Graph, Op
from forerun.ops.lower import lower
from forerun.ops.matmul import Matmul
from forerun.sim.speculation import Drafting, drafting
from forerun.spec.deployment import Engine, Pool
from forerun.spec.device import Device
from forerun.spec.model import Model
from forerun.spec.speculation import Speculation


@dataclass(frozen=True)
class Draft:
    """A model that proposes tokens, on the devices it runs on."""

    said: Speculation
    model: Model
    pool: Pool
    device: Device
    graph: Graph

    @property
    def apart(self) -> bool:
        """On devices of its own."""
        return self.said.device is not None


def speaks(pool: Pool) -> Speculation | None:
    """What a pool says of speculation, when that is anything but nothing."""
    said = pool.engine.speculation
    return said if said is not None and said.most > 0 else None


def queries(pool: Pool) -> int:
    """Most tokens of a decoding request in a step."""
    said = speaks(pool)
    return 1 if said is None else 1 + sum(said.levels[1:])


def of_pool(target: Model, pool: Pool) -> Draft | None:
    """The pool's draft; None when there is none or only the host works.

    Raises SpecError where it cannot propose tokens of the target, ShapeError where its layout is
    impossible.
    """
    said = speaks(pool)
    if said is None or said.kind == "ngram":
        return None
    where = f"deployment.pools.{pool.name}.engine.speculation"
    model = heads_of(target, said.layers) if said.draft is None else catalog.model(said.draft)
    if model.vocab != target.vocab:
        raise SpecError.one(
            f"{where}.draft",
            f"{model.name} has a vocabulary of {model.vocab} tokens, {target.name} of "
            f"{target.vocab}: it cannot propose the target's tokens",
            "a draft of the target's own family",
        )
    on = _devices(pool, said)
    graph = lower(model, on)
    if said.kind == "heads":
        graph = replace(graph, ops=(*graph.ops, _join(graph, on)))
    return Draft(said, model, on, catalog.device(on.device), graph)


def heads_of(target: Model, layers: int) -> Model:
    """Layers like the target's last one, with its embedding and LM head."""
    last = target.layers[-1].model_copy(update={"n": layers})
    changed = {"layers": (last,), "mtp_layers": 0, "vision": None, "extra_params": 0}
    return target.model_copy(update={"name": f"{target.name} heads", **changed})


def _join(graph: Graph, pool: Pool) -> Op:
    """The product that makes one vector of the target's features and a token's embedding."""
    shape = Matmul(-(-graph.hidden // pool.tp), 2 * graph.hidden, graph.math)
    return Op("heads.join", shape, "tokens", 1, split=pool.dp, devices=pool.tp * pool.dp)


def _devices(pool: Pool, said: Speculation) -> Pool:
    """The draft as a pool: a share of the target's devices, or devices of its own."""
    engine = pool.engine
    settings = Engine(
        max_num_seqs=engine.max_num_seqs, max_num_batched_tokens=engine.max_num_batched_tokens,
        block_tokens=engine.block_tokens, gpu_memory_utilization=engine.gpu_memory_utilization,
        runtime=engine.runtime, calibration="none",
    )  # fmt: skip
    own = said.device is not None
    return Pool(
        name=f"{pool.name}.draft", device=said.device or pool.device,
        tp=said.tp or (1 if own else pool.tp), dp=1 if own else pool.dp, dtype=said.dtype,
        kv_dtype=pool.kv_dtype, engine=settings,
    )  # fmt: skip


def in_memory(
    held: Memory, draft: Draft, pool: Pool, device: Device
) -> tuple[Memory, list[Problem]]:
    """What a pool's memory holds beside its draft, and why that is not enough.

    On devices of its own the draft must hold as much context as the target.
    """
    own = measure(draft.model, draft.pool, draft.device, draft.graph)
    where = f"deployment.{pool.name}.engine.speculation"
    if not draft.apart:
        both = with_draft(held, own, shared=draft.said.kind == "heads")
        asked = pool.engine.max_model_len or 1
        if both.n_blocks > 0 and both.max_context >= asked:
            return both, []
        what = f"{draft.model.name} does not fit beside the target on {device.name}"
        return held, [Problem(where, what, "a smaller draft, or a device of its own")]
    if own.n_blocks == 0:
        what = f"{draft.model.name} does not fit on {draft.said.tp or 1} x {draft.device.name}"
        return held, [Problem(where, what, "a larger tp or device")]
    fewest = min(held.n_blocks, own.n_blocks)
    return replace(held, blocks_override=fewest), []


def beside(
    table: CostTable,
    draft: Draft,
    pool: Pool,
    max_len: int,
    fit: EngineFit | EngineProfile | None,
) -> CostTable:
    """The target's costs with those of its draft, and what is taken for granted."""
    own = price(
        draft.graph, draft.device, max_tokens=pool.engine.max_num_batched_tokens,
        max_seqs=pool.engine.max_num_seqs, max_len=max_len, runtime=pool.engine.runtime,
        queries=max(2, *draft.said.levels),
    )  # fmt: skip
    if isinstance(fit, EngineProfile):
        own = fit.corrected(own)
    said = [
        f"speculation: {draft.model.name} proposes on {draft.device.name}"
        + (", which it has for itself" if draft.apart else " beside the target")
    ]
    if draft.model.max_len is not None and draft.model.max_len < max_len:
        longest = f"{draft.model.max_len} tokens"
        said.append(f"{draft.model.name} is made for {longest}; it proposes beyond as well")
    if not draft.said.host_step_s:
        said.append("the host adds nothing to a pass of the draft (speculation.host_step_s)")
    if pool.pp > 1:
        said.append("each batch in flight drafts as if the draft's devices were its own")
    if isinstance(fit, EngineFit):
        said.append("the calibration is of the target; its draft's costs stay as they were")
    more = own.n_devices if draft.apart else 0
    return replace(
        table, draft=own, draft_apart=draft.apart, n_devices=table.n_devices + more,
        idle_w=table.idle_w + (own.idle_w if draft.apart else 0.0),
        assumed=(*table.assumed, *said),
    )  # fmt: skip


def proposing(pool: Pool, device: Device) -> Drafting | None:
    """How many tokens are proposed for a pool and how often they are right.

    Raises SpecError for a draft elsewhere without a link to it.
    """
    said = speaks(pool)
    if said is None:
        return None
    if said.device is None:
        return drafting(said)
    name = said.link or device.network
    if name is None:
        raise SpecError.one(
            f"deployment.pools.{pool.name}.engine.speculation.link",
            f"tokens go to the draft on {said.device} and back, and {device.name} has no network",
            "link: NAME (see forerun show link)",
        )
    return drafting(said, 2 * catalog.link(name).latency_s)
