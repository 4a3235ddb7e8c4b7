"""Regions: where clients and pools are, how far apart, and what power and traffic cost there."""

from __future__ import annotations

import math
from collections.abc import Mapping

from pydantic import Field

from forerun.spec.base import Spec

EARTH_M = 6_371_000.0  # mean radius
FIBRE_M_PER_S = 2.0e8  # light in glass, refractive index 1.5
#: cables are longer than the great circle and switches take time: an estimate, measured round trips
#: (`rtt_s`) are better
DETOUR = 1.4


class Region(Spec):
    """A place: clients that live there, and what pools there cost.

    Two regions are half of `rtt_s` apart, which either of them may name; else as far as light needs
    in glass over the great circle between their coordinates, times DETOUR.
    """

    share: float = Field(default=0.0, ge=0)  # of the case's traffic, relative to the others'
    ahead_s: float = 0.0  # its day runs ahead of the case's: diurnal arrivals only
    at: tuple[float, float] | None = None  # degrees north and east
    rtt_s: Mapping[str, float] = {}  # round trips to other regions, measured
    grid: str | None = None  # that feeds it, a name in catalog/grids.yaml
    prices_usd_per_hour: Mapping[
        str, float
    ] = {}  # of one device by its name; the fleet's if absent
    out_usd_per_tb: float = Field(default=0.0, ge=0)  # for bytes that leave the region


def one_way_s(regions: Mapping[str, Region], a: str, b: str) -> float | None:
    """Seconds from one region to another; None where neither round trips nor places tell."""
    if a == b:
        return regions[a].rtt_s.get(a, 0.0) / 2
    for here, there in ((a, b), (b, a)):
        if there in regions[here].rtt_s:
            return regions[here].rtt_s[there] / 2
    here_at, there_at = regions[a].at, regions[b].at
    if here_at is None or there_at is None:
        return None
    return DETOUR * great_circle_m(here_at, there_at) / FIBRE_M_PER_S


def great_circle_m(a: tuple[float, float], b: tuple[float, float]) -> float:
    """Metres along the earth between two places in degrees north and east.

        2 R asin(sqrt(sin((n2 - n1)/2)**2 + cos(n1) cos(n2) sin((e2 - e1)/2)**2))

    Source: the haversine formula.
    """
    (n1, e1), (n2, e2) = (tuple(map(math.radians, place)) for place in (a, b))
    h = math.sin((n2 - n1) / 2) ** 2
    h += math.cos(n1) * math.cos(n2) * math.sin((e2 - e1) / 2) ** 2
    return 2 * EARTH_M * math.asin(math.sqrt(h))
