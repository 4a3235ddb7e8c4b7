"""Small fleets with power: tables that draw something, rows with a budget, quick looks."""

from __future__ import annotations

from dataclasses import replace

from control import scaled
from fleets import fleets, pool

from forerun.cost.table import Work
from forerun.spec.control import Fault
from forerun.spec.power import RowPower

DEVICE = "h100-sxm"
RATE = 3.35e12  # bytes a second of it
LEVELS = (1.0, 0.8, 0.6, 0.3)
QUICK = {
    "levels": LEVELS, "period_s": 0.05, "window_s": 0.06, "delay_s": 0.04, "act_s": 0.03,
    "brake_s": 0.01,
}  # fmt: skip


def drawing(served, *, memory=0.5, watts=450.0, low=False):
    """The pool with kernels that move bytes for a share of their time and draw so much above idle;
    prompts draw a third more."""
    t = served.table
    time = t.time_s

    def times(share, more=1.0):
        return Work(time.tokens * share, time.seqs * share, time.decode * share,
                    time.prefill * share * more)  # fmt: skip

    table = replace(
        t, hbm_bytes=times(memory * RATE), link_bytes=times(0.0), energy_j=times(watts, 4 / 3)
    )
    power = {"priority": "low" if low else "high"}
    pool = served.pool.model_copy(update={"device": DEVICE})
    pool = pool.model_validate({**pool.model_dump(), "power": power})
    return replace(served, pool=pool, table=table)


def rows(pools, policy="row_budget", share=0.8, **more):
    """A row whose budget is a share of the most that its pools draw."""
    most = sum(one.pool.replicas * (one.table.idle_w + 450.0) for one in pools)
    return RowPower(**{"policy": policy, "budget_w": share * most, "tpot_s": 0.02, **QUICK, **more})


def fed_fleets():
    """The fleets of the other laws, drawing; every second pool is slowed first."""
    known = {**fleets(), "lanes": [pool(replicas=2, pp=2, n_blocks=80)]}
    return {
        name: [drawing(one, low=p % 2 == 1) for p, one in enumerate(pools)]
        for name, pools in known.items()
    }


def hard_cases():
    """(name, pools, row, faults): every policy on every kind of fleet, beside other controllers."""
    slow = Fault(effect="slow", mtbf_s=0.3, mttr_s=0.3, factor=2.5)
    crash = Fault(mtbf_s=0.5, mttr_s=0.15)
    for name, pools in fed_fleets().items():
        for policy in ("row_budget", "fixed_cap", "slack"):
            for share in (0.5, 0.8):
                yield f"{name} {policy} {share}", pools, rows(pools, policy, share), ()
        yield f"{name} faults", pools, rows(pools, share=0.6), (slow, crash)
        both = scaled(pools, 0, min_replicas=1)
        yield f"{name} scaled", both, rows(pools, share=0.6), (slow,)
    day = {"budgets": [{"at_s": 0, "budget_w": 1500}, {"at_s": 0.4, "budget_w": 900}],
           "repeat_s": 0.8, "budget_w": None}  # fmt: skip
    pools = fed_fleets()["one"]
    yield "one by time of day", pools, rows(pools, **day), ()
