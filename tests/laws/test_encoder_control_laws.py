"""Laws of encoders on a fleet that is slowed, clocked and metered, and what they are not beside."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from adapting import WAYS, assert_adapters, assert_same_adapters, fitted
from adapting import naming as adapted
from control import drive
from fleets import assert_laws, both_ways, pool, serve
from powered import drawing, rows
from seeing import encoder, in_front, looking, naming, seeing_fleets
from serving import PS
from sharing_devices import lanes
from test_tier_laws import with_engine

from forerun.errors import SpecError
from forerun.metrics.power import dynamic_j
from forerun.sim.control.dials import keys
from forerun.sim.control.drive import with_rows
from forerun.sim.core.rows_log import LEAP
from forerun.sim.embeddings import Cache
from forerun.sim.leaps import end_ps
from forerun.sim.power.meter import under_way
from forerun.sim.serve import Server
from forerun.spec.caches import ResponseCache
from forerun.spec.control import Fault, Rebalance
from forerun.spec.deployment import Policy
from forerun.spec.requests import Requests
from forerun.spec.tuning import Tuning

SLOW = Fault(effect="slow", mtbf_s=0.3, mttr_s=0.3, factor=2.5)
CRASH = Fault(mtbf_s=0.5, mttr_s=0.15)


def drawn(one, **how):
    """The row with kernels that draw something, be it one of no replicas."""
    n = one.pool.replicas
    some = drawing(replace(one, pool=one.pool.model_copy(update={"replicas": max(1, n)})), **how)
    return replace(some, pool=some.pool.model_copy(update={"replicas": n}))


FLEETS = {name: [drawn(one) for one in pools] for name, pools in seeing_fleets().items()}


@pytest.mark.parametrize("name", FLEETS)
def test_a_leap_equals_stepping_with_images_at_levels_of_power(name):
    pools, changed = FLEETS[name], 0
    for seed, faults in enumerate([(), (SLOW, CRASH)]):
        requests = looking(seed, 50, isl=60, ties=seed == 0, rate=60)
        row = rows(pools, share=0.6)
        leapt = both_ways(drive, requests, pools, power=row, faults=faults, seed=seed)
        assert_laws(leapt.server, requests)
        changed += len(leapt.log().meta["control"]["power"]["changes"])
    assert changed


@pytest.mark.parametrize("name", ["in front", "in front of prompts"])
def test_a_slowed_or_clocked_row_encodes_by_the_encoder_slowed_and_clocked_alike(name):
    other = Fault(effect="slow", mtbf_s=0.3, mttr_s=0.3, factor=4)
    pools, faults, row = FLEETS[name], (SLOW, other), rows(FLEETS[name])
    every = with_rows(pools, faults, row)
    known = keys(every)
    assert len(set(known)) == len(known)
    some = 0
    for served, (p, shown) in list(zip(every, known, strict=True))[len(pools) :]:
        if pools[p].encoder >= 0:
            assert known[served.encoder] == (pools[p].encoder, shown)
            some += 1
        else:
            assert served.encoder < 0
    assert some > 10


def test_a_fault_and_a_level_slow_an_encoder_in_front_by_their_product():
    slow = Fault(effect="slow", at_s=(0.0,), mttr_s=100.0, factor=3, replicas=(0,))
    one = Requests(
        np.array([0.5]), np.array([20]), np.array([2]), n_items=np.array([2]),
        item_units=np.array([8]), item_tokens=np.array([2]),
    )  # fmt: skip
    pools = [drawn(each, memory=0.0) for each in in_front([pool()])]
    row = rows(pools, "fixed_cap", budget_w=None, budgets=[{"at_s": 0, "budget_w": 400}])
    log = drive(one, pools, power=row, faults=(slow,)).log()
    level = log.meta["control"]["power"]["changes"][0]["level"]
    plain = serve(one, pools).log_so_far()
    mine, free = (each.leaps[0] for each in (log, plain))
    assert (free["pool"], mine["pool"] > 3) == (1, True)
    assert free["chunk"] == mine["chunk"] == 16
    assert level < 1
    # it runs in the engine's own iteration, whose host time comes with the model's step
    assert mine["first_ps"] == pytest.approx(3 / level * free["first_ps"], rel=1e-6)


@pytest.mark.parametrize("name", FLEETS)
def test_a_meter_shows_the_power_of_encoders(tmp_path, name):
    file = tmp_path / "spy.py"
    file.write_text(
        "def spy(row, rule, memory):\n"
        "    memory.setdefault('seen', []).append((row.time_s, row.power_w))\n"
        "    return [0] * len(row.pools)\n"
    )
    pools = FLEETS[name]
    # an encoder in front draws less than the model does
    pools = [drawn(one, watts=150.0) if one.pool.role == "encode" else one for one in pools]
    row = rows(pools, f"{file}:spy", delay_s=0.0)
    control = drive(looking(5, 60, isl=60, rate=60), pools, power=row)
    log, seen = control.log(), control.power[0].memory["seen"]
    idle = sum(one.pool.replicas * one.table.idle_w for one in pools)
    compared = 0
    for time_s, watts in seen:
        edges = np.rint(np.array([time_s - row.window_s, time_s]) * PS).astype(np.int64)
        if edges[0] < 0 or edges[1] > log.end_ps:
            continue
        joule = dynamic_j(log.leaps, log, edges).sum() + idle * row.window_s
        assert watts == pytest.approx(joule / row.window_s, abs=0.4)
        compared += 1
    assert compared > 3


def test_steps_under_way_read_as_the_rows_that_they_become():
    later = ("n_blocks", "n_extra")  # known when they have ended
    names = [name for name in LEAP.names if name not in later]
    for pools in FLEETS.values():
        requests = looking(2, 40, isl=60, rate=60)
        server = Server(pools, hash_tokens=requests.hash_tokens, leap=False)
        server.inject(requests)
        seen = []
        for until_s in np.linspace(0.05, 0.8, 30):
            server.advance(float(until_s))
            seen += list(under_way(server))
        server.advance()
        leaps = server.log_so_far().leaps
        encoded = 0
        for row in seen:
            became = leaps[
                (leaps["replica"] == row["replica"]) & (leaps["start_ps"] == row["start_ps"])
            ]
            assert len(became) == 1
            assert {n: became[n][0] for n in names} == {n: row[n] for n in names}
            encoded += pools[row["pool"]].pool.role == "encode"
        assert encoded > 2


def test_what_was_never_combined_with_images_is_refused_before_the_run():
    requests = looking(1, 5)
    plain = [pool(replicas=2)]
    for pools in (in_front(plain), [encoder(), *plain]):
        order = Policy(name="vtc")
        tuning = {"tuning": Tuning(tokens=100, grain=4)}
        mixed = [
            (with_engine(pools, order=order), {}, "counted for no tenant yet"),
            (pools, {"responses": ResponseCache()}, "images are no text"),
        ]
        for mine, more, said in mixed:
            with pytest.raises(SpecError, match=said):
                serve(requests, mine, **more)
        if pools[0].pool.role == "encode":
            with pytest.raises(SpecError, match="has no model to tune"):
                serve(requests, with_engine(pools, **tuning))
        with pytest.raises(SpecError, match="by a rule is not yet combined with images"):
            drive(requests, pools, rebalance=Rebalance(policy=Policy(name="even_kv")))
    some = in_front(lanes())
    some[1] = replace(some[1], encoder=-1)
    with pytest.raises(SpecError, match="encode images for some of its rows"):
        serve(requests, some)


def test_a_budget_that_never_binds_writes_the_log_of_a_fleet_with_images_and_none():
    for pools in FLEETS.values():
        requests = looking(2, 40, isl=60)
        free = serve(requests, pools).log_so_far()
        log = drive(requests, pools, power=rows(pools, share=100.0, tpot_s=1e-4)).log()
        for name in ("requests", "leaps", "gaps"):
            assert getattr(log, name).tobytes() == getattr(free, name).tobytes()
        assert log.encodes.tobytes() == free.encodes.tobytes()


def test_time_and_items_of_encoders_are_those_of_their_rows():
    for pools in seeing_fleets().values():
        log = serve(looking(4, 50, isl=60), pools, seed=3).log_so_far()
        own = np.isin(
            log.leaps["pool"], [p for p, s in enumerate(pools) if s.pool.role == "encode"]
        )
        mine = log.leaps[own]
        for i, done in enumerate(log.encodes):
            here = mine[mine["replica"] == i]
            assert (end_ps(here) - here["start_ps"]).sum() == done["busy_ps"]
            assert here["chunk"].sum() == done["n_units"]
            assert here["n_chunks"].sum() == done["n_items"]


@pytest.mark.parametrize("way", WAYS)
def test_images_in_front_compose_with_adapters_and_fine_tuning(way):
    """Steps of the encoder use no adapter and tune nothing."""
    slack = {"name": "slack", "params": {"step_s": 0.012}}
    for seed in range(2):
        requests = adapted(naming(looking(seed, 50, isl=60, rate=60), 12, seed), seed=seed)
        for how in ({}, {"tune": slack, "tuning": Tuning(tokens=2_000, grain=4)}):
            pools = in_front(fitted([pool(replicas=2, n_blocks=40, **how)], **WAYS[way]))
            leapt, stepped = (
                serve(requests, pools, leap=leap, embeddings=Cache(12e3), seed=3)
                for leap in (True, False)
            )
            log = assert_laws(leapt, requests)
            assert_adapters(leapt, pools)
            assert_same_adapters(log, stepped.log_so_far())
            encoding = log.leaps[log.leaps["pool"] == 1]
            assert len(encoding) > 5
            assert not encoding["n_adapters"].any()
            assert not encoding["n_tuned"].any()
