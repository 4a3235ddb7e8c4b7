"""`Question`: a row of `forerun predict serving` as values; what it lacks is chosen and named.

The columns are a contract (see the reference of batch prediction).  A row that cannot be answered
raises SpecError with one sentence.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

from forerun.cost.engine_profile import EngineProfile, engines, profile
from forerun.cost.sheet import device_of, split_runtime
from forerun.errors import SpecError
from forerun.serving.cells import check_most, dtype, needed, number, power_of_two, whole, word
from forerun.serving.layout import PHASES, formats_of, model_of, pools_of
from forerun.spec.deployment import Pool
from forerun.spec.model import Model

#: requests a client of a closed loop sends, as benchmarks of engines do
ROUNDS = 10
N_OPEN = 1000  # requests of an open loop
LONGEST_S = 30 * 86_400.0  # from the first arrival to the last
LEAST_SEATS = 64  # and powers of two, so that layouts share their tables
SEATS, MOST_SEATS = 2048, 8192  # sequences of a step at most, of a group and of a replica


@dataclass(frozen=True)
class Question:
    """What is served on what, and how many requests come.

    pools : one, or the prefill and the decode pool.  concurrency : closed loop; rate_per_s : open
    loop, inf for all at once.  One of the two is given.
    """

    model: Model
    pools: tuple[Pool, ...]
    profile: EngineProfile
    isl: int
    osl: int
    n_requests: int
    concurrency: int | None = None
    rate_per_s: float | None = None
    assumed: tuple[str, ...] = ()

    def under(self, profile: EngineProfile) -> Question:
        """The same asked of the engine with other times; its scheduler's rules stay."""
        host = profile.host()
        return replace(self, profile=profile, pools=tuple(
            pool.model_copy(update={"engine": pool.engine.model_copy(update=host)})
            for pool in self.pools
        ))  # fmt: skip

    @property
    def is_split(self) -> bool:
        """Whether prompts and answers are computed by different pools."""
        return len(self.pools) == 2


@dataclass(frozen=True)
class Load:
    """How requests come."""

    n_requests: int
    concurrency: int | None
    rate_per_s: float | None


def question(row: Mapping[str, str], known: EngineProfile | None = None) -> Question:
    """The question in a row; cells are text, "" where not given.  Raises SpecError.

    known : in place of the profile of the row's engine.
    """
    assumed: list[str] = []
    _check_later(row, assumed)
    model = model_of(needed(row, "model", "model: llama-3.1-8b"), assumed)
    device, note = device_of(needed(row, "device", "a name of the catalog"))
    assumed += [note] if note else []
    found, runtime = _engine(row, assumed)
    found = known or found
    isl, osl = _lengths(row, model)
    mode = word(row, "mode") or "agg"
    if mode not in ("agg", "disagg"):
        raise SpecError.one("mode", f"{mode!r} is neither agg nor disagg", "mode: agg")
    model, weights = formats_of(row, model, assumed)
    common = {"device": device.name, "dtype": weights, "kv_dtype": dtype(row, "kv_dtype")}
    load = _load(row, mode, assumed)
    pools = pools_of(row, mode, model, common, assumed)
    budget = whole(row, "max_tokens_per_step")
    if budget is None:
        budget = found.budget(isl)
        assumed.append(f"at most {budget} tokens a step")
    check_most("max_tokens_per_step", budget)
    if found.early and load.concurrency:
        assumed.append(
            f"answers end up to {100 * found.early:g} % early, so a loop falls out of step"
        )
    seats = [_seats(row, pool, load, pools) for pool in pools]
    return Question(
        model=model, profile=found, isl=isl, osl=osl, n_requests=load.n_requests,
        pools=tuple(
            _seated(pool, found, runtime, n, max(budget, n))
            for pool, n in zip(pools, seats, strict=True)
        ),
        concurrency=load.concurrency, rate_per_s=load.rate_per_s, assumed=tuple(assumed),
    )  # fmt: skip


def _check_later(row: Mapping[str, str], assumed: list[str]) -> None:
    """Refuses what the engine does not simulate yet."""
    for name, what in (("spec_tokens", "speculation"), ("prefix_len", "a cached prefix")):
        if whole(row, name):
            raise SpecError.one(name, f"{what} is not simulated yet", f"leave {name} empty")
    if number(row, "spec_acceptance"):
        assumed.append("spec_acceptance says nothing without spec_tokens")


def runtime_of(row: Mapping[str, str]) -> str:
    """Engine and version that a row names; "" where it names none."""
    return f"{word(row, 'runtime')} {word(row, 'runtime_version')}".strip()


def _engine(row: Mapping[str, str], assumed: list[str]) -> tuple[EngineProfile, str]:
    """(profile of the row's engine or of the one that stands for it, engine and version)."""
    asked = runtime_of(row)
    engine, version = split_runtime(asked) if asked else ("", "")
    if engine not in engines():
        assumed.append(f"scheduled as vllm does ({engine or 'no runtime'} has no profile)")
        engine = engine or "vllm"
    found = profile(engine, version) if engine in engines() else profile("vllm")
    return found, f"{engine} {version}".strip()


def _lengths(row: Mapping[str, str], model: Model) -> tuple[int, int]:
    """(isl, osl)"""
    isl, osl = whole(row, "isl"), whole(row, "osl")
    if isl is None or osl is None:
        raise SpecError.one("isl, osl", "must be given", "isl: 1024 and osl: 128")
    if model.max_len is not None and isl + osl > model.max_len:
        what = f"{isl + osl:,} tokens are more than the {model.max_len:,} of {model.name}'s context"
        raise SpecError.one("isl, osl", what, "a shorter prompt or answer")
    return isl, osl


def _load(row: Mapping[str, str], mode: str, assumed: list[str]) -> Load:
    """The closed loop, the open loop, or the batch at once that a row asks for."""
    concurrency, rate = whole(row, "concurrency"), number(row, "rate_per_s")
    n = whole(row, "n_requests")
    if rate == 0:
        raise SpecError.one("rate_per_s", "0 sends no request", "rate_per_s: 4, or inf")
    if concurrency is not None:
        if rate is not None:
            assumed.append(f"a closed loop of {concurrency}: rate_per_s is not used")
        n = n or ROUNDS * concurrency
        check_most("n_requests", n)
        return Load(n, concurrency, None)
    if rate is None:
        if mode == "disagg":
            raise SpecError.one("concurrency", "is not given", "concurrency or rate_per_s")
        n = n or whole(row, "max_batch") or 1
        assumed.append(f"a batch of {n} that comes at once")
        return Load(n, None, float("inf"))
    n = n or N_OPEN
    if n / rate > LONGEST_S:
        what = f"{n:,} requests at {rate:g} a second come over more than 30 days"
        raise SpecError.one("rate_per_s", what, "a higher rate, or a smaller n_requests")
    return Load(n, None, rate)


def _seats(row: Mapping[str, str], pool: Pool, load: Load, pools: tuple[Pool, ...]) -> int:
    """Sequences of a step of a pool."""
    batch = whole(row, f"{pool.name}_batch") if pool.name in PHASES else None
    batch = batch * pool.dp if batch else whole(row, "max_batch")
    groups = max(p.dp for p in pools)
    most = min(load.concurrency or load.n_requests, SEATS * groups, MOST_SEATS)
    return batch or max(LEAST_SEATS, power_of_two(most))


@lru_cache(maxsize=256)
def _seated(pool: Pool, found: EngineProfile, runtime: str, seats: int, budget: int) -> Pool:
    """The pool with an engine of so many sequences and tokens a step."""
    engine = found.settings(runtime).model_copy(
        update={"max_num_seqs": seats, "max_num_batched_tokens": budget}
    )
    return pool.model_copy(update={"engine": engine})
