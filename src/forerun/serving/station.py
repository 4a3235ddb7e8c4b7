"""`Station`: a pool of a question, priced as its engine's profile corrects it, and its memory."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

from forerun import catalog
from forerun.cost.engine_profile import EngineProfile
from forerun.cost.memory import Memory, memory
from forerun.cost.price import price
from forerun.cost.table import CostTable
from forerun.errors import Infeasible
from forerun.ops.lower import lower
from forerun.serving.cells import power_of_two
from forerun.sim.serve import Served
from forerun.spec.deployment import Pool
from forerun.spec.model import Model

#: what a table reaches at least, so that questions of one layout share theirs
LEAST_LEN, LEAST_TOKENS = 16384, 8192


@dataclass(frozen=True, eq=False)
class Station:
    """A pool ready to run."""

    served: Served
    held: Memory
    plain: CostTable  # the device's own prices, before any profile

    def slots(self, isl: int, osl: int) -> int:
        """Requests that a replica decodes at once, at most: by its seats, and by its cache with
        answers half way."""
        blocks = -(-round(isl + osl / 2) // self.served.pool.engine.block_tokens)
        return max(1, min(self.served.seats, self.served.n_blocks // blocks))

    def under(self, pool: Pool, profile: EngineProfile) -> Station:
        """The same for another profile; pool : of the question under that."""
        table = _corrected(self.plain, pool, profile)
        return replace(self, served=replace(self.served, pool=pool, table=table))


def ready(model: Model, pool: Pool, profile: EngineProfile, tokens: int) -> Station:
    """The pool for requests of so many tokens.  Raises Infeasible where the model does not fit."""
    held, plain, table = _priced(model, pool, profile, max(LEAST_LEN, power_of_two(tokens)))
    longest = min(held.max_len, held.max_context)
    n_blocks = held.blocks_for(min(tokens, longest))
    served = Served(pool=pool, table=table, n_blocks=n_blocks, max_len=longest)
    return Station(served, held, plain)


@lru_cache(maxsize=256)
def _priced(
    model: Model, pool: Pool, profile: EngineProfile, reach: int
) -> tuple[Memory, CostTable, CostTable]:
    """(memory, prices of the device, those of the profile)."""
    bare = _bare(pool)
    held = _held(model, bare)
    if held.problems:
        raise Infeasible(*held.problems)
    plain = _table(model, _shared(bare), reach)
    return held, plain, _corrected(plain, pool, profile)


@lru_cache(maxsize=256)
def _held(model: Model, pool: Pool) -> Memory:
    return memory(model, pool, catalog.device(pool.device))


def _bare(pool: Pool) -> Pool:
    """The pool as far as its prices depend on it."""
    engine = pool.engine
    keep = {"max_num_seqs", "max_num_batched_tokens", "runtime"}
    plain = type(engine)(**{name: getattr(engine, name) for name in keep}, host_kernel_s=1.0)
    return pool.model_copy(update={"engine": plain, "replicas": 1, "name": "main"})


def _shared(pool: Pool) -> Pool:
    """The same with as many tokens a step as others of its layout are priced with."""
    most = max(LEAST_TOKENS, power_of_two(pool.engine.max_num_batched_tokens))
    engine = pool.engine.model_copy(update={"max_num_batched_tokens": most})
    return pool.model_copy(update={"engine": engine})


@lru_cache(maxsize=64)
def _table(model: Model, pool: Pool, max_len: int) -> CostTable:
    """Prices with kernels that take the host a second each to launch, to be scaled."""
    engine = pool.engine
    return price(
        lower(model, pool), catalog.device(pool.device), max_tokens=engine.max_num_batched_tokens,
        max_seqs=engine.max_num_seqs, max_len=max_len, runtime=engine.runtime,
    )  # fmt: skip


def _corrected(table: CostTable, pool: Pool, profile: EngineProfile) -> CostTable:
    """A table of `_table` with a profile's host terms and factors."""
    engine = pool.engine
    return replace(
        profile.corrected(table), host_step_s=engine.host_step_s,
        host_seq_s=engine.host_seq_s / pool.dp, eager_s=table.eager_s * engine.host_kernel_s,
    )  # fmt: skip
