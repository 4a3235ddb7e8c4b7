"""Laws of caps: how many cached tokens a request keeps, and how many its decoding reads."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from fleets import assert_laws, assert_same, fleets, pool, serve, sharing, troubles
from serving import workload
from test_tier_laws import DRAM, POOL, with_engine

from forerun.errors import SpecError
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
            leapt, stepped = (
                serve(
                    requests, pools, leap=leap, seed=3, tiers=[DRAM] if swap else (),
                    commands=commands, route=Policy(name="power_of_two"),
                )
                for leap in (True, False)
            )  # fmt: skip
            assert_same(assert_laws(leapt, requests), stepped.log_so_far())
            if not leapt._state.load[0].any():
                for field in ("n_reading", "n_taking", "ctx"):
                    assert not leapt._state.replicas[field].any()
                assert not leapt._state.residue.any()


def test_a_leap_equals_stepping_where_reads_are_capped_and_prefixes_and_tiers_shared():
    for seed in range(4):
        requests = sharing(seed, 60, isl=60, ties=seed % 2 == 0)
        for pools in fleets().values():
            leapt, stepped = (
                serve(
                    requests, with_engine(pools, attended_tokens=20), leap=leap,
                    tiers=(DRAM, POOL), route=Policy(name="prefix_aware"),
                )
                for leap in (True, False)
            )  # fmt: skip
            assert_same(assert_laws(leapt, requests), stepped.log_so_far())


def test_a_cap_that_no_request_reaches_changes_nothing():
    requests = workload(3, 60, isl=60, osl=60)
    plain = [pool(replicas=2, n_blocks=30)]
    for caps in ({"kept_tokens": 120}, {"attended_tokens": 120}):
        assert_same(
            serve(requests, plain).log_so_far(),
            serve(requests, with_engine(plain, **caps)).log_so_far(),
        )


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
