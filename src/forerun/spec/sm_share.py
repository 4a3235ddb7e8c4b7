"""`SmShare`: prompts and answers on the same devices, each with a share of their SMs."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from forerun.spec.base import Spec
from forerun.spec.policy import Policy

Share = Annotated[float, Field(gt=0, le=1)]

#: shares of answers that a policy may choose from when none are given
USUAL_LEVELS = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)


class SmShare(Spec):
    """What computes prompts has `prefill` of every device's SMs, what answers has `decode`.

    Both have the same weights and KV, so nothing moves between them (semi-PD, Nexus, Bullet).  With
    `oversubscribe` the shares may be more than 1 together, as under MPS: a lane that works alone
    has all of its share, two that work at once get it in proportion.
    Every `every_s` the `policy` may choose another of the `levels` (shares of `decode`; `prefill`
    has the rest); the shares given are those at the start, and one of the levels.
    """

    prefill: Share
    decode: Share
    oversubscribe: bool = False
    policy: Policy = Policy(name="fixed")
    levels: tuple[Share, ...] = Field(default=(), max_length=16)
    every_s: float = Field(default=1.0, gt=0)
    ttft_s: float | None = Field(default=None, gt=0)  # that a policy aims at
    tpot_s: float | None = Field(default=None, gt=0)
    #: that a lane stands still for when its share changes, between two steps: an estimate for
    #: partitions that are made beforehand
    switch_s: float = Field(default=1e-3, ge=0)

    @model_validator(mode="after")
    def _no_more_than_all(self) -> SmShare:
        total = self.prefill + self.decode
        if total > 1 + 1e-9 and not self.oversubscribe:
            raise ValueError(
                f"prefill {self.prefill:g} and decode {self.decode:g} are more than all SMs "
                f"(try: prefill: {1 - self.decode:g}, or oversubscribe: true as under MPS)"
                if self.decode < 1
                else "decode has all SMs, which leaves none for prompts (try: decode: 0.4)"
            )
        if any(level >= 1 for level in self.levels):
            raise ValueError("a level of 1 leaves no SM for prompts (try: levels: [0.3, 0.5, 0.7])")
        return self

    @property
    def shares(self) -> tuple[tuple[float, float], ...]:
        """(prefill, decode) of every level, that of the start first."""
        first = (self.prefill, self.decode)
        if self.policy.name == "fixed":
            return (first,)
        others = sorted(set(self.levels or USUAL_LEVELS))
        return (first, *((round(1 - x, 9), x) for x in others if (round(1 - x, 9), x) != first))
