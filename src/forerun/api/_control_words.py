"""How a fleet changes, in a few words for the head of a report."""

from __future__ import annotations

from forerun import units
from forerun.spec.case import Case
from forerun.spec.control import Autoscale, ColdStart, Fault
from forerun.spec.deployment import Deployment
from forerun.spec.power import PoolPower, RowPower

_OF = {"target_tracking": "{metric} at {target:g} a replica", "keep_alive": "{target:g} requests a "
       "replica, kept for {keep}", "forecast": "{target:g} req/s a replica"}  # fmt: skip


def setup(case: Case, deployment: Deployment) -> dict[str, str]:
    """Label -> words: "autoscale", "cold start", "faults"; nothing for a fleet as it stands."""
    out = {}
    many = len(deployment.pools) > 1
    for pool in deployment.pools:
        of = f" of {pool.name}" if many else ""
        if pool.autoscale is not None:
            out[f"autoscale{of}"] = scale_words(pool.autoscale)
        if pool.cold_start != ColdStart():
            out[f"weights{of} from"] = pool.cold_start.weights_from.replace("_", " ")
        if pool.power is not None:
            out[f"power{of}"] = pool_power_words(pool.power)
    if deployment.power is not None:
        out["row"] = row_words(deployment.power)
    if deployment.rebalance is not None:
        every = units.show(deployment.rebalance.period_s, "time")
        out["rebalancing"] = f"{deployment.rebalance.policy.name} every {every}"
    if case.faults:
        out["faults"] = "; ".join(fault_words(fault) for fault in case.faults)
    return out


def pool_power_words(said: PoolPower) -> str:
    """ "clock 1.2 GHz, at most 400 W a device, low priority"."""
    parts = []
    if said.clock_hz is not None:
        parts.append(f"clock {units.show(said.clock_hz, 'frequency')}")
    if said.cap_w is not None:
        parts.append(f"at most {units.show(said.cap_w, 'power')} a device")
    return ", ".join([*parts, f"{said.priority} priority"])


def row_words(row: RowPower) -> str:
    """ "row_budget of 12 kW every 2 s, levels 1 to 0.3"."""
    of = []
    if row.budget_w is not None:
        of.append(units.show(row.budget_w, "power"))
    if row.budgets:
        shown = sorted(b.budget_w for b in row.budgets)
        low, high = (units.show(watts, "power") for watts in (shown[0], shown[-1]))
        of.append(f"{low} to {high} by time of day")
    if row.gco2e_per_h is not None:
        of.append(f"{row.gco2e_per_h:g} gCO2e/h")
    budget = f" of {' and '.join(of)}" if of else ""
    if row.policy.name == "watch":
        return f"metered{', budget' + budget if budget else ''}"
    period = units.show(row.period_s, "time")
    return f"{row.policy.name}{budget} every {period}, levels 1 to {row.levels[-1]:g}"


def scale_words(rule: Autoscale) -> str:
    """ "target_tracking (outstanding at 16 a replica) every 15 s, in after 5 min"."""
    name = rule.policy.name
    keep = units.show(rule.keep_alive_s, "time")
    of = _OF.get(name, "").format(metric=rule.metric, target=rule.target or 0.0, keep=keep)
    period, after = (units.show(s, "time") for s in (rule.period_s, rule.scale_in_delay_s))
    return f"{name}{f' ({of})' if of else ''} every {period}, scales in after {after}"


def fault_words(fault: Fault) -> str:
    """ "crash per node, exponential, mtbf 30 h, mttr 10 min"."""
    times = [fault.process.name]
    if fault.at_s:
        shown = ", ".join(units.show(at, "time") for at in fault.at_s[:4])
        times = [f"at {shown}" + (" ..." if len(fault.at_s) > 4 else "")]
    if fault.mtbf_s is not None:
        times.append(f"mtbf {units.show(fault.mtbf_s, 'time')}")
    times.append(f"mttr {units.show(fault.mttr_s, 'time')}")
    if fault.notice_s:
        times.append(f"notice {units.show(fault.notice_s, 'time')}")
    if fault.factor != 1:
        times.append(f"factor {fault.factor:g}")
    return f"{fault.effect} per {fault.per}, {', '.join(times)}"
