"""Laws of requests that move between replicas while they decode."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from control import drive, scaled
from fleets import assert_laws, assert_same, both_ways, fleets, pool, sharing
from flows import woven
from serving import workload
from test_tier_laws import with_engine

from forerun.errors import PolicyError, SpecError
from forerun.sim.control.drive import Control
from forerun.sim.serve import Server
from forerun.spec.control import Fault, Rebalance
from forerun.spec.deployment import Policy
from forerun.spec.requests import Requests
from forerun.spec.workload import Client

RULES = [
    Rebalance(policy=Policy(name="virtual_usage", params={"low": 8, "high": 16}), period_s=0.02),
    Rebalance(policy=Policy(name="even_kv", params={"gap": 0.1}), period_s=0.013),
]


@pytest.mark.parametrize("rule", RULES)
def test_a_leap_equals_stepping_while_requests_move(rule):
    moved = 0
    for seed in range(4):
        requests = sharing(seed, 60, isl=60, ties=seed % 2 == 0, rate=80)
        requests = replace(requests, tenant=np.arange(60) % 3)
        if seed % 2:
            requests = woven(requests, seed)
        client = Client(first_token_s=0.3, hedge_s=0.05, retries=1, retry_on=("timeout",))
        for pools in fleets().values():
            if seed > 1:
                pools = with_engine(pools, order=Policy(name="vtc", params={"shared": seed % 2}))
            faults = (Fault(mtbf_s=0.5, mttr_s=0.1),) if seed == 3 else ()
            leapt = both_ways(
                drive, requests, pools, faults=faults, rebalance=rule,
                place=Policy(name="freest"), client=client if seed == 2 else None,
            )  # fmt: skip
            assert_laws(leapt.server, requests, all_sent=False)
            moved += leapt.rebalancers[0].n_ordered
    assert moved > 40  # the cases are hard enough to tell something


def test_a_rule_that_never_fires_writes_the_log_of_a_fleet_without_one():
    never = Rebalance(policy=Policy(name="even_kv", params={"gap": 2}), period_s=0.02)
    for pools in fleets().values():
        requests = sharing(1, 60, isl=60)
        plain = Server(pools, n_requests=60, hash_tokens=8)
        plain.inject(requests)
        plain.advance()
        same = drive(requests, pools, rebalance=never)
        assert_same(plain.log_so_far(), same.log())


def crowd(n=40):
    """Everybody on one of two replicas: sessions stay where the first of them went."""
    draw = np.random.default_rng(0)
    arrival = np.sort(draw.uniform(0, 0.5, n))
    return Requests(arrival, draw.integers(4, 30, n), draw.integers(20, 60, n), session=np.zeros(n))


def test_moves_relieve_the_replica_that_everybody_was_sent_to():
    requests, sticky = crowd(), Policy(name="session_sticky")
    pools = [pool(replicas=2, n_blocks=60, bytes_per_s=1e9, latency_s=1e-5)]
    still = Rebalance(policy=Policy(name="even_kv", params={"gap": 2}))
    alone = drive(requests, pools, route=sticky, rebalance=still).log()
    rule = Rebalance(policy=Policy(name="even_kv", params={"gap": 0.1}), period_s=0.01)
    evened = drive(requests, pools, route=sticky, rebalance=rule).log()
    assert alone.replicas["n_out"].min() == 0
    assert evened.replicas["n_out"].min() > 0
    assert evened.requests["n_preempt"].sum() < 0.7 * alone.requests["n_preempt"].sum()
    assert evened.end_ps < 0.9 * alone.end_ps
    assert evened.replicas["moved_bytes"].sum() > 0
    slow = [pool(replicas=2, n_blocks=60, bytes_per_s=2e5, latency_s=0.05)]
    dear = drive(requests, slow, route=sticky, rebalance=rule).log()
    assert dear.requests["away_ps"].sum() > 5 * evened.requests["away_ps"].sum()
    assert dear.end_ps > evened.end_ps  # a move costs what its link takes


def test_a_replica_that_is_given_back_moves_its_requests_and_goes_sooner():
    arrival = np.concatenate([np.zeros(24), np.linspace(0.2, 3, 10)])
    osl = np.concatenate([np.full(24, 20), np.full(10, 12)])
    osl[5:8] = 400  # these would keep their replicas
    requests = Requests(arrival, np.full(34, 10), osl)
    spent = {}
    for how in ("drain", "move"):
        rule = {"initial_replicas": 3, "target": 20, "scale_in_delay_s": 0.05}
        three = [pool(replicas=3, n_blocks=400, bytes_per_s=1e9)]
        pools = scaled(three, replicas=3, scale_in=how, **rule)
        leapt = both_ways(drive, requests, pools)
        log = leapt.log()
        assert (log.requests["status"] == 0).all()
        spent[how] = (log.spans["to_ps"] - log.spans["from_ps"])[log.spans["state"] < 6].sum()
    assert spent["move"] < 0.9 * spent["drain"]


def test_moves_without_a_way_or_a_goal_are_refused():
    requests = workload(1, 5)
    no_link = [pool(replicas=2, bytes_per_s=0.0)]
    with pytest.raises(SpecError, match="requests move with their KV, and none has no network"):
        drive(requests, no_link, rebalance=RULES[0])
    with pytest.raises(SpecError, match="requests move with their KV"):
        drive(requests, scaled(no_link, scale_in="move"))
    told = Fault(effect="loss", at_s=(1.0,), notice_s=1.0, on_notice="move")
    for elsewhere in (None, "main"):
        with pytest.raises(SpecError, match="requests move with their KV"):
            drive(requests, no_link, faults=[told.model_copy(update={"pool": elsewhere})])
    drive(requests, no_link, faults=[told.model_copy(update={"on_notice": "drain"})])
    with pytest.raises(SpecError, match="no second replica"):
        drive(requests, [pool()], rebalance=RULES[0])
    with pytest.raises(PolicyError, match="no `rebalance` policy of this name"):
        drive(requests, [pool(replicas=2)], rebalance=Rebalance(policy=Policy(name="evn_kv")))


def test_a_rule_that_gives_away_what_is_no_number_is_named(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("def mine(fleet, rule, memory):\n    return [1, -1]\n")
    rule = Rebalance(policy=Policy(name=f"{file}:mine"), period_s=0.1)
    server = Server([pool(replicas=2)], n_requests=5)
    control = Control(server, rebalance=rule)
    server.inject(workload(1, 5))
    with pytest.raises(PolicyError, match=r"gives away \[1, -1\]"):
        control.run()
