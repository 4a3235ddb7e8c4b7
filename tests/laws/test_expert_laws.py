"""Laws of experts at run time: who is chosen, where they are, what that changes for a fleet."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations, islice

import numpy as np
import pytest
from control import cold, drifting, scaled
from fleets import assert_laws, assert_same, fleets, sharing, troubles
from routed import windows_of
from serving import workload

from forerun.sim.control.drive import Control
from forerun.sim.control.slow import with_slow
from forerun.sim.moe import layout, routing
from forerun.sim.moe.course import Experts, course, levels
from forerun.sim.moe.layout import Spread
from forerun.sim.moe.placements.balanced import device_loads
from forerun.sim.serve import Server, run
from forerun.spec.control import Fault
from forerun.spec.moe import ExpertRun, Routing

KINDS = [
    Routing(),
    Routing(kind="zipf", skew=1.2, drift=0.5, correlation_s=60),
    Routing(kind="dirichlet", skew=2.0, drift=0.2),
    Routing(kind="zipf", skew=8.0),
]


# -- who is chosen -----------------------------------------------------------------------------


@pytest.mark.parametrize("how", KINDS)
def test_shares_add_up_and_no_expert_has_more_than_one_of_a_tokens_choices(how):
    share = windows_of(how)
    np.testing.assert_allclose(share.sum(axis=2), 1.0)
    assert share.max() <= 1 / 4 + 1e-12


@pytest.mark.parametrize("how", KINDS)
def test_every_token_is_routed_to_topk_experts(how):
    share = windows_of(how, 1)[0]
    drawn = routing.counts(share, 333, 4, np.random.default_rng(1))
    assert drawn.sum(axis=1).tolist() == [333 * 4] * 3
    assert drawn.max() <= 333


def test_draws_have_the_shares_they_are_drawn_from():
    share = windows_of(KINDS[1], 1)[0]
    drawn = routing.counts(share, 40_000, 4, np.random.default_rng(2))
    np.testing.assert_allclose(drawn / 160_000, share, atol=0.004)  # 4 sigma: 4*sqrt(.19/4e4)/4


def test_same_seed_same_shares_and_another_seed_other_ones():
    a, b, c = (windows_of(KINDS[1], seed=s).tobytes() for s in (3, 3, 4))
    assert a == b != c


def test_popularity_forgets_at_its_correlation_time():
    how = Routing(kind="uniform", drift=1.0, correlation_s=50)
    log_w = np.log(windows_of(how, 400, n_layers=8, n_experts=64, topk=1))
    z = log_w - log_w.mean(axis=2, keepdims=True)
    for lag in (1, 5):
        seen = np.mean(z[:-lag] * z[lag:]) / np.mean(z * z)
        assert abs(seen - np.exp(-lag * 10 / 50)) < 0.05


@pytest.mark.parametrize("affinity", [0.0, 0.4, 1.0])
def test_affinity_leaves_the_shares_of_both_layers_as_they_are(affinity):
    here, there = windows_of(KINDS[2], 1)[0][:2]
    joint = routing.coupling(here, there, affinity)
    np.testing.assert_allclose(joint.sum(axis=1), here)
    np.testing.assert_allclose(joint.sum(axis=0), there)


def test_guesses_are_certain_under_full_affinity_and_blind_without():
    even = np.full(16, 1 / 16)
    assert routing.guessed(even, even, 1.0, 1) == pytest.approx(1.0)
    assert routing.guessed(even, even, 0.0, 1) == pytest.approx(1 / 16)
    here, there = windows_of(Routing(kind="zipf", skew=1.0), 1)[0][:2]
    assert routing.guessed(here, there, 0.0, 1) == pytest.approx(there.max())
    assert routing.guessed(here, there, 0.0, 16) == pytest.approx(1.0)
    assert routing.guessed(here, there, 0.5, 0) == 0.0
    some = [routing.guessed(here, there, a, 2) for a in (0.0, 0.3, 0.6, 1.0)]
    assert some == sorted(some)


# -- where they are ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", layout.names())
@pytest.mark.parametrize("spare", [0, 4])
def test_a_placement_holds_every_expert_and_fills_every_device(name, spare):
    share = windows_of(KINDS[1], 1)[0]
    slots = layout.place(name, share, n_devices=4, n_slots=16 + spare, affinity=0.5)
    assert slots.shape == (3, 16 + spare)
    for row in slots:
        assert set(row) == set(range(16))


def test_uniform_routing_is_the_plain_engine_whatever_the_placement():
    share = windows_of(Routing(), 1, n_experts=256, topk=8)[0]
    for name in layout.names():
        slots = layout.place(name, share, n_devices=8, n_slots=256, affinity=0.3)
        found = layout.spread(
            share, slots, n_devices=8, topk=8, affinity=0.0, tokens_stay=True
        )  # fmt: skip
        assert found == Spread(1.0, 1.0)


def best_of_all(load, n_devices):
    """The least busiest device of all placements with equally many experts a device."""

    def search(left, devices):
        if devices == 1:
            return load[list(left)].sum()
        first, rest = left[0], left[1:]
        each = len(left) // devices
        return min(
            max(load[[first, *some]].sum(), search([e for e in rest if e not in some], devices - 1))
            for some in combinations(rest, each - 1)
        )

    return search(list(range(len(load))), n_devices)


def test_balanced_placement_is_within_four_thirds_of_the_best():
    draw = np.random.default_rng(0)
    for _ in range(30):
        load = draw.dirichlet(np.full(9, 0.7))
        slots = layout.find("balanced")[0](load, None, n_devices=3, n_slots=9)
        found = device_loads(load, slots, 3).max()
        assert found <= 4 / 3 * best_of_all(load, 3) + 1e-12


def test_copies_never_make_the_busiest_device_busier():
    policy = layout.find("balanced")[0]
    draw = np.random.default_rng(1)
    for _ in range(40):
        load = draw.dirichlet(np.full(16, 0.4))
        busiest = [
            device_loads(load, policy(load, None, n_devices=4, n_slots=n), 4).max()
            for n in (16, 20, 24, 32)
        ]
        assert (np.diff(busiest) <= 1e-12).all()
        assert busiest[-1] >= 0.25 - 1e-12


def test_near_experts_keep_more_tokens_on_their_device_than_balanced_ones():
    share = windows_of(Routing(kind="zipf", skew=0.5), 1, n_layers=6, n_experts=32)[0]
    exchange = {}
    for name in ("balanced", "affine"):
        slots = layout.place(name, share, n_devices=4, n_slots=32, affinity=0.8)
        exchange[name] = layout.spread(
            share, slots, n_devices=4, topk=4, affinity=0.8, tokens_stay=True
        )
    assert exchange["affine"].exchange < exchange["balanced"].exchange
    assert exchange["affine"].exchange < 0.6
    assert exchange["affine"].load < 1.08


# -- the course --------------------------------------------------------------------------------


def experts(**changed):
    usual = dict(
        n_layers=3, n_experts=16, topk=4, n_devices=4, n_slots=16, expert_bytes=1e6,
        link_bytes_per_s=np.inf,
    )  # fmt: skip
    return Experts(**(usual | changed))


def test_rebalancing_for_free_reaches_the_balanced_load_when_nothing_changes():
    how = Routing(kind="uniform", drift=1.0, correlation_s=1e300)
    share = windows_of(how, 1)[0]
    slots = layout.place("balanced", share, n_devices=4, n_slots=16, affinity=0.0)
    best = layout.spread(share, slots, n_devices=4, topk=4, affinity=0.0, tokens_stay=False)
    run = ExpertRun(routing=how, placement="balanced", rebalance_s=10)
    seen = list(islice(course(run, experts(), 0), 4))
    assert [w.rebalanced for w in seen[:2]] == [False, True]
    assert seen[0].spread.load > best.load
    assert [w.spread.load for w in seen[1:]] == [best.load] * 3


def test_a_new_placement_holds_only_once_its_experts_have_arrived():
    how = Routing(kind="uniform", drift=1.0, correlation_s=1e300)
    run = ExpertRun(routing=how, placement="balanced", rebalance_s=10)
    slow = experts(link_bytes_per_s=1e5)  # 10 s an expert
    seen = list(islice(course(run, slow, 0), 40))
    first = next(i for i, w in enumerate(seen) if w.rebalanced)
    assert first == 1 + int(np.ceil(seen[first].move_s / 10))
    assert seen[first].move_s >= 10
    assert len({w.spread.load for w in seen[:first]}) == 1


def test_a_placement_knows_the_past_alone():
    """Two courses that differ from window 5 on are the same until then, placements included."""
    how = Routing(kind="zipf", skew=0.8, drift=0.6, correlation_s=40)
    run = ExpertRun(routing=how, placement="balanced", rebalance_s=20)
    long, short = (list(islice(course(run, experts(), 7), n)) for n in (30, 6))
    assert long[:6] == short


def test_levels_are_few_and_stand_in_the_midst_of_their_windows():
    how = Routing(kind="zipf", skew=1.0, drift=1.0, correlation_s=20)
    run = ExpertRun(routing=how, placement="balanced", rebalance_s=30)
    seen = list(islice(course(run, experts(), 1), 200))
    known = levels(seen)
    load = np.array([w.spread.load for w in seen])
    assert 2 < len(known) <= 8
    width = (load.max() - load.min()) / 8
    off = np.abs(load[:, None] - np.array([k.load for k in known])).min(axis=1)
    assert off.max() <= width + 1e-9


# -- the engine --------------------------------------------------------------------------------


def served_by(requests, pools, commands=(), **settings):
    server = Server(pools, n_requests=len(requests), hash_tokens=requests.hash_tokens, **settings)
    for command in commands:
        server.command(*command)
    control = Control(server)
    server.inject(requests)
    control.run()
    return server


def test_a_leap_equals_stepping_while_experts_change_their_load():
    switched = 0
    for seed in range(8):
        requests = sharing(seed, 60, isl=60, ties=seed % 2 == 0)
        for pools in fleets().values():
            commands = [c for c in troubles(seed, pools) if c[1] != "switch"]
            leapt, stepped = (
                served_by(
                    requests, drifting(pools, 0.05, [0, 2, 1, 0, 1]), commands,
                    leap=leap, seed=3,
                )
                for leap in (True, False)
            )  # fmt: skip
            rows = leapt.log_so_far()
            assert_same(rows, stepped.log_so_far())
            assert rows.end_ps == stepped.log_so_far().end_ps
            switched += len(set(rows.leaps["pool"]) - set(range(len(pools))))
            if not rows.n_unfinished:
                assert_laws(leapt, requests)
    assert switched > 30


def changing(leap=True, *, kind="one", seed=0, pieces=()):
    """A fleet whose experts drift while replicas come, go, fail and slow down."""
    slow = Fault(effect="slow", mtbf_s=0.2, mttr_s=0.3, factor=2.5)
    faults = (Fault(mtbf_s=0.6, mttr_s=0.1), slow)
    pools = scaled(drifting(fleets()[kind], 0.05, [0, 2, 1, 0, 1]), min_replicas=1)
    requests = sharing(seed, 60, isl=60)
    server = Server(
        with_slow(pools, faults), n_requests=60, hash_tokens=requests.hash_tokens, leap=leap
    )
    control = Control(server, faults, [cold(0.05)])
    server.inject(requests)
    for until_s in pieces:
        control.advance(until_s)
        assert server.now_s == pytest.approx(until_s)
    control.run()
    return control.log()


def test_experts_faults_and_scale_rules_change_the_rows_of_one_fleet_together():
    both = 0
    for kind in ("one", "split", "unequal"):
        for seed in range(3):
            leapt, stepped = (changing(leap, kind=kind, seed=seed) for leap in (True, False))
            assert_same(leapt, stepped)
            assert leapt.spans.tobytes() == stepped.spans.tobytes()
            assert (leapt.requests["status"] == 0).all()
            n = len(fleets()[kind])  # then two levels, then all of these slowed
            both += np.isin(leapt.leaps["pool"], [n + 2 + n, n + 2 + n + 1]).sum()
    assert both > 50  # steps of a straggler at another level than the first


def test_a_fleet_that_is_driven_piece_by_piece_is_the_same_fleet():
    whole = changing(kind="split")
    for pieces in ([0.1, 0.2, 0.25], np.linspace(0, 1.5, 40).tolist()):
        parts = changing(kind="split", pieces=pieces)
        assert_same(whole, parts)
        assert whole.spans.tobytes() == parts.spans.tobytes()


def test_levels_that_cost_the_same_write_the_log_of_the_plain_engine():
    for closed in (None, 6):
        requests = workload(4, 60)
        pools = fleets()["one"]
        rows = drifting(pools, 0.05, [0, 2, 1, 0, 1])
        same = [replace(row, table=pools[0].table) for row in rows]
        a = served_by(requests, same, concurrency=closed).log_so_far()
        b = run(requests, pools, concurrency=closed)
        assert_same(a, b)
        assert (a.start_ps, a.end_ps) == (b.start_ps, b.end_ps)


def test_a_busier_device_never_makes_a_run_shorter():
    requests = workload(4, 80)
    spans = []
    for order in ([0], [1], [2]):
        pools = drifting(fleets()["one"], 1e6, order)
        spans.append(served_by(requests, pools).log_so_far().requests["done_ps"].sum())
    assert spans == sorted(spans)
    assert spans[0] < spans[2]
