"""Grams of CO2 equivalent from electricity; what making the hardware emitted is left out."""

from __future__ import annotations

from collections.abc import Mapping

from forerun.metrics import energy
from forerun.metrics.window import View
from forerun.sim.power.course import J_PER_KWH

#: of one grid, or of each pool's by the pool's name
Intensity = float | Mapping[str, float] | None


def operational_gco2e(
    energy_j: float | None, carbon_gco2e_per_kwh: float | None, pue: float = 1.0
) -> float | None:
    """energy * pue * grid intensity; pue is site energy over device energy, 1 without a site."""
    if energy_j is None or carbon_gco2e_per_kwh is None:
        return None
    return energy_j / J_PER_KWH * pue * carbon_gco2e_per_kwh


def of_run(part: View, intensity: Intensity, pue: float = 1.0) -> float | None:
    """The same of a run, each replica's energy with the intensity of its pool's grid."""
    if not isinstance(intensity, Mapping):
        return operational_gco2e(energy.energy_j(part), intensity, pue)
    each = energy.by_replica_j(part)
    if each is None:
        return None
    grids = [intensity[part.log.pools[p]] for p in part.log.pool_of_replica]
    return float(each @ grids) / J_PER_KWH * pue
