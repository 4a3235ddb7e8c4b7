"""`EngineProfile`: how an engine schedules and what its host costs, `profiles/<engine>.yaml`.

The rules (which batch policy, how many tokens a step) are the engine's own; the times are fitted
to published runs by `calibrate.serving`, which also writes the errors on runs it did not use.
Versions whose host works otherwise have a file of their own, `<engine>-before-<version>.yaml`.
"""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path

import numpy as np
from pydantic import Field, ValidationError

from forerun import units
from forerun.cost.calibration import version_numbers
from forerun.cost.engine_terms import EngineTerms
from forerun.cost.scale import scaled
from forerun.cost.sheet import split_runtime
from forerun.cost.table import CostTable
from forerun.errors import SpecError, nearest
from forerun.spec import yaml
from forerun.spec.bridge import problems_of
from forerun.spec.deployment import Engine, Policy, Pool

FOLDER = Path(__file__).parent / "profiles"
BEFORE = "-before-"  # in the name of a file, between an engine and a version
LONG_STEP = 32_768  # tokens of a step that set-ups for long prompts stay below
FIGURES = ("ttft_s", "tpot_s", "e2el_s")
SPLIT = "split "  # before a figure of runs whose prompts and answers have pools of their own
UNKNOWN = (0.4, 2.5)  # factors on latencies of an engine without runs: estimate


class EngineProfile(EngineTerms):
    """An engine's scheduler and host, and how well they predict runs that were not used."""

    engine: str
    before: str = ""  # of versions below this one; "" is the newest, and of a version not told
    batch: Policy
    max_num_batched_tokens: int = Field(ge=1)
    #: tokens of a step as a multiple of the prompt, where published set-ups choose them so
    prompts_a_step: float | None = Field(default=None, gt=0)
    host_kernel_s: float = Field(default=0.0, ge=0)
    transfer_s: float = Field(default=0.0, ge=0)  # hand-over from prefill to decode, a request
    #: the API server, one process an attention group, takes requests and sends tokens one at a time
    api_request_s: float = Field(default=0.0, ge=0)
    api_token_s: float = Field(default=0.0, ge=0)  # of an answer that is streamed
    #: how much of its length an answer may lack; a loop of equal answers stays in step for ever
    early: float = Field(default=0.0, ge=0, lt=1)
    rules: str = ""  # where the scheduler's rules are from
    origin: str = ""  # runs the times were fitted to
    licence: str = ""
    date: str = ""
    rows: int = Field(default=0, ge=0)
    devices: tuple[str, ...] = ()  # that these runs were on
    #: |predicted / measured - 1| on runs not used: "ttft_s median", "tpot_s p90", ...
    error: dict[str, float] = {}
    #: factors on a prediction that hold 80 % of the runs not used, by figure, with SPLIT
    spread: dict[str, tuple[float, float]] = {}

    @property
    def name(self) -> str:
        """The engine, and which versions of it: "vllm before 0.14"."""
        return f"{self.engine} before {self.before}" if self.before else self.engine

    def budget(self, isl: int) -> int:
        """Tokens of a step where the question gives none."""
        if self.prompts_a_step is None:
            return self.max_num_batched_tokens
        return min(round(self.prompts_a_step * isl), LONG_STEP)

    def settings(self, runtime: str) -> Engine:
        """An engine with this scheduler and host."""
        return Engine(batch=self.batch, runtime=runtime, source="profile", **self.host())

    def corrected(self, table: CostTable) -> CostTable:
        """The table with the factors; what it rests on stays."""
        out = _scaled(table, self.scale())
        return replace(
            out, low=table.low, high=table.high, sources=table.sources, assumed=table.assumed
        )

    def interval(self, figure: str, table: CostTable, device: str) -> tuple[float, float]:
        """Factors on a prediction that hold 80 %: what the other runs of the profile were off by
        and, by squares, what the costs of a device without runs or rows are not known to.

        figure : a key of `spread`.
        """
        known = device in self.devices or any("fitted" in source for source in table.sources)
        return both(
            self.spread.get(figure, UNKNOWN), (1.0, 1.0) if known else (table.low, table.high)
        )


def both(runs: tuple[float, float], own: tuple[float, float]) -> tuple[float, float]:
    """Factors that hold 80 % where runs were off by one pair and a device's costs are not known to
    another, by squares; 1 is between them."""
    below, above = np.hypot(np.log(runs) * (np.log(runs) * [-1, 1] > 0), np.log(own))
    return float(np.exp(-below)), float(np.exp(above))


def of_runtime(runtime: str) -> EngineProfile | None:
    """The profile of "vllm 0.24.0"; None for an engine that has none."""
    name, version = split_runtime(runtime)
    return profile(name, version) if name in engines() else None


def on_pool(found: EngineProfile, pool: Pool) -> Pool:
    """The pool with the profile's host terms where its engine gives none itself.

    The API server's time a request is taken before the queue, all requests at once.
    """
    out = found.on_pool(pool)
    if "host_request_s" in pool.engine.model_fields_set:
        return out
    engine = out.engine.model_copy(update={"host_request_s": found.api_request_s})
    return out.model_copy(update={"engine": engine})


def on_table(found: EngineProfile, table: CostTable, pool: Pool) -> CostTable:
    """The table with the profile's factors, and sentences on what it was fitted to."""
    low, high = found.interval("tpot_s", table, pool.device)
    said = [f"host terms of {found.name}: profile fitted to {found.rows:,} runs of "
            f"{found.origin}{_error(found)}"]  # fmt: skip
    if found.api_request_s or found.api_token_s:
        token = f" and {units.show(found.api_token_s, 'time')} a token" if found.api_token_s else ""
        said.append(
            f"{found.engine}'s API server takes {units.show(found.api_request_s, 'time')} a request"
            f"{token}; that it serves one request at a time"
            f"{', and its tokens,' if token else ''} is left out"
        )
    if pool.role == "prefill":
        said.append(
            f"a first token is out when its prompt is computed; from pools apart {found.engine} "
            f"sent it {units.show(found.transfer_s, 'time')} later and not before the other pool "
            "had room"
        )
    if pool.engine.batch.name != found.batch.name:
        said.append(
            f"the profile is of {found.engine}'s {found.batch.name} batches, these are "
            f"{pool.engine.batch.name}"
        )
    out = found.corrected(table)
    return replace(out, low=low, high=high, assumed=(*out.assumed, *said))


def _error(found: EngineProfile) -> str:
    off = [
        f"{figure.upper()} {100 * found.error[key]:.0f} %"
        for figure in ("tpot", "ttft")
        if (key := f"{figure}_s median") in found.error
    ]
    return f" (median error on runs not used: {', '.join(off)})" if off else ""


#: a fit asks for the same factors again while it moves host terms
_scaled = functools.lru_cache(maxsize=64)(scaled)


@functools.cache
def engines() -> tuple[str, ...]:
    """Names of the engines that have a profile, sorted."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.yaml") if BEFORE not in path.stem))


@functools.cache
def profile(engine: str, version: str = "") -> EngineProfile:
    """The profile of an engine's version, the newest where none is told.

    Raises SpecError with the nearest names.
    """
    if engine not in engines():
        raise SpecError.one(f"runtime {engine!r}", "has no profile", nearest(engine, engines()))
    asked = version_numbers(version)
    older = [p for p in profiles(engine) if p.before and asked < version_numbers(p.before)]
    if asked and older:
        return min(older, key=lambda p: version_numbers(p.before))
    return read(FOLDER / f"{engine}.yaml")


def profiles(engine: str) -> list[EngineProfile]:
    """The profiles of all versions of an engine, the newest first."""
    own = [FOLDER / f"{engine}.yaml", *sorted(FOLDER.glob(f"{engine}{BEFORE}*.yaml"))]
    return [read(path) for path in own]


def file_name(found: EngineProfile) -> str:
    """Of the file of a profile."""
    return f"{found.engine}{BEFORE}{found.before}.yaml" if found.before else f"{found.engine}.yaml"


@functools.cache
def read(path: Path) -> EngineProfile:
    """The profile in a file.  Raises SpecError with every mistake in it."""
    source, name = yaml.read_text(str(path))
    root = yaml.parse(source, name)
    try:
        return EngineProfile.model_validate(root.plain(), context={"file": True})
    except ValidationError as error:
        raise SpecError(*problems_of(error, root, EngineProfile)) from None
