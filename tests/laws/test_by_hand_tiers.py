"""What comes up from tiers, by which way, and what is counted: worked out on paper.

A token of KV is 1,000 bytes, a prefix block 8 tokens; links carry 2 MB/s after 1 ms.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from fleets import both_ways, pool, prompts, serve
from serving import PS
from test_by_hand_kv import DRAM, kept_in

from forerun.sim.tiers import Tier
from forerun.spec.deployment import Policy

ALWAYS = Policy(name="always")
MS = PS // 1000


def test_what_a_tier_behind_the_network_keeps_comes_by_the_link_of_who_asks():
    """The third replica finds 3 of 4 blocks in what the first has computed: 24 kB.  The fourth is
    its own, and is written."""
    wide = Tier("pool", 1e7, shared_by="fleet", write="through")
    requests = prompts([1, 2, 3, 4], [5, 6, 7, 8], [1, 2, 3, 9], at=[0, 0.5, 1], osl=2)
    server = serve(
        requests, [pool(replicas=3)], tiers=[wide], fetch=ALWAYS, route=Policy(name="round_robin")
    )
    log, state = server.log_so_far(), server._state
    assert log.requests["replica"].tolist() == [0, 1, 2]
    assert log.requests["scheduled_ps"][2] == PS + (12 + 1) * MS
    # of each replica one port out and one in
    assert state.ports["bytes"][:6].tolist() == [32e3, 0, 32e3, 0, 8e3, 24e3]
    assert state.stores["hit_tokens"].sum() == 24


def test_a_block_that_comes_up_has_been_used_below():
    """A tier of three blocks; memory keeps one beside the request that runs.  1, 2, 3 go down; 1
    comes up when 4 has gone (which dropped none, as it was in memory) .. then 5 drops 2, not 1."""
    three = replace(DRAM, capacity_bytes=24e3)
    keys = [1, 2, 3, 4, 1, 5, 6]
    one_each = prompts(*([k] for k in keys), at=np.arange(7.0), isl=9, osl=2)
    log = serve(one_each, [pool(n_blocks=4)], tiers=[three], fetch=ALWAYS)
    # after 4: memory {4}, below 1, 2, 3.  1 comes up and 4 goes down for it: 2 is dropped, not 1.
    # 5: 1 goes down, where it is kept and has been used now.  6: 5 goes down, and 3 is dropped.
    assert log.log_so_far().requests["cached"].tolist() == [0, 0, 0, 0, 8, 0, 0]
    assert kept_in(log, 1) == {4, 1, 5}
    tier = log._state.stores[1]
    assert (tier["hit_tokens"], tier["n_evicted"], tier["n_written"]) == (8, 2, 5)


def test_a_swapped_request_of_one_row_gives_it_back():
    """Both have 8 tokens in 2 of 4 blocks and want a third.  The second goes: 8 kB, which come up
    in 2.1 ms when the first has ended."""
    requests = prompts([], [], at=[0, 0], isl=4, osl=9)
    tight = [pool(n_blocks=4, preemption="swap")]
    server = both_ways(serve, requests, tight, tiers=[DRAM])
    rows, state = server.log_so_far().requests, server._state
    assert rows["n_preempt"].tolist() == [0, 1]
    assert rows["recomputed"].tolist() == [0, 0]
    assert state.stores["n_swapped"].tolist() == [0, 0]
    assert (state.stores["swap_tokens"][1], state.stores["n_waits"][0]) == (8, 1)
    assert state.stores["wait_ps"][0] == 21 * MS // 10
    resumed = server.log_so_far().leaps[-1]
    assert resumed["n_decode"] == 1
