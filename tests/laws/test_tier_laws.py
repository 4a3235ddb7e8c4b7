"""Laws of KV tiers: what replicas drop goes down, comes up again, is swapped, and is never lost
track of."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from fleets import (
    assert_laws,
    assert_same,
    both_ways,
    fleets,
    pool,
    prompts,
    serve,
    sharing,
    troubles,
)
from flows import woven
from serving import PS, workload

from forerun.errors import SpecError
from forerun.sim.tiers import Tier
from forerun.spec.deployment import Policy
from forerun.spec.requests import Requests

# a token of KV is 1,000 bytes and a prefix block 8 tokens, in all of these
DRAM = Tier("dram", 160e3, 4e6, 1e-4)
NODE = Tier("dram", 240e3, 4e6, 1e-4, shared_by="node", devices_per_node=2, total_bytes_per_s=6e6)
POOL = Tier("pool", 400e3, 1e6, 1e-3, shared_by="fleet", total_bytes_per_s=2e6, write="through")
WIDE = Tier("pool", 1e7, shared_by="fleet")  # by the replicas' network ports

CHAINS = {
    "own": (replace(DRAM, buffer_bytes=30e3),),
    "own then shared": (DRAM, POOL),
    "node then network": (NODE, WIDE),
    "fifo, written through": (
        replace(NODE, write="through", evict="fifo"),
        replace(POOL, evict="lfu"),
    ),
}


def with_engine(pools, **engine):
    """The same pools with other settings of their engines."""
    return [
        replace(
            one,
            pool=one.pool.model_copy(update={"engine": one.pool.engine.model_copy(update=engine)}),
        )
        for one in pools
    ]


def used(server):
    """Tokens found, bytes written and tokens swapped in, all tiers together."""
    stores = server._state.stores
    return stores.hit_tokens.sum(), stores.n_written.sum(), stores.swap_tokens.sum()


def assert_stores(server):
    """Stores know what they keep: rows in use, idle and free add up, nobody has space left over."""
    s = server._state
    for store in s.stores:
        assert store.n_kept + store.n_swapped <= max(store.n_rows, 1)
        spare, k = 0, store.spare
        while k >= 0:
            spare, k = spare + 1, s.kept[k].next
        assert spare + store.n_kept == store.n_rows
    if not s.load[0].any():
        assert not s.stores.n_swapped.any()
        assert not s.replicas.n_coming.any()
        assert not s.ports.n.any()


@pytest.mark.parametrize("chain", CHAINS)
@pytest.mark.parametrize("fetch", ["always", "faster"])
def test_a_leap_equals_stepping_with_tiers(chain, fetch):
    found = written = swapped = 0
    for seed in range(5):
        requests = sharing(seed, 60, isl=60, ties=seed % 2 == 0, rate=80)
        for name, pools in fleets().items():
            evict, preemption = ("lru", "swap") if seed % 2 else ("lfu", "recompute")
            pools = with_engine(pools, evict=evict, preemption=preemption)
            route = Policy(name="prefix_aware" if seed % 3 else "power_of_two")
            commands = troubles(seed, pools) if seed > 2 and name != "mixed" else ()
            leapt = both_ways(
                serve, requests, pools, seed=3, route=route, tiers=CHAINS[chain],
                fetch=Policy(name=fetch), commands=commands,
            )  # fmt: skip
            assert_laws(leapt, requests)
            assert_stores(leapt)
            totals = used(leapt)
            found, written, swapped = found + totals[0], written + totals[1], swapped + totals[2]
    assert found > 300  # the cases are hard enough to tell something
    assert written > 200
    assert swapped > 100


#: memory of 80 tokens: a third prompt of 32 + 2 leaves no room for the four blocks of the first
THREE = prompts([1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11, 12], [1, 2, 3, 4], at=[0, 1, 2, 3], osl=3)
SMALL = [pool(n_blocks=20)]


def test_what_memory_drops_comes_up_from_the_tier_at_its_rate_after_one_latency():
    log = serve(THREE, SMALL, tiers=[DRAM]).log_so_far()
    # without the tier the first block of four was still there; two more come up, one is left over
    assert log.requests["cached"].tolist() == [0, 0, 0, 24]
    row = log.requests[3]
    # 16 tokens x 1000 B at 4 MB/s, and 0.1 ms
    assert row["scheduled_ps"] - row["arrival_ps"] == (16_000 * PS // 4_000_000) + PS // 10_000


def test_a_policy_that_never_fetches_computes_as_if_there_were_no_tier():
    without = serve(THREE, SMALL).log_so_far()
    never = serve(THREE, SMALL, tiers=[DRAM], fetch=Policy(name="never")).log_so_far()
    assert_same(without, never)


def test_faster_moves_over_a_fast_way_and_computes_over_a_slow_one():
    near = replace(DRAM, bytes_per_s=4e7)
    fast = serve(THREE, SMALL, tiers=[near], fetch=Policy(name="faster")).log_so_far()
    slow = replace(DRAM, bytes_per_s=1e5)
    log = serve(THREE, SMALL, tiers=[slow], fetch=Policy(name="faster")).log_so_far()
    assert fast.requests["cached"][3] == 24
    assert log.requests["cached"][3] == 8  # 16 kB take 160 ms, computing them some 2 ms


def test_a_tier_that_is_never_reached_changes_nothing():
    requests = sharing(5, 40, isl=60)
    large = [pool(n_blocks=4000)]
    assert_same(
        serve(requests, large).log_so_far(), serve(requests, large, tiers=[DRAM]).log_so_far()
    )


def test_blocks_written_back_are_those_dropped_and_written_through_all_those_computed():
    back = serve(THREE, SMALL, tiers=[DRAM])._state.stores[1]
    through = serve(THREE, SMALL, tiers=[replace(DRAM, write="through")])._state.stores[1]
    assert back.n_written == serve(THREE, SMALL)._state.stores[0].n_evicted
    assert through.n_written == 12  # three prompts of four blocks; the last was there


def test_replicas_that_share_a_tier_find_what_the_others_wrote():
    two = [pool(n_blocks=20, replicas=2)]
    requests = prompts([1, 2, 3, 4], [1, 2, 3, 4], at=[0, 1], osl=3)
    route = Policy(name="round_robin")
    alone = replace(DRAM, write="through")
    shared = replace(alone, shared_by="fleet")
    for tier, cached in ((alone, 0), (shared, 24)):
        log = serve(requests, two, tiers=[tier], route=route).log_so_far()
        assert log.requests["cached"].tolist() == [0, cached]


def test_a_full_buffer_loses_blocks_instead_of_waiting():
    thin = replace(DRAM, bytes_per_s=10.0, buffer_bytes=0.0)
    store = serve(THREE, SMALL, tiers=[thin])._state.stores[1]
    assert store.n_written == 1  # the second comes while the first is on its way for 800 s
    assert store.n_refused > 0


def test_a_swapped_request_goes_on_where_it_was_and_computes_nothing_again():
    requests = Requests(np.zeros(4), np.full(4, 32), np.full(4, 40))
    tight = with_engine([pool(n_blocks=30)], preemption="swap")
    again = serve(requests, [pool(n_blocks=30)]).log_so_far()
    swapped = serve(requests, tight, tiers=[DRAM])
    log = swapped.log_so_far()
    assert again.requests["recomputed"].sum() > 0
    assert log.requests["n_preempt"].sum() > 0
    assert log.requests["recomputed"].sum() == 0
    assert log.replicas["n_tokens"][0] == 4 * (32 + 39)
    assert used(swapped)[2] > 0


def test_a_swap_that_does_not_fit_its_tier_is_recomputed():
    requests = Requests(np.zeros(4), np.full(4, 32), np.full(4, 40))
    tight = with_engine([pool(n_blocks=30)], preemption="swap")
    tiny = replace(DRAM, capacity_bytes=4e3)  # one block of four tokens
    assert_same(
        serve(requests, tight, tiers=[tiny]).log_so_far(),
        serve(requests, [pool(n_blocks=30)]).log_so_far(),
    )


def test_a_failed_replica_loses_the_tier_that_is_its_own_and_not_a_shared_one():
    requests = prompts([1, 2, 3, 4], [1, 2, 3, 4], at=[0, 2], osl=3)
    commands = [(1.0, "fail", 0), (1.1, "open", 0)]
    for by, cached in (("replica", 0), ("fleet", 24)):
        tier = replace(DRAM, write="through", shared_by=by)
        log = serve(requests, [pool()], tiers=[tier], commands=commands).log_so_far()
        assert log.requests["cached"].tolist() == [0, cached]


def test_the_rule_of_a_store_says_what_goes_first():
    # 1 is used twice, then 2, 3 come; memory for two prompts of one block and what runs
    rows = [[1], [2], [1], [3], [4], [5], [1], [2]]
    requests = prompts(*rows, at=np.arange(8.0), isl=9, osl=2)
    kept = {}
    for evict in ("lru", "fifo", "lfu"):
        pools = with_engine([pool(n_blocks=8)], evict=evict)
        log = serve(requests, pools).log_so_far()
        kept[evict] = (log.requests["cached"] > 0).tolist()
    assert kept["lfu"][6]  # used most often
    assert not kept["lru"][6]
    assert not kept["fifo"][6]


def test_tiers_that_cannot_work_are_refused_with_all_that_is_wrong():
    bad = [replace(DRAM, capacity_bytes=100.0), Tier("pool", 1e6, shared_by="fleet")]
    with pytest.raises(SpecError) as error:
        serve(THREE, [pool(bytes_per_s=0.0)], tiers=bad)
    assert "hold no block" in str(error.value)
    assert "no bandwidth" in str(error.value)
    with pytest.raises(SpecError, match="there are no tiers"):
        serve(workload(1, 3), with_engine([pool()], preemption="swap"))


@pytest.mark.parametrize("engine", [{"preemption": "swap"}, {"attended_tokens": 20}])
def test_a_leap_equals_stepping_in_workflows_with_tiers(engine):
    found = 0
    for seed in range(6):
        requests = woven(sharing(seed, 60, isl=60, ties=True), seed)
        requests = replace(requests, answers_named=seed % 2 == 0)
        for pools in fleets().values():
            leapt = both_ways(
                serve, requests, with_engine(pools, **engine), tiers=(NODE, POOL),
                commands=troubles(seed, pools), route=Policy(name="prefix_aware"),
            )  # fmt: skip
            assert_laws(leapt, requests, all_sent=False)
            assert_stores(leapt)
            found += used(leapt)[0]
    assert found > 1000


# -- reuse anywhere -------------------------------------------------------------------------------


def chunks(seed, n, *, kinds=12, each=5, **settings):
    """Requests whose prompts begin with some of a few documents of 8 tokens, in any order."""
    own = workload(seed, n, **settings)
    draw = np.random.default_rng(seed + 7)
    rows = [draw.permutation(kinds)[: draw.integers(0, each + 1)] for _ in range(n)]
    starts = np.cumsum([0, *(len(row) for row in rows)])
    return replace(
        own, isl=own.isl + 8 * np.diff(starts), block_hashes=np.concatenate(rows),
        block_starts=starts, hash_tokens=8, meta={"blocks": "content"},
    )  # fmt: skip


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_a_leap_equals_stepping_with_blocks_reused_anywhere(share):
    found = 0
    for seed in range(4):
        requests = chunks(seed, 60, isl=20, ties=seed % 2 == 0, rate=80)
        for name, pools in fleets().items():
            pools = with_engine(
                pools, prefix_caching=True, reuse="anywhere", recompute_share=share,
                preemption="swap" if seed % 2 else "recompute",
            )  # fmt: skip
            commands = troubles(seed, pools) if seed > 2 and name != "mixed" else ()
            leapt = both_ways(serve, requests, pools, seed=3, tiers=(NODE, POOL), commands=commands)
            assert_laws(leapt, requests)
            assert_stores(leapt)
            found += used(leapt)[0]
    assert found > 1000


def documents(*rows, isl=40):
    """One request a second; its documents are blocks of 8 tokens at the prompt's beginning."""
    named = prompts(*rows, at=np.arange(float(len(rows))), isl=isl, osl=3)
    return replace(named, meta={"blocks": "content"})


def test_what_is_reused_anywhere_is_computed_by_its_share_only():
    requests = documents([1, 2, 3, 4], [9, 3, 1, 8])
    for share, cached in ((0.0, 16), (0.25, 12), (1.0, 0)):
        pools = with_engine([pool()], reuse="anywhere", recompute_share=share)
        log = serve(requests, pools, tiers=[DRAM]).log_so_far()
        # two of four documents are kept: 16 tokens, of which the share is computed again
        assert log.requests["cached"].tolist() == [0, cached]
        assert log.replicas["n_tokens"][0] == 2 * (40 + 2) - cached


def test_documents_in_another_order_are_no_prefix():
    requests = documents([1, 2, 3, 4], [2, 1, 3, 4], [1, 2, 4, 3])
    log = serve(requests, [pool()]).log_so_far()
    assert log.requests["cached"].tolist() == [0, 0, 16]


def test_reuse_anywhere_without_tiers_or_in_one_pool_of_two_is_refused():
    anywhere = with_engine([pool()], reuse="anywhere")
    with pytest.raises(SpecError, match="there are none"):
        serve(THREE, anywhere)
    with pytest.raises(SpecError, match="would not mean the same"):
        serve(THREE, [*anywhere, pool("both", "other")], tiers=[DRAM])


@pytest.mark.parametrize("preemption", ["recompute", "swap"])
@pytest.mark.parametrize("batch", ["static", "whole", "prefill_first"])
def test_a_leap_equals_stepping_where_prompts_are_batched_whole(batch, preemption):
    """Those whose KV has come join a batch that may admit nobody, with tokens left to compute."""
    came = 0
    for seed in range(6):
        requests = sharing(seed, 60, isl=60, ties=seed % 2 == 0)
        for pools in fleets().values():
            pools = with_engine(pools, batch=Policy(name=batch), preemption=preemption)
            leapt = both_ways(serve, requests, pools, tiers=[DRAM])
            assert_laws(leapt, requests)
            assert_stores(leapt)
            came += used(leapt)[0]
    assert came > 500
