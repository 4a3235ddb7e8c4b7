"""Laws of models that take turns on replicas that come, go, fail, slow down and are moved from."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from control import cold, drive, scaled
from families import asking, engine_turn, fixed, turning
from fleets import assert_same, sharing
from flows import woven
from powered import drawing, rows
from serving import PS

from forerun.sim.control.drive import Control, with_rows
from forerun.sim.control.fleet import units_of
from forerun.sim.log import COLD, UP, WANTED
from forerun.sim.serve import Server
from forerun.spec.control import Fault, Rebalance
from forerun.spec.deployment import Policy
from forerun.spec.requests import Requests
from forerun.spec.workload import Client

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
    for seed, pools in enumerate(fleets_of(n_resident=1 + (rule == "kept")).values()):
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


@pytest.mark.parametrize("turn", TURNS)
def test_a_leap_equals_stepping_with_clocks_moves_patience_and_workflows(turn):
    """Beside a row's budget, stragglers, moved requests and requests that cause others."""
    rule = Rebalance(policy=Policy(name="virtual_usage", params={"low": 8, "high": 16}),
                     period_s=0.02)  # fmt: skip
    changed = moved = 0
    for seed, name in enumerate(("turns", "both", "split", "turns")):
        pools = [drawing(one) for one in fleets_of(n_resident=1 + seed % 2)[name]]
        pools = engine_turn([replace(one, port_bytes_per_s=2e6) for one in pools], turn)
        if seed == 1:
            pools = all_scaled(pools, min_replicas=1)
        requests = asking(sharing(seed, 60, isl=60, ties=seed % 2 == 0, rate=80), 3, seed)
        if seed % 2:
            requests = woven(requests, seed)
        client = Client(first_token_s=0.3, hedge_s=0.05, retries=1, retry_on=("timeout",))
        log, control = both_ways(
            requests, pools, faults=(SLOW,), power=rows(pools, share=0.5), rebalance=rule,
            client=client if seed == 2 else None, place=Policy(name="freest"), seed=seed,
        )  # fmt: skip
        assert_models(log, control.server)
        assert len(log.requests) == 60
        changed += len(control.power[0].changes)
        moved += log.replicas["n_moved"].sum() - (log.requests["prefill_replica"] >= 0).sum()
    assert changed > 10
    assert moved > 0 or turn != "while_wanted"


def at(seconds, models, *, isl=32, osl=3):
    n = len(models)
    return Requests(np.array(seconds, dtype=float), np.full(n, isl), np.full(n, osl),
                    model=np.array(models))  # fmt: skip


def control_of(pools, requests, colds, faults=()):
    server = Server(with_rows(pools, faults), n_requests=len(requests))
    control = Control(server, faults, [cold(time_s) for time_s in colds])
    server.inject(requests)
    control.run()
    return control


def to_zero(pools, **rule):
    rule = {"policy": "keep_alive", "keep_alive_s": 0.1, "min_replicas": 0, **rule}
    return all_scaled(pools, **rule)


def test_a_replica_that_starts_begins_with_the_model_that_is_asked_for():
    for m, cold_s in enumerate((0.2, 0.3, 0.5)):
        control = control_of(to_zero(turning()), at([1.0], [m]), (0.2, 0.3, 0.5))
        log = control.log()
        assert log.requests["scheduled_ps"][0] == round((1.0 + cold_s) * PS)
        assert not log.loads["n"].any()  # it has not taken up another model since
        starting = log.spans[log.spans["state"] == COLD]
        assert (starting["to_ps"] - starting["from_ps"]).tolist() == [round(cold_s * PS)]


def test_replicas_that_start_together_begin_with_models_by_how_many_ask_for_them():
    models = [0, 0, 0, 0, 0, 1, 1]
    pools = all_scaled(turning(2, replicas=3), target=1, min_replicas=0)
    hardware = control_of(pools, at([1.0] * 7, models, osl=30), (0.2, 0.2)).hardware
    assert hardware.n_starts == 3
    assert sorted(hardware.row.tolist()) == [0, 0, 1]  # 5, 5 / 2, 2


def test_one_that_failed_comes_back_with_the_model_that_waits_for_it():
    crash = Fault(process=Policy(name="listed"), at_s=(1.0,), mttr_s=0.1)
    kept = at([0.0, 0.9, 1.05], [0, 1, 1])
    pools = turning(2, n_resident=2, load_s=0.05)
    control = control_of(pools, kept, (0.3, 0.7), (crash,))
    log = control.log()
    assert log.requests["scheduled_ps"][2] == round(1.8 * PS)  # mended at 1.1, then 0.7 of model 1
    assert log.loads["n"].sum() == 1  # at 0.9, whose weights were there at first
    again = control_of(pools, at([0.0, 0.9, 1.05, 3.0], [0, 1, 1, 0]), (0.3, 0.7), (crash,)).log()
    assert again.loads["n_cold"].sum() == 1  # those of 0 were lost with the replica
    assert again.requests["scheduled_ps"][3] == round(3.05 * PS)


def test_a_straggler_is_slow_while_it_drains_too():
    slow = Fault(effect="slow", process=Policy(name="listed"), at_s=(0.1,), mttr_s=9.0, factor=3)
    requests = at([0.0, 0.05], [0, 1], osl=80)
    plain, slowed = (
        control_of(turning(2), requests, (0.0, 0.0), faults).log() for faults in ((), (slow,))
    )
    left = [log.requests["done_ps"][0] / PS - 0.1 for log in (plain, slowed)]
    assert left[1] == pytest.approx(3 * left[0], rel=0.1)


def test_a_rule_and_faults_that_never_act_write_the_log_of_a_fleet_without_them():
    never = Fault(mtbf_s=1e9, mttr_s=1.0)
    for pools in fleets_of().values():
        requests = asking(sharing(1, 50, isl=60), 3, 1)
        plain = drive(requests, pools).log()
        kept = all_scaled(pools, policy="keep_alive", keep_alive_s=1e6, initial_replicas=2)
        for other in (drive(requests, pools, faults=(never,)), drive(requests, kept)):
            log = other.log()
            assert log.requests.tobytes() == plain.requests.tobytes()
            assert log.loads.tobytes() == plain.loads.tobytes()
            assert (log.spans["state"][log.spans["state"] != WANTED] == UP).all()


def test_a_pool_of_one_model_does_not_start_for_requests_of_another():
    pools = to_zero([fixed(0), fixed(1)])
    control = control_of(pools, at([1.0, 1.2], [1, 1]), (0.2, 0.2))
    assert set(control.log().spans["replica"].tolist()) == {1}
    by_rate = {"policy": "target_tracking", "metric": "requests_per_s", "target": 5.0}
    apart = all_scaled([fixed(0, replicas=4), fixed(1, replicas=4)], **by_rate, min_replicas=1)
    one = at(np.arange(0, 2, 0.05), [1] * 40)
    decided = control_of(apart, one, (0.0, 0.0)).told()["decisions"]
    assert {row["pool"] for row in decided} <= {apart[1].pool.name}


def test_replicas_of_a_pool_are_numbered_so_that_models_come_round():
    server = Server(turning(3, replicas=1)[:1] + turning(2, replicas=2, group=1))
    numbers = [(unit.pool, unit.number, unit.row) for unit in units_of(server)]
    assert numbers == [(0, 0, 0), (1, 0, 1), (1, 1, 1)]
    rows = turning(2, replicas=2)
    rows[1] = replace(rows[1], pool=rows[1].pool.model_copy(update={"replicas": 1}))
    found = {unit.number: unit.row for unit in units_of(Server(rows))}
    assert found == {0: 0, 1: 1, 2: 0}
