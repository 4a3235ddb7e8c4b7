"""`Estimate`: a predicted number that says how far to trust it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Estimate:
    """A value with an 80 % interval and its source, in the unit its field's name declares.

    Ranking of sources: measured > interpolated > fitted > roofline with efficiency > bare roofline.
    """

    value: float
    low: float
    high: float
    source: str

    def scaled(self, factor: float) -> Estimate:
        return Estimate(self.value * factor, self.low * factor, self.high * factor, self.source)
