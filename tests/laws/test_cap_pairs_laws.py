"""Laws of caps on KV beside proposals: what is accepted may be more than is kept or read."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from fleets import assert_laws, both_ways, serve, troubles
from serving import workload
from speculating import kinds, speculating
from test_cap_laws import capped, picking, without_caching

from forerun.sim.core.rows_request import DECODING
from forerun.sim.serve import Server
from forerun.spec.deployment import Policy
from forerun.spec.requests import Requests

SUMS = ("n_reading", "n_taking", "ctx", "n_picking", "n_scored", "scored")


@pytest.mark.parametrize("caps", [(17, None), (None, 17), (40, 9), (8, 8), (1, 1)])
@pytest.mark.parametrize("picks", [False, True])
def test_a_leap_equals_stepping_with_proposals_and_caps(caps, picks):
    accepted = 0
    for seed in range(4):
        requests = workload(seed, 50, isl=60, osl=60, ties=seed % 2 == 0, rate=80)
        if seed > 1:
            requests = capped(requests, seed)
        for name, pools in kinds(n_blocks=30).items():
            keeps, reads = (None if cap is None or seed == 2 else cap for cap in caps)
            if (keeps is not None or seed > 1) and name in ("full", "static"):
                continue  # they reserve what a cap would drop
            pools = without_caching(pools, kept_tokens=keeps, attended_tokens=reads)
            pools = picking(pools) if picks else pools
            orders = troubles(seed, pools) if seed % 2 else ()
            leapt = both_ways(
                serve, requests, pools, seed=3, commands=orders, route=Policy(name="power_of_two")
            )
            log = assert_laws(leapt, requests)
            accepted += log.replicas["n_extra"].sum()
            assert (log.leaps["ctx"] >= 0).all()
            if not leapt._state.load[0].any():
                for field in SUMS:
                    assert not leapt._state.replicas[field].any(), field
                assert not leapt._state.residue.any()
    assert accepted > 1000


def test_sums_over_decoders_are_those_of_each_of_them_at_every_boundary():
    """What aggregates say is what the requests say one by one."""
    looked = 0
    for seed in range(3):
        requests = capped(workload(seed, 40, isl=60, osl=60, rate=80), seed)
        pools = picking(without_caching([speculating(k=5, acceptance=0.8, n_blocks=300)]))
        server = Server(pools, n_requests=40, seed=seed)
        server.inject(requests)
        for t in np.linspace(0, 1.5, 150):
            server.advance(float(t))
            looked += assert_sums(server._state)
        server.advance()
        assert_laws(server, requests)
    assert looked > 300


def assert_sums(state):
    replica, engine = state.replicas[0], state.engines[0]
    sums = dict.fromkeys(SUMS, 0)
    residue = np.zeros(engine.block_tokens, dtype=np.int64)
    n, r = 0, replica.run_head
    while r >= 0:
        one = state.live[r]
        if one.phase == DECODING:
            n += 1
            cached = one.n_computed + replica.decoded - one.joined
            sums["ctx"] += min(cached, one.reads)
            sums["n_reading"] += cached < one.reads
            if cached < one.keeps:
                sums["n_taking"] += 1
                residue[(one.n_computed - one.joined) % engine.block_tokens] += 1
            if one.picks and cached >= one.reads:
                sums["n_picking"] += 1
                sums["scored"] += min(cached, one.keeps)
                sums["n_scored"] += cached < one.keeps
        r = one.next
    assert n == replica.n_decode
    for name, value in sums.items():
        assert replica[name] == value, name
    np.testing.assert_array_equal(state.residue[0], residue)
    return n


def test_a_cap_that_no_request_reaches_leaves_proposals_as_they_were():
    requests = workload(3, 50, isl=60, osl=60)
    for name, pools in kinds(n_blocks=30).items():
        plain = serve(requests, without_caching(pools), seed=3).log_so_far()
        for caps in ({"kept_tokens": 120}, {"attended_tokens": 120}):
            if name in ("full", "static") and "kept_tokens" in caps:
                continue
            wide = serve(requests, without_caching(pools, **caps), seed=3).log_so_far()
            assert plain.requests.tobytes() == wide.requests.tobytes()
            assert plain.replicas.tobytes() == wide.replicas.tobytes()


def test_acceptance_that_never_comes_costs_blocks_for_a_step_and_leaves_what_is_kept():
    """By hand: 20 tokens are 5 blocks; with 3 proposed a step has one more, and gives it back."""
    one = Requests(np.zeros(1), np.array([60]), np.array([30]))
    pools = without_caching([speculating(k=3, acceptance=0.0)], kept_tokens=20)
    log = serve(one, pools).log_so_far()
    rows = log.leaps[log.leaps["n_decode"] == 1]
    assert set(rows["n_blocks"][rows["n_draft"] == 3]) == {6}
    assert set(rows["n_blocks"][rows["n_draft"] == 0]) == {5}
    assert set(rows["ctx"]) == {20}


def test_proposals_are_verified_against_what_is_read_and_no_more():
    """Attention of a step with k proposed is that of as many queries on the tokens read."""
    one = Requests(np.zeros(1), np.array([60]), np.array([30]))
    first = {}
    for reads in (None, 20):
        pools = [speculating(kind="ngram", k=3, acceptance=0.0)]
        log = serve(one, without_caching(pools, attended_tokens=reads)).log_so_far()
        rows = log.leaps[log.leaps["n_draft"] == 3]
        first[reads] = rows["first_ps"][0], rows["ctx"][0]
    assert (first[None][1], first[20][1]) == (60, 20)
    less = first[None][0] - first[20][0]
    # 40 tokens fewer, for each of which 4 queries take 1.6 times what one does
    assert less == pytest.approx(40 * 3e-6 * 1.6 * 1e12, rel=0.35)


def test_certain_acceptance_counts_every_token_whatever_is_kept():
    for keeps, reads in ((7, None), (None, 5), (9, 4)):
        pools = without_caching(
            [speculating(k=3, acceptance=1.0)], kept_tokens=keeps, attended_tokens=reads
        )
        for osl in (1, 2, 9, 40, 41):
            one = Requests(np.zeros(1), np.array([8]), np.array([osl]))
            log = serve(one, pools).log_so_far()
            assert log.replicas["n_steps"][0] - 1 == -(-(osl - 1) // 4)
            assert log.requests["n_out"][0] == osl
            again = serve(replace(one, kept_tokens=np.array([keeps or 0])), pools).log_so_far()
            assert again.requests.tobytes() == log.requests.tobytes()
