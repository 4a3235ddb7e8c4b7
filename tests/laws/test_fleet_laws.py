"""Laws of fleets: split phases, kept prefixes, replicas that open, close, fail and change."""

from __future__ import annotations

import numpy as np
import pytest
from fleets import assert_laws, assert_same, both_ways, fleets, pool, serve, sharing, troubles
from serving import PS, workload

from forerun.errors import SpecError
from forerun.sim.collect import live_slots
from forerun.sim.core.rows_request import HELD
from forerun.spec.deployment import Policy
from forerun.spec.requests import Requests


def test_a_leap_equals_stepping_whatever_happens_to_the_fleet():
    retried = moved = 0
    for seed in range(12):
        requests = sharing(seed, 60, isl=60, ties=seed % 2 == 0)
        for pools in fleets().values():
            commands = troubles(seed, pools)
            leapt = both_ways(serve, requests, pools, commands=commands, seed=3)
            log = assert_laws(leapt, requests)
            retried += log.requests["n_retries"].sum()
            moved += log.replicas["n_moved"].sum()
            left = live_slots(leapt._state)
            phases = leapt._state.live.phase[left]
            assert log.n_unfinished == len(left)
            assert (phases == HELD).all()  # a role is gone, and they wait in front
    assert retried > 50  # the cases are hard enough to tell something
    assert moved > 500


@pytest.mark.parametrize("route", ["least_outstanding", "power_of_two", "prefix_aware"])
def test_a_leap_equals_stepping_with_split_phases_and_kept_prefixes(route):
    for seed in range(8):
        requests = sharing(seed, 60, isl=60, ties=seed % 2 == 0)
        for pools in fleets().values():
            leapt = both_ways(serve, requests, pools, seed=3, route=Policy(name=route))
            assert_laws(leapt, requests)


def one(isl=32, osl=3, *, at=0.0, hashes=None):
    """Requests of equal lengths at the given moments."""
    at = np.atleast_1d(np.asarray(at, dtype=float))
    n = len(at)
    named = {}
    if hashes is not None:
        flat = np.array([h for row in hashes for h in row], dtype=np.int64)
        starts = np.cumsum([0, *(len(row) for row in hashes)])
        named = {"block_hashes": flat, "block_starts": starts, "hash_tokens": 8}
    return Requests(at, np.full(n, isl), np.full(n, osl), **named)


def test_kv_moves_at_the_rate_of_its_link_after_one_latency():
    split = [pool("prefill", "p"), pool("decode", "d")]
    row = serve(one(), split).log_so_far().requests[0]
    # 32 tokens x 1000 B at 2 MB/s is 16 ms, and 1 ms latency; the next token takes one step more
    second = row["first_token_ps"] + 17 * PS // 1000
    log = serve(one(), split).log_so_far()
    decode = log.leaps[log.leaps["replica"] == 1]
    assert decode["start_ps"][0] == second
    assert (row["prefill_replica"], row["replica"]) == (0, 1)


def test_two_transfers_share_a_port_and_each_takes_twice_as_long():
    fast = [pool("prefill", "p", replicas=2), pool("decode", "d")]
    log = serve(one(at=[0, 0]), fast).log_so_far()
    decode = log.leaps[log.leaps["replica"] == 2]
    first = log.requests["first_token_ps"][0]
    assert decode["start_ps"][0] == first + 33 * PS // 1000  # 64 kB into one port


def test_streamed_layers_leave_while_the_prompt_is_computed():
    slow = [pool("prefill", "p", stream_kv=True), pool("decode", "d")]
    log = serve(one(), slow).log_so_far()
    row = log.requests[0]
    prefill_ps = row["first_token_ps"] - row["scheduled_ps"]
    hidden = min(24_000, 2e6 * prefill_ps / PS)  # three layers of four, as far as time allows
    left_ps = round((32_000 - hidden) / 2e6 * PS) + PS // 1000
    start = log.leaps[log.leaps["replica"] == 1]["start_ps"][0]
    assert abs(start - row["first_token_ps"] - left_ps) <= 2


def test_a_full_decode_pool_holds_prompts_back():
    """With room for one answer at a time, prompts wait on the prefill side with their KV there."""
    tight = [pool("prefill", "p", n_blocks=20), pool("decode", "d", n_blocks=12)]
    log = serve(one(32, 16, at=np.zeros(6)), tight).log_so_far()
    assert log.replicas["peak_blocks"][0] <= 20
    assert log.replicas["peak_blocks"][1] <= 12
    spans = np.sort(log.requests["done_ps"])
    assert len(np.unique(spans)) == 6  # one after the other


def test_a_prompt_that_was_served_before_computes_one_block_only():
    same = [[1, 2, 3, 4], [1, 2, 3, 4]]
    log = serve(one(at=[0, 1], hashes=same), [pool()]).log_so_far()
    assert log.requests["cached"].tolist() == [0, 24]  # the last block of the four is left over
    assert log.replicas["n_tokens"][0] == 32 + 2 + 8 + 2


def test_prefixes_are_dropped_from_their_end_the_oldest_first():
    # memory for 64 tokens = 8 prefix blocks; three prompts of 4 blocks, then the first again
    rows = [[1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11, 12], [1, 2, 3, 4]]
    log = serve(one(at=[0, 1, 2, 3], hashes=rows), [pool(n_blocks=20)]).log_so_far()
    # 80 tokens: the third prompt (9 blocks with its answer) leaves 11 of 16 idle blocks, 5 prefix
    # blocks: those of the second and the first block of the first
    assert log.requests["cached"].tolist() == [0, 0, 0, 8]


def test_running_requests_share_the_memory_of_their_prefix():
    same = [[1, 2, 3, 4]] * 4
    alone = serve(one(at=[0], hashes=same[:1]), [pool()]).log_so_far()
    log = serve(one(osl=30, at=[0, 0.1, 0.1, 0.1], hashes=same), [pool()]).log_so_far()
    assert alone.replicas["peak_blocks"][0] == 9
    # 8 blocks of one prompt; each request has up to 62 - 24 tokens of its own
    assert log.replicas["peak_blocks"][0] <= 16 + 4 * 8


def test_switched_off_caching_writes_the_log_of_unnamed_prompts():
    requests = sharing(5, 40, isl=60)
    off = serve(requests, [pool(replicas=2, prefix_caching=False)]).log_so_far()
    plain = serve(workload(5, 40, isl=60), [pool(replicas=2)]).log_so_far()
    assert_same(off, plain)


def test_a_failed_replica_loses_its_kv_and_its_requests_start_again_elsewhere():
    log = serve(one(32, 30, at=[0]), [pool(replicas=2)], commands=[(0.03, "fail", 0)]).log_so_far()
    row = log.requests[0]
    assert (row["replica"], row["n_retries"], row["status"]) == (1, 1, 0)
    assert row["n_out"] == 30
    assert log.replicas["n_failed"].tolist() == [1, 0]
    assert 0 < log.replicas["lost_ps"][0] < 3 * PS // 1000  # one step under way


def test_requests_wait_in_front_while_nobody_takes_them():
    log = serve(one(at=[0.1]), [pool()], commands=[(0, "close", 0), (0.5, "open", 0)]).log_so_far()
    assert log.requests["scheduled_ps"][0] == PS // 2


def test_a_moved_request_takes_its_kv_along():
    log = serve(one(32, 40), [pool(replicas=2)], commands=[(0.02, "move", 0, 1)]).log_so_far()
    row = log.requests[0]
    assert (row["replica"], row["recomputed"], row["n_out"]) == (1, 0, 40)
    assert log.replicas["n_tokens"].sum() == 32 + 39


def test_a_replica_switches_to_the_costs_of_another_pool_between_steps():
    both = fleets(slow=20e-3)["unequal"]
    log = serve(one(32, 30), both, commands=[(0.02, "switch", 0, 1)]).log_so_far()
    own = log.leaps[log.leaps["replica"] == 0]
    assert own["pool"].tolist() == sorted(own["pool"])
    assert set(own["pool"]) == {0, 1}
    assert (own["first_ps"][own["pool"] == 1] > 20 * PS // 1000).all()


def test_roles_without_a_counterpart_or_a_link_are_refused_before_the_run():
    with pytest.raises(SpecError, match="no pool has the role decode"):
        serve(one(), [pool("prefill")])
    with pytest.raises(SpecError, match="no network link"):
        serve(one(), [pool("prefill", "p", bytes_per_s=0.0), pool("decode", "d")])


def test_prefix_blocks_that_are_no_whole_number_of_kv_blocks_are_refused():
    with pytest.raises(SpecError, match="does not divide"):
        serve(one(hashes=[[1, 2]]), [pool(block_tokens=16)])
