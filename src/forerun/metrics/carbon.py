"""Grams of CO2 equivalent from electricity; what making the hardware emitted is left out."""

from __future__ import annotations

from forerun.sim.power.course import J_PER_KWH


def operational_gco2e(
    energy_j: float | None, carbon_gco2e_per_kwh: float | None, pue: float = 1.0
) -> float | None:
    """energy * pue * grid intensity; pue is site energy over device energy, 1 without a site."""
    if energy_j is None or carbon_gco2e_per_kwh is None:
        return None
    return energy_j / J_PER_KWH * pue * carbon_gco2e_per_kwh
