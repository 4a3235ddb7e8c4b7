"""`EngineProfile`: how an engine schedules and what its host costs, `profiles/<engine>.yaml`.

The rules (which batch policy, how many tokens a step) are the engine's own; the times are fitted
to published runs by `calibrate.serving`, which also writes the errors on runs it did not use.
"""

from __future__ import annotations

import functools
from pathlib import Path

from pydantic import Field, ValidationError

from forerun.errors import SpecError, nearest
from forerun.spec import yaml
from forerun.spec.base import Spec
from forerun.spec.bridge import problems_of
from forerun.spec.deployment import Engine, Policy

FOLDER = Path(__file__).parent / "profiles"
HOST = ("host_step_s", "host_seq_s", "host_request_s", "host_prompt_token_s", "host_kernel_s")
LONG_STEP = 32_768  # tokens of a step that set-ups for long prompts stay below
FACTORS = ("tokens", "decode", "prefill")
FIGURES = ("ttft_s", "tpot_s", "e2el_s")


class EngineProfile(Spec):
    """An engine's scheduler and host, and how well they predict runs that were not used."""

    engine: str
    batch: Policy
    max_num_batched_tokens: int = Field(ge=1)
    #: tokens of a step as a multiple of the prompt, where published set-ups choose them so
    prompts_a_step: float | None = Field(default=None, gt=0)
    host_step_s: float = Field(default=0.0, ge=0)
    host_seq_s: float = Field(default=0.0, ge=0)
    host_request_s: float = Field(default=0.0, ge=0)
    host_prompt_token_s: float = Field(default=0.0, ge=0)
    host_kernel_s: float = Field(default=0.0, ge=0)
    tokens: float = Field(default=1.0, gt=0)
    decode: float = Field(default=1.0, gt=0)
    prefill: float = Field(default=1.0, gt=0)
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
    #: |predicted / measured - 1| on runs not used: "ttft_s median", "tpot_s p90", ...
    error: dict[str, float] = {}
    #: factors on a prediction that hold 80 % of the runs not used, by figure; "split ttft_s" where
    #: prompts and answers have pools of their own
    spread: dict[str, tuple[float, float]] = {}

    def budget(self, isl: int) -> int:
        """Tokens of a step where the question gives none."""
        if self.prompts_a_step is None:
            return self.max_num_batched_tokens
        return min(round(self.prompts_a_step * isl), LONG_STEP)

    def settings(self, runtime: str) -> Engine:
        """An engine with this scheduler and host."""
        host = {name: getattr(self, name) for name in HOST}
        return Engine(batch=self.batch, runtime=runtime, source="profile", **host)


@functools.cache
def engines() -> tuple[str, ...]:
    """Names of the engines that have a profile, sorted."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.yaml")))


@functools.cache
def profile(engine: str) -> EngineProfile:
    """The profile of an engine.  Raises SpecError with the nearest names."""
    if engine not in engines():
        raise SpecError.one(f"runtime {engine!r}", "has no profile", nearest(engine, engines()))
    return read(FOLDER / f"{engine}.yaml")


def read(path: Path) -> EngineProfile:
    """The profile in a file.  Raises SpecError with every mistake in it."""
    source, name = yaml.read_text(str(path))
    root = yaml.parse(source, name)
    try:
        return EngineProfile.model_validate(root.plain(), context={"file": True})
    except ValidationError as error:
        raise SpecError(*problems_of(error, root, EngineProfile)) from None
