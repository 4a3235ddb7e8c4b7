"""`EngineTerms`: what an engine makes of a device's costs: its host's times, factors on kernels.

    time of a step = host_step + host_seq S + f tokens(T) + d decode(B, c) + e prefill(q, p)

Fits to a benchmark of one's own (`engine_fit`) and to published runs (`engine_profile`) share it.
"""

from __future__ import annotations

from pydantic import Field

from forerun.cost.scale import Scale
from forerun.spec.base import Spec
from forerun.spec.deployment import Pool

FACTORS = ("tokens", "decode", "prefill")


class EngineTerms(Spec):
    """Host terms in seconds and factors on the parts of a cost table; neutral unless fitted."""

    host_step_s: float = Field(default=0.0, ge=0)
    host_seq_s: float = Field(default=0.0, ge=0)
    tokens: float = Field(default=1.0, gt=0)
    decode: float = Field(default=1.0, gt=0)
    prefill: float = Field(default=1.0, gt=0)

    @classmethod
    def times(cls) -> tuple[str, ...]:
        """Names of the terms in seconds, in the order of the class."""
        return tuple(name for name in cls.model_fields if name.endswith("_s"))

    @classmethod
    def coefficients(cls) -> tuple[str, ...]:
        """Names of what a fit moves: times, then factors."""
        return (*cls.times(), *FACTORS)

    def host(self) -> dict[str, float]:
        """Seconds by the name that an engine's settings have for it."""
        return {name: getattr(self, name) for name in self.times() if name.startswith("host_")}

    def scale(self) -> Scale:
        """The factors alone; a pool carries the host terms."""
        return Scale(tokens=(self.tokens,), decode=self.decode, prefill=self.prefill)

    def on_pool(self, pool: Pool) -> Pool:
        """The pool with the host terms that its engine does not give itself."""
        given = pool.engine.model_fields_set
        update = {name: value for name, value in self.host().items() if name not in given}
        return pool.model_copy(update={"engine": pool.engine.model_copy(update=update)})
