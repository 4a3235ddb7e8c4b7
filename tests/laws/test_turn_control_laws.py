"""Laws of models that take turns on replicas that come, go, fail, slow down and are moved from."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from control import cold, drive, scaled
from families import asking, engine_turn, fixed, turning
from fleets import assert_same, sharing
from flows import woven
from serving import PS

from forerun.sim.control.drive import Control, with_rows
from forerun.sim.log import COLD, UP
from forerun.sim.serve import Server
from forerun.spec.control import Autoscale, Fault, Rebalance
from forerun.spec.power import RowPower
from forerun.spec.requests import Requests

TURNS = ["oldest_first", "while_wanted", "longest_queue", "patience"]
CRASH = Fault(mtbf_s=0.5, mttr_s=0.15)
LOST = Fault(mtbf_s=0.6, mttr_s=0.1, requests="fail")
SPOT = Fault(effect="loss", mtbf_s=0.5, mttr_s=0.2, notice_s=0.1, on_notice="move")
SLOW = Fault(effect="slow", mtbf_s=0.3, mttr_s=0.3, factor=2.5)
LINK = Fault(effect="link", mtbf_s=0.2, mttr_s=0.2, factor=8)
UPGRADE = Fault(effect="upgrade", at_s=(0.5,), mttr_s=0.05, notice_s=0.3)
FAULTS = {
    "none": (), "crash": (CRASH,), "lost": (LOST, LINK), "spot": (SPOT, SLOW), "slow": (SLOW,),
    "upgrade": (UPGRADE,), "all": (CRASH, SPOT, SLOW, LINK),
}  # fmt: skip


def all_scaled(pools, **rule):
    """Each row of the pools with one rule, as rows of one pool have."""
    for p in range(len(pools)):
        pools = scaled(pools, p, **rule)
    return pools


def fleets_of(**how):
    return {
        "turns": turning(replicas=2, **how),
        "both": [*turning(replicas=2, **how), fixed(1)],
        "split": [
            *turning(replicas=2, role="prefill", name="p", **how),
            *turning(replicas=2, first=1, group=1, role="decode", name="d", **how),
        ],
    }


RULES = {
    "none": None,
    "to zero": {"min_replicas": 0},
    "kept": {"policy": "keep_alive", "keep_alive_s": 0.1, "min_replicas": 0},
    "moved": {"min_replicas": 1, "scale_in": "move", "scale_in_delay_s": 0.1},
}


def both_ways(requests, pools, **how):
    """The log of leaps, after it was seen to be that of steps; the server."""
    controls = [drive(requests, pools, leap=leap, **how) for leap in (True, False)]
    leapt, stepped = (one.log() for one in controls)
    assert_same(leapt, stepped)
    assert leapt.loads.tobytes() == stepped.loads.tobytes()
    if leapt.spans is not None:
        assert leapt.spans.tobytes() == stepped.spans.tobytes()
    assert leapt.meta == stepped.meta
    return leapt, controls[0]


def assert_ended(log, state, n, *, fail=False):
    """Each request ended once, and nothing is left; all work is accounted for."""
    rows = log.requests
    assert rows["request"].tolist() == list(range(n))
    finished = rows["status"] == 0
    assert fail or finished.all()
    np.testing.assert_array_equal(rows["n_out"][finished], rows["osl"][finished])
    done, lost = rows[finished], rows[~finished]
    useful = (done["isl"] + done["osl"] - 1 - done["cached"] + done["recomputed"]).sum()
    assert log.replicas["n_tokens"].sum() == useful + (lost["recomputed"] - lost["cached"]).sum()
    assert not state.replicas.n_blocks.any()
    assert not state.replicas.n_away.any()
    assert not state.n_parked.any()
    assert not state.load[:4].any()


def assert_models(log, server):
    """Every step is of the model of its requests; nobody keeps more weights than there is room."""
    model_of = np.array([one.model for one in server.pools])
    ran = {(int(leap["replica"]), int(model_of[leap["pool"]])) for leap in log.leaps}
    for row in log.requests[log.requests["status"] == 0]:
        assert (int(row["replica"]), int(row["model"])) in ran
    state = server._state
    most = state.engines["n_resident"][state.replicas["pool"]]
    assert ((state.resident >= 0).sum(axis=1) <= most).all()
    mine = state.engines["model"][state.replicas["pool"]]
    assert (state.resident[np.arange(len(mine)), mine] >= 0).all()


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("kind", FAULTS)
def test_a_leap_equals_stepping_whatever_happens_to_replicas_that_take_turns(kind, rule):
    if kind == rule == "none":
        return
    turns = 0
    for seed, (name, pools) in enumerate(fleets_of(n_resident=1 + (rule == "kept")).items()):
        if RULES[rule] is not None:
            pools = all_scaled(pools, **RULES[rule])
        if rule == "moved" or kind == "spot":
            pools = [replace(one, port_bytes_per_s=2e6) for one in pools]
        pools = engine_turn(pools, TURNS[(seed + len(kind)) % 4])
        requests = asking(sharing(seed, 50, isl=60, ties=seed % 2 == 0), 3, seed)
        log, control = both_ways(
            requests, pools, faults=FAULTS[kind], cold_s=0.03 * (1 + seed), seed=seed
        )
        assert_ended(log, control.server._state, 50, fail=kind == "lost")
        assert_models(log, control.server)
        turns += log.loads["n"].sum()
    assert turns > 5
