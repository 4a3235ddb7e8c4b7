"""KV on its way, below and shared: small cases whose timeline is worked out on paper.

A token of KV is 1,000 bytes; ports carry 2 MB/s, so a prompt of 32 tokens takes 16 ms, and any
transfer begins to move 1 ms after it starts.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from fleets import assert_same, both_ways, pool, prompts, serve
from serving import PS

from forerun.cost.pick import Pick
from forerun.sim.tiers import Tier
from forerun.spec.deployment import Policy
from forerun.spec.requests import Requests

MS = PS // 1000
DRAM = Tier("dram", 16e3, 4e6, 1e-4)  # two prefix blocks of 8 tokens
BELOW = Tier("pool", 16e3, 4e6, 1e-4, shared_by="fleet")
NEVER = Policy(name="never")


def kept_in(server, s):
    """The prefix blocks that store s keeps."""
    state, store = server._state, server._state.stores[s]
    buckets = state.buckets[store.bucket_at : store.bucket_at + store.mask + 1]
    return set(state.kept.key[buckets[buckets >= 0]].tolist())


def starts(log, replica):
    """When the first step of a replica begins."""
    return int(log.leaps["start_ps"][log.leaps["replica"] == replica][0])


# -- ports -----------------------------------------------------------------------------------------


def test_of_transfers_that_end_at_one_moment_the_first_request_is_seated_first():
    """Two equal prompts of one step share the port out, so both end 1 + 32 ms later.  There is
    memory for 20 blocks, so at 40 tokens each the one seated last makes room."""
    split = [pool("prefill", "p"), pool("decode", "d", n_blocks=20)]
    server = serve(Requests(np.zeros(2), np.full(2, 32), np.full(2, 24)), split)
    log = server.log_so_far()
    assert starts(log, 1) == log.requests["first_token_ps"][0] + (1 + 32) * MS
    assert log.requests["n_preempt"].tolist() == [0, 1]
    ports = server._state.ports
    assert ports["bytes"].tolist() == [64_000, 0, 0, 64_000]
    assert ports["n_moved"].tolist() == [2, 0, 0, 2]


def test_a_transfer_takes_to_the_picosecond_that_its_last_byte_needs():
    """32,000 bytes at 3 MB/s are 10 666 666 666.67 ps."""
    split = [pool(role, role, bytes_per_s=3e6) for role in ("prefill", "decode")]
    log = serve(Requests(np.zeros(1), np.array([32]), np.array([8])), split).log_so_far()
    assert starts(log, 1) - log.requests["first_token_ps"][0] == MS + 10_666_666_667


def test_a_prompt_leaves_early_only_over_a_port_that_is_free():
    """What is streamed alone comes 1 + 16 ms after its prompt was begun.  The second, begun 2 ms
    before the port is free, comes 17 ms after that.  The third ends its prompt while the second is
    on its way, so that nothing of it has left: it begins to move 1 ms after."""
    stream = {"stream_kv": True}
    split = [pool("prefill", "p", **stream), pool("decode", "d", replicas=3, **stream)]
    requests = Requests(np.array([0, 0.015, 0.021]), np.full(3, 32), np.full(3, 8))
    log = serve(requests, split, place=Policy(name="round_robin")).log_so_far()
    assert abs(starts(log, 1) - 17 * MS) <= 2
    third = log.requests["first_token_ps"][2]
    # the second has 2 * (34 - third) kB left, of which a half goes each ms from then on
    assert 25 * MS < third < 26 * MS
    left = 34 * MS - third
    assert abs(starts(log, 2) - (third + 2 * left)) <= 2
    # by then the third has moved 2 * left - 1 ms at half the rate
    assert abs(starts(log, 3) - (third + 2 * left + 16 * MS - (2 * left - MS) // 2)) <= 2


def test_writes_queue_behind_each_other_whatever_else_the_port_has_carried():
    """Four blocks of 8 kB written at t keep the port out busy until t + 16 ms.  A small transfer
    ends at t + 5 ms and frees nothing.  10 ms later 4..8 ms of writing are left: beside them the
    buffer of 24 kB (12 ms) takes two blocks more, not four."""
    wide = Tier("pool", 1e7, shared_by="fleet", write="through", buffer_bytes=24e3)
    split = [pool("prefill", "p"), pool("decode", "d")]
    rows = [[1, 2, 3, 4], [], [5, 6, 7, 8]]
    requests = replace(
        prompts(*rows, at=[0, 0, 0.01], isl=32), isl=np.array([32, 8, 32]), osl=np.array([1, 4, 1])
    )
    server = serve(requests, split, tiers=[wide], fetch=NEVER)
    log = server.log_so_far()
    first, second, third = log.requests["first_token_ps"]
    assert first == second
    assert 8 * MS < third - first < 12 * MS
    assert starts(log, 1) == first + 5 * MS
    tier = server._state.stores[2]
    assert (tier["n_written"], tier["n_refused"]) == (6, 2)
    assert kept_in(server, 2) == {1, 2, 3, 4, 5, 6}
    ports = server._state.ports
    assert ports["n_moved"][0] == 6 + 1
    assert ports["free_ps"][0] == first + 24 * MS  # six blocks, one after another


# -- tiers -----------------------------------------------------------------------------------------


def one_block_each(*keys, osl=2):
    """One request a second, with a prompt of one block and a token; memory keeps one of them."""
    return prompts(*([key] for key in keys), at=np.arange(float(len(keys))), isl=9, osl=osl)


def test_a_block_that_goes_down_to_where_it_is_kept_has_been_used():
    """1, 2 and 1 go down; so 2 is the one to go when 3 comes down too."""
    server = serve(one_block_each(1, 2, 1, 3, 4), [pool(n_blocks=4)], tiers=[DRAM], fetch=NEVER)
    assert kept_in(server, 0) == {4}
    assert kept_in(server, 1) == {1, 3}


def test_what_a_tier_drops_goes_on_to_the_next():
    server = serve(
        one_block_each(1, 2, 3, 4, 5, 6), [pool(n_blocks=4)], tiers=[DRAM, BELOW], fetch=NEVER
    )
    assert [kept_in(server, s) for s in range(3)] == [{6}, {4, 5}, {2, 3}]
    assert server._state.stores["n_written"].tolist() == [0, 5, 3]


def test_what_is_written_through_goes_to_every_tier_that_wants_it_at_once():
    tiers = [replace(tier, capacity_bytes=1e6, write="through") for tier in (DRAM, BELOW)]
    server = serve(one_block_each(1, 2, 3), [pool()], tiers=tiers)
    assert server._state.stores["n_written"].tolist() == [0, 3, 3]
    tiers[1] = replace(tiers[1], write="back")  # nothing is dropped to it
    server = serve(one_block_each(1, 2, 3), [pool()], tiers=tiers)
    assert server._state.stores["n_written"].tolist() == [0, 3, 0]


def test_a_tier_full_of_swapped_kv_takes_no_blocks():
    """Two prompts of 8 blocks, memory for 20: at 40 tokens each has 10, and the second makes room.
    Its 40 tokens just fill a tier of five rows; its prefix (8 blocks) stays idle in memory until
    the first, which grows to 14, wants two of those: they are lost.  24 tokens are there when it
    comes back, 16 come up; when it grows to 13 itself, the last block of the first goes down."""
    both = prompts([1, 2, 3, 4], [5, 6, 7, 8], at=[0, 0], osl=24)
    tight = [pool(n_blocks=20, preemption="swap")]
    server = serve(both, tight, tiers=[replace(DRAM, capacity_bytes=40e3)])
    rows, tier = server.log_so_far().requests, server._state.stores[1]
    assert rows["n_preempt"].tolist() == [0, 1]
    assert rows["recomputed"].tolist() == [0, 0]
    assert (tier["n_written"], tier["n_refused"], tier["swap_tokens"]) == (1, 1, 16)
    assert server._state.ports["bytes"][2:4].tolist() == [16_000, 48_000]  # from the tier, to it
    assert kept_in(server, 1) == {4}


def test_of_a_request_that_keeps_only_a_window_the_window_is_swapped():
    """The second keeps 24 of its 32 tokens and more (6 of 11 blocks) when the first, which wants
    its 6th, makes it go: 24 kB fill the tier."""
    requests = Requests(np.array([0, 1e-4]), np.array([4, 32]), np.array([30, 40]))
    window = {"prefix_caching": False, "kept_tokens": 24, "max_num_batched_tokens": 16}
    tight = [pool(n_blocks=11, preemption="swap", **window)]
    server = serve(requests, tight, tiers=[replace(DRAM, capacity_bytes=24e3)])
    rows, tier = server.log_so_far().requests, server._state.stores[1]
    assert rows["n_preempt"].tolist() == [0, 1]
    assert rows["recomputed"].tolist() == [0, 0]
    assert tier["swap_tokens"] == 24


def test_who_waits_for_memory_starts_when_another_replica_has_written_what_it_needs():
    """The first has 10 to 20 of 24 blocks of one replica, so a prompt of 15 waits there.  One that
    begins alike is computed elsewhere and written to a tier that both see: with its first block
    from there the one that waits needs 2 blocks at first."""
    requests = replace(
        prompts([], [], [1], [1], at=[0, 0, 0.01, 0.02]),
        isl=np.array([40, 4, 60, 9]), osl=np.array([40, 1, 4, 1]),
    )  # fmt: skip
    shared = replace(BELOW, capacity_bytes=1e6, write="through")
    leapt = both_ways(
        serve, requests, [pool(replicas=2, n_blocks=24)], tiers=[shared],
        route=Policy(name="round_robin"), fetch=Policy(name="always"),
    )  # fmt: skip
    rows = leapt.log_so_far().requests
    assert rows["replica"].tolist() == [0, 1, 0, 1]
    assert rows["cached"].tolist() == [0, 0, 8, 0]
    # its block is called up at the next boundary, takes 2.1 ms, and it starts at the one after
    assert 0 < rows["scheduled_ps"][2] - rows["done_ps"][3] < 10 * MS
    assert rows["scheduled_ps"][2] < rows["done_ps"][0]


# -- prefixes --------------------------------------------------------------------------------------


def test_a_router_sees_what_a_step_of_a_long_leap_has_dropped():
    """A prompt leaves 4 blocks of prefix (8 of 31 KV blocks); then an answer grows to all 31.  Who
    comes in its last step with that prompt finds nothing of it there, and goes where nobody is."""
    route = Policy(name="prefix_aware", params={"load_tokens": 1.0})
    rows = [[1, 2, 3, 4], [], [1, 2, 3, 4]]
    two, at = [pool(replicas=2, n_blocks=31)], [0, 1, 9]
    for _ in range(2):  # first to know when the answer ends, and without a third on the way
        requests = replace(
            prompts(*rows, at=at), isl=np.array([33, 64, 33]), osl=np.array([2, 60, 2])
        )
        log = serve(requests, two, route=route).log_so_far()
        at[2] = log.requests["done_ps"][1] / PS - 1e-3
    assert log.requests["replica"].tolist() == [0, 0, 1]
    assert log.requests["cached"].tolist() == [0, 0, 0]


def test_documents_can_be_found_when_their_prompt_has_been_computed_and_not_before():
    """The first computes 16, 16 and 8 tokens; the second starts beside the last of these."""
    requests = replace(
        prompts([1, 2, 3, 4], [1, 2, 3, 4], [1, 2, 3, 4], at=[0, 1e-4, 1], isl=40),
        meta={"blocks": "content"},
    )
    anywhere = [pool(reuse="anywhere", recompute_share=0.0, max_num_batched_tokens=16)]
    log = serve(requests, anywhere, tiers=[replace(DRAM, capacity_bytes=1e6)]).log_so_far()
    assert log.requests["scheduled_ps"][1] < log.requests["first_token_ps"][0]
    assert log.requests["cached"].tolist() == [0, 0, 32]


def test_prompts_whose_kv_has_come_are_computed_whole_and_wait_for_a_step_that_has_room():
    """Both have 40 of 48 tokens left, a step takes 64 and no part of a prompt."""
    requests = replace(
        prompts([1], [2], [1], [2], at=[0, 1, 2, 2], isl=48, osl=2), meta={"blocks": "content"}
    )
    whole = [pool(reuse="anywhere", recompute_share=0.0, batch=Policy(name="whole"))]
    log = serve(requests, whole, tiers=[replace(DRAM, capacity_bytes=1e6)]).log_so_far()
    assert log.requests["cached"].tolist() == [0, 0, 8, 8]
    assert log.leaps["chunk"][log.leaps["chunk"] > 0].tolist() == [48, 48, 40, 40]


# -- what decoders keep and read -------------------------------------------------------------------


@pytest.mark.parametrize("isl", [12, 16, 20, 24, 30])
def test_a_decoder_reads_sixteen_tokens_and_picks_them_out_of_the_24_it_keeps(isl):
    """With n tokens cached it reads min(n, 16); from 16 on it picks out of min(n, 24)."""
    one = pool(prefix_caching=False, kept_tokens=24, attended_tokens=16)
    one = replace(
        one, table=replace(one.table, pick=Pick(bytes_share=0.25, flop_share=0.1, step_s=3e-4))
    )
    requests = Requests(np.zeros(1), np.array([isl]), np.array([30]))
    logs = [serve(requests, [one], leap=leap).log_so_far() for leap in (True, False)]
    assert_same(*logs)
    for log in logs:
        cached = isl
        for row in log.leaps[log.leaps["n_decode"] > 0]:
            assert row["ctx"] == min(cached, 16)
            assert row["n_still"] == (cached >= 16)
            assert row["n_picking"] == (cached >= 16)
            assert row["scored"] == (min(cached, 24) if cached >= 16 else 0)
            assert row["n_scored"] == (16 <= cached < 24)
            cached += row["n_steps"]
        assert cached == isl + 29
