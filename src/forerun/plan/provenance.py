"""Where a plan's numbers are from: prices, catalog, calibration, seed."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from forerun import catalog
from forerun.cost import engine_fit
from forerun.plan.evaluate import Bench
from forerun.plan.store import digest
from forerun.spec.case import Case
from forerun.spec.requests import Requests
from forerun.version import __version__


def price_of(case: Case, device: str) -> float | None:
    """Dollars an hour of one device: the fleet's own price, else the catalog's; None if unknown."""
    own = case.fleet.devices[device].price_usd_per_hour
    if own is not None:
        return own
    offer = catalog.price(device)
    return None if offer is None else offer.usd_per_hour


@lru_cache(maxsize=1)
def catalog_version() -> str:
    """Sixteen hex digits of every file of the catalog."""
    folder = Path(catalog.__file__).parent
    files = sorted([*folder.rglob("*.yaml"), *folder.rglob("*.json")])
    return digest(*(str(f.relative_to(folder)) for f in files), *(f.read_bytes() for f in files))[
        :16
    ]


def provenance(case: Case, requests: Requests, benches: Sequence[Bench]) -> dict[str, Any]:
    """What it takes to have the same plan again; nothing of the machine or the hour."""
    prices = {}
    for name, group in case.fleet.devices.items():
        offer = catalog.price(name)
        if group.price_usd_per_hour is not None:
            prices[name] = {"usd_per_hour": group.price_usd_per_hour, "source": "the case"}
        elif offer is not None:
            prices[name] = {
                "usd_per_hour": offer.usd_per_hour, "provider": offer.provider,
                "date": offer.date, "source": offer.source,
            }  # fmt: skip
        else:
            prices[name] = {"usd_per_hour": None, "source": "unknown"}
    assumed = [a for bench in benches for a in bench.ready.served.table.assumed]
    assumed.append(
        "devices are rented one by one; whole nodes, disks, network and people are not priced"
    )
    grids = {}
    for name, group in case.fleet.devices.items():
        if group.region is not None:
            grid = catalog.grid(group.region)
            grids[name] = {"region": grid.region, "gco2e_per_kwh": grid.gco2e_per_kwh,
                           "year": grid.year, "source": grid.source}  # fmt: skip
    return {
        "forerun_version": __version__,
        "spec_hash": case.content_hash(),
        "catalog_version": catalog_version(),
        "seed": case.seed,
        "n_requests": len(requests),
        "prices": prices,
        "grids": grids,
        "calibration_ids": engine_fit.ids(bench.ready.served.pool for bench in benches),
        "assumed": list(dict.fromkeys([*catalog.model(case.model).assumed, *assumed])),
    }
