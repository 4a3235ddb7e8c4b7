"""What the devices of a deployment cannot be told, or cannot keep: sentences before the run."""

from __future__ import annotations

from collections.abc import Sequence

from forerun import catalog, paths, units
from forerun.cost.clocked import at_clock, check_setting, most_w
from forerun.cost.power_cap import lowest
from forerun.errors import Problem, SpecError
from forerun.sim.control.dials import keys
from forerun.sim.power.course import least_budget_w
from forerun.sim.power.rows import fed
from forerun.sim.setup import Served
from forerun.spec.deployment import Pool
from forerun.spec.device import Device
from forerun.spec.power import RowPower


def check_pool(pool: Pool) -> list[Problem]:
    """What is wrong with a pool's own clock and cap."""
    said = pool.power
    if said is None or (said.clock_hz is None and said.cap_w is None):
        return []
    device = catalog.device(pool.device)
    where = f"deployment.pools.{pool.name}.power"
    out = unknown(device, where)
    if said.clock_hz is not None and device.clock_hz is None:
        what = f"the highest clock of {device.name} is not known"
        out.append(Problem(f"{where}.clock_hz", what, f"clock_hz in {file_of(device)}"))
    if out:
        return out
    clock = said.clock_hz / device.clock_hz if said.clock_hz and device.clock_hz else 1.0
    for name, given in (("clock_hz", {"clock": clock}), ("cap_w", {"cap_w": said.cap_w})):
        if getattr(said, name) is None:
            continue
        try:
            check_setting(device, **given)
        except SpecError as error:
            out += [Problem(f"{where}.{name}", p.what, p.fix) for p in error.problems]
    return out


def unknown(device: Device, where: str) -> list[Problem]:
    """What of a device's power would have to be guessed, and where it can be said."""
    if device.kind != "gpu":
        what = f"how the power of a {device.kind} follows its clock is not known ({device.name})"
        return [Problem(where, what, "no clock, cap or budget for it: policy: watch")]
    if device.idle_w is None:
        what = f"what {device.name} draws idle is not known, and a budget cannot rest on a guess"
        return [Problem(where, what, f"idle_w: 60 W in {file_of(device)}")]
    return []


def file_of(device: Device) -> str:
    """The device file that a user can write."""
    return f"a device file of your own, {paths.data_dir() / 'devices'}/NAME.yaml"


def check_row(row: RowPower | None, pools: Sequence[Served]) -> None:
    """Raises SpecError where a row's levels are no clocks of its devices, or none keeps its budget.

    pools : those of the deployment, ready to run.
    """
    if row is None or row.policy.name == "watch":
        return
    where, problems, least_w = "deployment.power", [], row.other_w
    mine = [pools[p] for p in fed(row, pools)]
    for served in mine:
        device = catalog.device(served.pool.device)
        problems += unknown(device, where)
        if row.levels[-1] < lowest(device):
            least = lowest(device)
            what = f"{row.levels[-1]:g} is below the lowest clock of {device.name}, {least:.3g}"
            more = "" if device.least_clock_hz else f", or least_clock_hz in {file_of(device)}"
            problems.append(Problem(f"{where}.levels", what, f"{least:.3f} or more{more}"))
    if problems:
        raise SpecError(*dict.fromkeys(problems))
    homes = [home for home, _ in keys(pools)]
    for p in fed(row, pools):  # at whatever load of its experts, in its encoder's steps too
        each = [_least_w(one, row) for one, home in zip(pools, homes, strict=True) if home == p]
        if pools[p].encoder >= 0:
            each.append(_least_w(pools[pools[p].encoder], row))
        branch = pools[p].branch
        if branch is not None:
            each.append(_least_w(pools[branch.row], row))
        least_w += pools[p].pool.replicas * max(each)
    budget = least_budget_w(row)
    if least_w > budget:
        shown, most = (units.show(watts, "power") for watts in (budget, least_w))
        what = (
            f"{shown} is less than the row can draw at its lowest level, {row.levels[-1]:g} of the "
            f"clock: {most}"
        )
        fix = f"{most} or more, fewer replicas, a lower level"
        raise SpecError.one(f"{where}.{_which(row)}", what, fix)


def _least_w(served: Served, row: RowPower) -> float:
    """What a replica with these costs can draw at the lowest level."""
    cap_w = served.pool.power.cap_w if served.pool.power else None
    held = None if served.waits is None else served.waits.step_s
    device = catalog.device(served.pool.device)
    return most_w(at_clock(served.table, device, row.levels[-1], cap_w, held_s=held))


def _which(row: RowPower) -> str:
    return "budget_w" if row.budget_w is not None else "budgets" if row.budgets else "gco2e_per_h"
