"""Regions of a case for a run: how far apart, what is where, and what was sent between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from forerun import catalog, units
from forerun.api._cases import pool_grids, pool_usd_per_hour
from forerun.spec.case import Case
from forerun.spec.deployment import Deployment
from forerun.spec.regions import DETOUR, one_way_s

if TYPE_CHECKING:
    import numpy as np

    from forerun.sim.log import Log
    from forerun.sim.serve import Served
    from forerun.spec.requests import Requests

Grids = float | dict[str, float] | None

#: an answer's bytes on the wire, a token: an event of a stream with its JSON, about 200 bytes
TOKEN_BYTES = 200.0  # estimate


def way_s(case: Case) -> tuple[tuple[float, ...], ...]:
    """One way between every two regions, seconds; a single one for a case without regions."""
    names = list(case.regions)
    if not names:
        return ((0.0,),)
    # what nobody needs to know is not asked for: far enough never to be chosen by chance
    return tuple(
        tuple(1.0 if (s := one_way_s(case.regions, a, b)) is None else s for b in names)
        for a in names
    )


def placed(case: Case, deployment: Deployment, pools: Sequence[Served]) -> list[Served]:
    """The pools with their regions, prices and grids, for routers that look at them."""
    if not case.regions:
        return list(pools)
    names, out = list(case.regions), []
    prices = pool_usd_per_hour(case, deployment)
    by_name = {}
    for k, (pool, grid) in enumerate(
        zip(deployment.pools, pool_grids(case, deployment), strict=True)
    ):
        usd = prices[k] / pool.replicas if prices is not None else 0.0
        gco2e = catalog.grid(grid).gco2e_per_kwh if grid is not None else 0.0
        by_name[pool.name] = (pool.region, usd, gco2e)
    for served, name in zip(pools, homes(pools), strict=True):
        region, usd, gco2e = by_name[name]
        at = names.index(region) if region is not None else 0
        out.append(replace(served, region=at, usd_per_hour=usd, gco2e_per_kwh=gco2e))
    return out


def grids(found: Grids, pools: Sequence[Served]) -> Grids:
    """Intensities of grids by pool, as intensities by row: lanes of a pool have names of theirs."""
    if not isinstance(found, dict):
        return found
    return {served.pool.name: found[name] for served, name in zip(pools, homes(pools), strict=True)}


def homes(pools: Sequence[Served]) -> list[str]:
    """The pool of the deployment that each row is of: lanes, and what encodes in front of a model
    or shows behind it, have names of theirs."""
    names = [served.block or served.pool.name for served in pools]
    for name, served in zip(list(names), pools, strict=True):
        for other in (served.encoder, served.shows):
            if other >= 0:
                names[other] = name
    return names


def explain(case: Case, pools: Sequence[Served], wanted: Requests, log: Log) -> list[str]:
    """Who was served where, how long requests were on their way, and what left the regions.

    pools : as `placed` gives them.
    """
    import numpy as np

    if not case.regions or wanted.region is None:
        return []
    names, rows = list(case.regions), log.requests[log.requests["replica"] >= 0]
    place = np.array([pools[p].region for p in log.pool_of_replica])[rows["replica"]]
    home = wanted.region[rows["request"]]
    out = []
    way = np.array(way_s(case))[home, place]
    for g, name in enumerate(names):
        mine = home == g
        if not mine.any():
            continue
        count = np.bincount(place[mine], minlength=len(names))
        went = ", ".join(
            f"{100 * n / mine.sum():.3g} % in {names[k]}" for k, n in enumerate(count) if n
        )
        mean = units.show(float(way[mine].mean()), "time")
        out.append(f"Clients in {name}: {mine.sum():,} requests, answered {went}, {mean} away.")
    sent = np.bincount(place, weights=_bytes_out(rows), minlength=len(names))
    usd = sum(
        n * region.out_usd_per_tb / 1e12
        for n, region in zip(sent, case.regions.values(), strict=True)
    )
    if usd > 0:
        out.append(
            f"Answers that left the regions, {units.show(float(sent.sum()), 'bytes')}, cost "
            f"{units.show(usd, 'usd')} (not in the cost of the run, which is that of devices)."
        )
    return out


def _bytes_out(rows: np.ndarray) -> np.ndarray:
    """Bytes of each answer on the wire: float64 [requests]."""
    return rows["n_out"] * TOKEN_BYTES


def assumed(case: Case) -> list[str]:
    """What a run with regions takes for granted."""
    if not case.regions:
        return []
    drawn = any(region.at is not None for region in case.regions.values())
    out = [
        "a request reaches a replica one way after it was sent, and its client has the first token "
        "and the end one way after they were there; handshakes and congestion are left out, time "
        "limits of clients count without the way back, and the front knows every load at once",
        "KV that moves between regions has the whole bandwidth of the replicas' links",
    ]
    if drawn:
        out.append(
            f"ways without a measured round trip: {DETOUR:g} times the great circle at 200,000 "
            "km/s (estimate)"
        )
    if any(region.out_usd_per_tb for region in case.regions.values()):
        out.append(f"an answer's token is {TOKEN_BYTES:g} bytes on the wire (estimate)")
    return out
