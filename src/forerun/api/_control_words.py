"""How a fleet changes, in a few words for the head of a report."""

from __future__ import annotations

from forerun import units
from forerun.spec.case import Case
from forerun.spec.control import Autoscale, ColdStart, Fault
from forerun.spec.deployment import Deployment

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
    if deployment.rebalance is not None:
        every = units.show(deployment.rebalance.period_s, "time")
        out["rebalancing"] = f"{deployment.rebalance.policy.name} every {every}"
    if case.faults:
        out["faults"] = "; ".join(fault_words(fault) for fault in case.faults)
    return out


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
