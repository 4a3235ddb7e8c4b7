"""`Question`: a row of `forerun predict serving` as values; what it lacks is chosen and named.

The columns are a contract (see the reference of batch prediction).  A row that cannot be answered
raises SpecError with one sentence.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from forerun import catalog
from forerun.cost.sheet import device_of, split_runtime
from forerun.errors import SpecError
from forerun.ops.lower import lower
from forerun.serving.profile import EngineProfile, engines, profile
from forerun.spec.deployment import Pool
from forerun.spec.dtype import DTYPES, WEIGHT_BYTES
from forerun.spec.model import Model, Moe

#: formats that name the same width with other scales: the checkpoint's own is meant
ALIKE = ({"fp8", "fp8_block", "mxfp8"}, {"nvfp4", "mxfp4"})
#: requests a client of a closed loop sends, as benchmarks of engines do
ROUNDS = 10
MOST_REQUESTS, MOST_TOKENS = 2_000_000, 1 << 20  # of a row: a table has many
SEATS, MOST_SEATS = 2048, 8192  # sequences of a step at most, of a group and of a replica
_QUANTISED = re.compile(
    r"[-_](nvfp4|mxfp4|fp4|fp8|w8a8|w4a16|int8|int4|awq|gptq)([-_].*)?$", re.IGNORECASE
)


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

    @property
    def is_split(self) -> bool:
        """Whether prompts and answers are computed by different pools."""
        return len(self.pools) == 2


def question(row: Mapping[str, str], known: EngineProfile | None = None) -> Question:
    """The question in a row; cells are text, "" where not given.  Raises SpecError.

    known : in place of the profile of the row's engine.
    """
    assumed: list[str] = []
    for name, what in (("spec_tokens", "speculation"), ("prefix_len", "a cached prefix")):
        if (_number(row, name) or 0) > 0:
            raise SpecError.one(name, f"{what} is not simulated yet", f"leave {name} empty")
    model = _model(row.get("model", ""), assumed)
    device, note = device_of(_needed(row, "device"))
    if note:
        assumed.append(note)
    asked = f"{row.get('runtime', '')} {row.get('runtime_version', '')}".strip()
    engine, version = split_runtime(asked) if asked else ("", "")
    if engine not in engines():
        assumed.append(f"scheduled as vllm does ({engine or 'no runtime'} has no profile)")
        engine = engine or "vllm"
    found = known or profile(engine if engine in engines() else "vllm")
    isl, osl = _whole(row, "isl"), _whole(row, "osl")
    if isl is None or osl is None:
        raise SpecError.one("isl, osl", "must be given", "isl: 1024 and osl: 128")
    if model.max_len is not None and isl + osl > model.max_len:
        what = f"{isl + osl:,} tokens are more than the {model.max_len:,} of {model.name}'s context"
        raise SpecError.one("isl, osl", what, "a shorter prompt or answer")
    dtype = _dtype(row, model, assumed)
    kv_dtype = row.get("kv_dtype", "") or None
    common = {"device": device.name, "dtype": dtype, "kv_dtype": kv_dtype}
    settings = found.settings(f"{engine} {version}".strip())
    concurrency, rate = _whole(row, "concurrency"), _number(row, "rate_per_s")
    mode = row.get("mode", "") or "agg"
    if mode not in ("agg", "disagg"):
        raise SpecError.one("mode", f"{mode!r} is neither agg nor disagg", "mode: agg")
    batch = _whole(row, "max_batch")
    if concurrency is None and rate is None:
        if mode == "disagg":
            raise SpecError.one("concurrency", "is not given", "concurrency or rate_per_s")
        concurrency = batch or 1
        assumed.append(f"a batch of {concurrency} that comes at once")
        rate, n = float("inf"), concurrency
        concurrency = None
    else:
        n = _whole(row, "n_requests") or (ROUNDS * concurrency if concurrency else 1000)
    if mode == "disagg":
        pools = tuple(_phase_pool(row, phase, model, common, assumed) for phase in PHASES)
    else:
        pools = (_pool(row, "", model, common, assumed),)
    budget = _whole(row, "max_tokens_per_step")
    if budget is None:
        budget = found.budget(isl)
        assumed.append(f"at most {budget} tokens a step")
    groups = max(pool.dp for pool in pools)
    if found.early and concurrency:
        assumed.append(
            f"answers end up to {100 * found.early:g} % early, so a loop falls out of step"
        )
    limits = {
        "n_requests": (n, MOST_REQUESTS), "max_batch": (batch or 0, MOST_SEATS),
        "max_tokens_per_step": (budget, MOST_TOKENS),
    }  # fmt: skip
    for name, (value, most) in limits.items():
        if value > most:
            what = f"{value:,} is more than the {most:,} that a row may have"
            raise SpecError.one(name, what, f"{name}: {most}")
    seats = batch or _power(min(concurrency or n, SEATS * groups, MOST_SEATS))
    engine_of = settings.model_copy(
        update={"max_num_seqs": seats, "max_num_batched_tokens": max(budget, seats)}
    )
    return Question(
        model=model, pools=tuple(p.model_copy(update={"engine": engine_of}) for p in pools),
        profile=found, isl=isl, osl=osl, n_requests=n, concurrency=concurrency, rate_per_s=rate,
        assumed=tuple(assumed),
    )  # fmt: skip


PHASES = ("prefill", "decode")


def _phase_pool(
    row: Mapping[str, str], phase: str, model: Model, common: dict, assumed: list[str]
) -> Pool:
    replicas = _whole(row, f"{phase}_replicas")
    if replicas is None:
        raise SpecError.one(
            f"{phase}_replicas", "is not given, so the load of a worker is not known",
            "prefill_replicas and decode_replicas",
        )  # fmt: skip
    pool = _pool(row, f"{phase}_", model, common, assumed)
    return pool.model_copy(update={"name": phase, "replicas": replicas})


def _pool(
    row: Mapping[str, str], prefix: str, model: Model, common: dict, assumed: list[str]
) -> Pool:
    """The layout of one pool.  Tensor parallelism that the model's shapes forbid is taken as
    attention data parallelism, which is how engines spread a model that wide."""
    tp, pp = _whole(row, f"{prefix}tp") or 1, _whole(row, f"{prefix}pp") or 1
    dp = _whole(row, f"{prefix}dp" if prefix else "dp_attention") or 1
    ep = _whole(row, f"{prefix}moe_ep") or 1
    if dp > 1 and tp > 1:
        # tables name the width of the replica `tp` and the groups of attention beside it
        n = max(tp, dp)
        assumed.append(f"{n} devices a replica: {dp} groups of attention")
        tp, dp = n // dp, dp
    ep = min(ep, tp * dp)
    wide = tp * dp
    tried = [(tp, dp, ep, 0), (1, wide, wide, 0), (1, wide, wide, _spare(model, wide))]
    for i, (t, d, e, spare) in enumerate(tried):
        pool = Pool(tp=t, pp=pp, dp=d, ep=e, redundant_experts=spare, **common)
        try:
            _can_be_cut(model, pool)
        except SpecError:
            if i + 1 == len(tried):
                raise
            continue
        if i:
            assumed.append(
                f"{model.name} cannot be cut {tp} ways: attention is data parallel over {d} "
                f"devices and experts are spread over them"
                + (f", {spare} of them twice" if spare else "")
            )
        return pool
    raise AssertionError("unreachable")


@lru_cache(maxsize=1024)
def _can_be_cut(model: Model, pool: Pool) -> bool:
    """True; raises SpecError where the layout is impossible."""
    lower(model, pool)
    return True


def _spare(model: Model, n_devices: int) -> int:
    """Copies of experts that let every device hold as many."""
    counts = [g.ffn.n_experts for g in model.layers if isinstance(g.ffn, Moe)]
    return -max(counts) % n_devices if counts else 0


def _model(name: str, assumed: list[str]) -> Model:
    """The model of a name; a quantised copy stands for what it was made from."""
    if not name:
        raise SpecError.one("model", "is not given", "model: llama-3.1-8b")
    tried = [name, name.rsplit("/", 1)[-1]]
    tried.append(_QUANTISED.sub("", tried[-1]))
    for i, one in enumerate(dict.fromkeys(tried)):
        try:
            found = catalog.model(one)
        except SpecError as error:
            if i == 0:
                first = error
            continue
        if i:
            assumed.append(f"{name} is taken to be {found.name}")
        return found
    raise first


def _dtype(row: Mapping[str, str], model: Model, assumed: list[str]) -> str | None:
    """Format of the weights, None for the checkpoint's own."""
    asked = row.get("dtype", "").lower()
    if not asked:
        return None
    if asked not in DTYPES:
        raise SpecError.one("dtype", f"{asked!r} is not known", f"one of {', '.join(DTYPES)}")
    own = model.quantization.weights if model.quantization else model.dtype
    alike = any(asked in group and own in group for group in ALIKE)
    if asked == own or alike or WEIGHT_BYTES[asked] > WEIGHT_BYTES[own]:
        if asked != own:
            assumed.append(f"weights as in the checkpoint, {own}")
        return None
    return asked


def _needed(row: Mapping[str, str], name: str) -> str:
    value = row.get(name, "")
    if not value:
        raise SpecError.one(name, "is not given", "a name of the catalog")
    return value


def _number(row: Mapping[str, str], name: str) -> float | None:
    cell = row.get(name, "")
    if cell == "":
        return None
    try:
        value = float(cell)
    except ValueError:
        raise SpecError.one(name, f"{cell!r} is not a number", f"{name}: 8") from None
    if not value >= 0:
        raise SpecError.one(name, f"{cell} is negative or no number", f"{name}: 8")
    return value


def _whole(row: Mapping[str, str], name: str) -> int | None:
    """A count; 0 is as not given."""
    value = _number(row, name)
    if value is None or value == 0:
        return None
    if value != round(value):
        raise SpecError.one(name, f"{value:g} is not a whole number", f"{name}: {round(value)}")
    return int(value)


def _power(n: int) -> int:
    """The power of two that n fits in, 64 at least: layouts share their tables."""
    return max(64, 1 << (n - 1).bit_length())
