"""From descriptions to something that runs: each pool with its costs and its memory."""

from __future__ import annotations

from forerun import catalog
from forerun.cost.memory import memory
from forerun.cost.price import price
from forerun.errors import Problem, SpecError
from forerun.ops.check import check_parallel
from forerun.ops.lower import lower
from forerun.sim.serve import Served
from forerun.spec.deployment import Deployment, Pool
from forerun.spec.device import Device
from forerun.spec.model import Model


def prepare(model: Model, deployment: Deployment) -> list[Served]:
    """Every pool of the deployment, lowered, priced and fitted into memory.

    Raises SpecError with all problems of all pools: impossible layouts, models that do not fit
    (and what would make them fit).
    """
    problems: list[Problem] = []
    ready: list[Served] = []
    for pool in deployment.pools:
        device = catalog.device(pool.device)
        found = check_parallel(model, pool, device) or _memory_problems(model, pool, device)
        problems += found
        if not found:
            ready.append(prepare_pool(model, pool, device))
    if problems:
        raise SpecError(*problems)
    return ready


def _memory_problems(model: Model, pool: Pool, device: Device) -> list[Problem]:
    return list(memory(model, pool, device).problems)


def prepare_pool(model: Model, pool: Pool, device: Device) -> Served:
    """One pool that is known to be possible and to fit."""
    engine = pool.engine
    held = memory(model, pool, device)
    table = price(
        lower(model, pool),
        device,
        max_tokens=engine.max_num_batched_tokens,
        max_seqs=engine.max_num_seqs,
        max_len=held.max_len,
    )
    return Served(pool=pool, table=table, n_blocks=held.n_blocks, max_len=held.max_len)
