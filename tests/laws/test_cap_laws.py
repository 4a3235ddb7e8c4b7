"""Laws of caps: how many cached tokens a request keeps, and how many its decoding reads."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from fleets import assert_laws, assert_same, both_ways, fleets, pool, serve, sharing, troubles
from serving import workload
from test_tier_laws import DRAM, POOL, with_engine

from forerun.cost.pick import Pick
from forerun.errors import SpecError
from forerun.metrics.work import by_leap
from forerun.spec.deployment import Policy
from forerun.spec.requests import Requests


def without_caching(pools, **engine):
    return with_engine(pools, prefix_caching=False, **engine)


@pytest.mark.parametrize("caps", [(17, None), (None, 17), (40, 9), (8, 8), (1, 1)])
def test_a_leap_equals_stepping_with_caps(caps):
    keeps, reads = caps
    for seed in range(6):
        requests = workload(seed, 60, isl=60, osl=60, ties=seed % 2 == 0, rate=80)
        for name, pools in fleets().items():
            swap = {"preemption": "swap"} if seed % 2 else {}
            pools = without_caching(pools, kept_tokens=keeps, attended_tokens=reads, **swap)
            commands = troubles(seed, pools) if seed > 2 and name != "mixed" else ()
            leapt = both_ways(
                serve, requests, pools, seed=3, tiers=[DRAM] if swap else (), commands=commands,
                route=Policy(name="power_of_two"),
            )  # fmt: skip
            assert_laws(leapt, requests)
            if not leapt._state.load[0].any():
                for field in ("n_reading", "n_taking", "ctx"):
                    assert not leapt._state.replicas[field].any()
                assert not leapt._state.residue.any()


def test_a_leap_equals_stepping_where_reads_are_capped_and_prefixes_and_tiers_shared():
    for seed in range(4):
        requests = sharing(seed, 60, isl=60, ties=seed % 2 == 0)
        for pools in fleets().values():
            leapt = both_ways(
                serve, requests, with_engine(pools, attended_tokens=20), tiers=(DRAM, POOL),
                route=Policy(name="prefix_aware"),
            )  # fmt: skip
            assert_laws(leapt, requests)


def test_a_cap_that_no_request_reaches_changes_nothing():
    requests = workload(3, 60, isl=60, osl=60)
    plain = [pool(replicas=2, n_blocks=30)]
    for caps in ({"kept_tokens": 120}, {"attended_tokens": 120}):
        assert_same(
            serve(requests, plain).log_so_far(),
            serve(requests, with_engine(plain, **caps)).log_so_far(),
        )


PAGES = Pick(bytes_share=0.25, flop_share=0.1, step_s=3e-4)


def picking(pools, pick=PAGES):
    """The same pools where picking what is read takes time."""
    return [replace(one, table=replace(one.table, pick=pick)) for one in pools]


def capped(requests, seed, keeps=(10, 60), reads=(5, 40)):
    """The same requests, two in three with caps of their own."""
    draw = np.random.default_rng(seed + 5)
    n = len(requests)
    own = {
        "kept_tokens": np.where(draw.random(n) < 0.66, draw.integers(*keeps, n), 0),
        "attended_tokens": np.where(draw.random(n) < 0.66, draw.integers(*reads, n), 0),
    }
    return replace(requests, **own)


@pytest.mark.parametrize("caps", [(None, None), (45, 17), (None, 12)])
@pytest.mark.parametrize("picks", [False, True])
def test_a_leap_equals_stepping_with_caps_of_the_requests_own(caps, picks):
    scored = 0
    for seed in range(5):
        requests = workload(seed, 60, isl=60, osl=60, ties=seed % 2 == 0, rate=80)
        requests = capped(requests, seed)
        for name, pools in fleets().items():
            swap = {"preemption": "swap"} if seed % 2 else {}
            keeps, reads = caps
            pools = without_caching(pools, kept_tokens=keeps, attended_tokens=reads, **swap)
            pools = picking(pools) if picks else pools
            commands = troubles(seed, pools) if seed > 2 and name != "mixed" else ()
            leapt = both_ways(
                serve, requests, pools, seed=3, tiers=[DRAM] if swap else (), commands=commands,
                route=Policy(name="power_of_two"),
            )  # fmt: skip
            log = assert_laws(leapt, requests)
            scored += log.leaps["scored"].sum()
            if not leapt._state.load[0].any():
                fields = ("n_reading", "n_taking", "ctx", "n_picking", "n_scored", "scored")
                for field in fields:
                    assert not leapt._state.replicas[field].any()
                assert not leapt._state.residue.any()
    assert (scored > 10_000) == picks


def test_caps_of_the_requests_own_are_those_of_an_engine_when_all_have_one():
    """And an engine's cap is the most that a request's own can be."""
    plain = workload(3, 60, isl=60, osl=60)
    pools = [picking([pool(replicas=2, n_blocks=30)])[0]]
    for keeps, reads in ((40, 9), (25, 25), (200, 13)):
        engine = without_caching(pools, kept_tokens=keeps, attended_tokens=reads)
        wide = replace(plain, kept_tokens=np.full(60, 500), attended_tokens=np.full(60, 500))
        own = replace(plain, kept_tokens=np.full(60, keeps), attended_tokens=np.full(60, reads))
        logs = [
            serve(plain, engine).log_so_far(),
            serve(own, without_caching(pools)).log_so_far(),
            serve(wide, engine).log_so_far(),
        ]
        for log in logs[1:]:
            for name in ("requests", "leaps", "gaps", "replicas"):
                assert getattr(log, name).tobytes() == getattr(logs[0], name).tobytes()


def test_a_request_keeps_and_reads_no_more_than_its_own_cap():
    one = replace(lone(60, 100), kept_tokens=np.array([20]), attended_tokens=np.array([8]))
    log = serve(one, [pool()]).log_so_far()
    assert set(log.leaps["n_blocks"][1:]) == {5}
    assert set(log.leaps["ctx"][1:]) == {8}


def test_picking_takes_what_its_work_takes_and_no_more():
    """Each step, for every token kept: a share of what reading it would take; and its kernels."""
    pools = with_engine([pool()], attended_tokens=40)
    free, priced = (serve(lone(30, 40), p).log_so_far() for p in (pools, picking(pools)))
    # from 40 tokens on it picks: step j of these has 40 + j tokens to pick from
    a_token = round(PAGES.bytes_share * 3e-6 * 1.5 * 1e12)  # beyond the second knot
    ends = priced.leaps[priced.leaps["n_picking"] > 0]
    assert ends["scored"][0] == 40
    n = int(ends["n_steps"].sum())
    more = n * round(3e-4 * 1e12) + a_token * sum(40 + j for j in range(n))
    assert priced.requests["done_ps"][0] - free.requests["done_ps"][0] == more
    # and the bytes of it are in the answer
    bytes_of = [by_leap(log.leaps, log, "hbm_bytes").sum() for log in (free, priced)]
    assert bytes_of[1] - bytes_of[0] == pytest.approx(a_token * 1e-12 * sum(
        40 + j for j in range(n)
    ))  # fmt: skip


def test_reading_all_that_is_kept_picks_nothing():
    requests = workload(3, 60, isl=60, osl=60)
    plain = [pool(replicas=2, n_blocks=30)]
    for engine in ({"kept_tokens": 30, "attended_tokens": 30}, {"attended_tokens": 200}):
        pools = with_engine(plain, prefix_caching=False, **engine)
        assert_same(
            serve(requests, pools).log_so_far(), serve(requests, picking(pools)).log_so_far()
        )
    recent = with_engine(plain, attended_tokens=10, attended_by="recent")
    log = serve(requests, picking(recent)).log_so_far()
    assert not log.leaps["scored"].any()


def lone(isl, osl):
    return Requests(np.zeros(1), np.array([isl]), np.array([osl]))


def test_a_request_that_keeps_few_tokens_stops_taking_blocks():
    # 60 tokens at once are 15 blocks; then 20 are kept: 5 blocks, whatever comes
    log = serve(lone(60, 100), with_engine([pool()], kept_tokens=20)).log_so_far()
    assert log.leaps["n_blocks"].tolist()[0] == 15
    assert set(log.leaps["n_blocks"][1:]) == {5}
    assert set(log.leaps["ctx"][1:]) == {20}  # what is not kept cannot be read


def test_a_request_that_reads_few_tokens_still_takes_blocks_for_all():
    log = serve(lone(30, 40), with_engine([pool()], attended_tokens=40)).log_so_far()
    decode = log.leaps[log.leaps["n_decode"] > 0]
    assert decode["n_blocks"][-1] == 18  # 69 tokens
    assert decode["ctx"].max() == 40
    steps = np.repeat(decode["slope_ps"], decode["n_steps"])
    # 30 to 40 tokens are read in the first ten steps, 40 in all further ones
    assert (steps[:10] > 0).all()
    assert (steps[10:] == 0).all()


def test_keeping_less_never_takes_longer_where_memory_is_short():
    requests = Requests(np.zeros(12), np.full(12, 40), np.full(12, 60))
    ends = []
    for kept in (None, 64, 32, 16):
        log = serve(requests, with_engine([pool(n_blocks=40)], kept_tokens=kept)).log_so_far()
        ends.append(int(log.requests["done_ps"].max()))
    assert ends == sorted(ends, reverse=True)
    assert ends[-1] < ends[0] / 2


def test_an_answer_longer_than_memory_is_refused_unless_what_it_keeps_is_cut():
    requests, small = lone(40, 400), [pool(n_blocks=30)]
    assert serve(requests, small).log_so_far().requests["status"][0] == 1
    log = serve(requests, with_engine(small, kept_tokens=40)).log_so_far()
    assert (log.requests["status"][0], log.requests["n_out"][0]) == (0, 400)


def test_kv_that_was_cut_moves_as_what_is_left_of_it():
    split = [pool("prefill", "p"), pool("decode", "d")]
    cut = [replace(one, pool=one.pool) for one in with_engine(split, kept_tokens=16)]
    whole, part = (serve(lone(48, 4), pools).log_so_far() for pools in (split, cut))
    assert whole.replicas["moved_bytes"][0] == 48_000
    assert part.replicas["moved_bytes"][0] == 16_000


def test_caps_that_cannot_be_combined_are_refused():
    with pytest.raises(SpecError, match="cannot be shared as a prefix"):
        serve(sharing(1, 3), with_engine([pool()], kept_tokens=16))
    with pytest.raises(SpecError, match="drops"):
        serve(lone(3, 3), with_engine([pool(reserve="full")], kept_tokens=16))
    own = replace(lone(30, 3), kept_tokens=np.array([16]))
    with pytest.raises(SpecError, match="drops"):
        serve(own, [pool(reserve="full")])
