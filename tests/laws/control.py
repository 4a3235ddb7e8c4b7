"""Small fleets that change while they run: scale rules and faults on the pools of `fleets`."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from fleets import fleets
from serving import PS, table

from forerun.sim.control.cold import Cold
from forerun.sim.control.drive import Control, with_rows
from forerun.sim.control.experts import with_levels
from forerun.sim.moe.course import Window
from forerun.sim.moe.layout import Spread
from forerun.sim.moe.rows import Course
from forerun.sim.serve import Server
from forerun.spec.control import Autoscale, ColdStart, Fault
from forerun.spec.requests import Requests


def scaled(pools, which=0, *, replicas=None, **rule):
    """The pools, one of them with a scale rule and quick looks."""
    settings = {"metric": "outstanding", "target": 3, "period_s": 0.05, "scale_in_delay_s": 0.2}
    out = list(pools)
    one = out[which]
    update = {"autoscale": Autoscale(**{**settings, **rule})}
    if replicas is not None:
        update["replicas"] = replicas
    out[which] = replace(one, pool=one.pool.model_copy(update=update))
    return out


def cold(time_s):
    return Cold((("warm up", time_s),)) if time_s else Cold(())


def drive(requests, pools, *, faults=(), cold_s=0.0, power=None, rebalance=None, **settings):
    """The control after all requests."""
    server = Server(
        with_rows(pools, faults, power), n_requests=len(requests), hash_tokens=requests.hash_tokens,
        **settings,
    )  # fmt: skip
    control = Control(server, faults, [cold(cold_s)] * len(pools), power, rebalance)
    server.inject(requests)
    control.run()
    return control


def drifting(pools, windows_s, order):
    """The pools, the first of them with rows of three levels in the given order of windows."""
    at = [replace(pools[0], table=table(flat=2e-3 * f)) for f in (1.0, 1.3, 1.7)]
    spreads = tuple(Spread(load, 1.0) for load in (1.0, 1.3, 1.7))
    windows = [Window(spreads[k], False, 0.0) for k in order]
    rest = (Window(spreads[k % 3], False, 0.0) for k in range(10**9))
    known = Course(windows, spreads, windows_s, rest)
    start = order[0]
    first = replace(pools[0], table=at[start].table, course=known)
    none = first.pool.model_copy(update={"replicas": 0, "autoscale": None})
    others = [replace(row, pool=none) for k, row in enumerate(at) if k != start]
    return with_levels([first, *pools[1:]], [(0, others)])


def by_state(log, *states):
    """Seconds that all replicas spent in these states."""
    spans = log.spans[np.isin(log.spans["state"], states)]
    return (spans["to_ps"] - spans["from_ps"]).sum() / PS


def burst(*at, n=12):
    """n requests at each of these times."""
    when = np.repeat(np.array(at, dtype=float), n)
    return Requests(when, np.full(len(when), 20), np.full(len(when), 12))


def hard_cases():
    """(name, pools, faults): every mechanism of control on every kind of fleet."""
    crash = Fault(mtbf_s=0.4, mttr_s=0.15)
    lost = Fault(mtbf_s=0.6, mttr_s=0.1, requests="fail")
    rack = Fault(
        process="weibull", shape=0.7, mtbf_s=1.0, mttr_s=0.2, per="group", group_replicas=2
    )
    spot = Fault(effect="loss", mtbf_s=0.5, mttr_s=0.2, notice_s=0.1, on_notice="move")
    slow = Fault(effect="slow", mtbf_s=0.3, mttr_s=0.3, factor=2.5)
    link = Fault(effect="link", mtbf_s=0.2, mttr_s=0.2, factor=8)
    upgrade = Fault(effect="upgrade", at_s=(0.5,), mttr_s=0.05, notice_s=0.3)
    sets = {
        "crash": (crash,), "lost": (lost, rack), "spot": (spot, slow), "link": (link, upgrade),
        "all": (crash, rack, spot, slow, link),
    }  # fmt: skip
    for name, pools in fleets().items():
        for kind, faults in sets.items():
            if kind != "all" or name in ("one", "mixed"):  # others send the same again for long
                yield f"{name} {kind}", pools, faults
        both = [p for p, one in enumerate(pools) if one.pool.replicas > 1]
        for p in both:
            rule = {"min_replicas": 0} if p == 0 else {"policy": "keep_alive", "keep_alive_s": 0.1}
            yield f"{name} scaled {p}", scaled(pools, p, **rule), ()
            some = sets["all" if name in ("one", "mixed") else "spot"]
            yield f"{name} scaled {p}, faults", scaled(pools, p, **rule), some


__all__ = ["ColdStart", "burst", "by_state", "cold", "drifting", "drive", "hard_cases", "scaled"]
