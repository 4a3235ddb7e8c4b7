"""What a log is told about power, for metrics: the row, whom it feeds, what was changed when."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from forerun.sim.control.rows import fed
from forerun.sim.log import Log
from forerun.sim.setup import Served
from forerun.spec.power import RowPower


def says_power(row: RowPower | None, pools: Sequence[Served]) -> bool:
    """Whether a deployment says anything of power."""
    return row is not None or any(served.pool.power is not None for served in pools)


def noted(log: Log, row: RowPower | None, pools: Sequence[Served]) -> Log:
    """The log with what is to be said of power; as it is where the deployment says nothing.

    pools : those of the deployment, ready to run, without further rows.
    """
    if not says_power(row, pools):
        return log
    row = row or RowPower()
    own = {p: served.pool.name for p, served in enumerate(pools) if served.pool.replicas > 0}
    mine = fed(row, pools)
    control: dict[str, Any] = log.meta.get("control", {}).get("power", {})
    told = {
        "row": row,
        "pools": own,  # by the number of their row
        "fed": tuple(mine),
        "fed_names": tuple(own[p] for p in mine),
        "changes": tuple(control.get("changes", ())),
    }
    slowed = ASSUMED if any(table.free is not None for table in log.tables) else ()
    assumed = tuple(dict.fromkeys((*log.meta.get("assumed", ()), *slowed)))
    return replace(log, meta={**log.meta, "power": told, "assumed": assumed})


ASSUMED = (
    "at a lower clock the time of a kernel's bytes at the data sheet's memory rate stays and the "
    "rest grows; how power follows the clock is that of Zeus's V100 and P100, memory's share left "
    "out: neither was metered under clocks while serving",
)
