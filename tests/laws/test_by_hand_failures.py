"""What a failure takes along, and what it leaves: small cases worked out on paper."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from adapting import fitted
from families import turning
from fleets import assert_laws, both_ways, plain, pool, prompts, serve
from seeing import encoder, in_front
from serving import PS

from forerun.sim.core.rows_log import STATUS
from forerun.sim.tiers import Tier
from forerun.spec.deployment import Policy
from forerun.spec.workload import Client

MS = PS // 1000
IN_TURN = Policy(name="round_robin")


def with_images(at, n_items, **how):
    n = np.array(n_items)
    columns = {"item_units": np.where(n > 0, 20, 0), "item_tokens": np.where(n > 0, 5, 0)}
    return plain(at, n_items=n, **columns, **how)


def test_a_step_of_the_encoder_that_a_failure_ends_encodes_nothing():
    """Two images are 4 ms of the encoder; it fails after 1 ms, and the request with it.  What
    comes then is text, of 32 + 1 tokens."""
    requests = with_images([0, 0.2], [2, 0])
    commands = [(1e-3, "fail", 0, 1), (0.1, "open", 0)]
    server = both_ways(serve, requests, in_front([pool()]), commands=commands)
    log = server.log_so_far()
    assert log.requests["status"].tolist() == [STATUS["failed"], STATUS["finished"]]
    assert (log.encodes["n_items"].sum(), log.encodes["n_units"].sum()) == (0, 0)
    assert log.replicas["n_tokens"][0] == 33
    assert server._state.totals["lost_ps"][0] == MS


def test_a_replica_with_two_models_comes_back_with_the_one_it_ran():
    """Both are there at the start; the second ran last.  Loading the first again takes 50 ms."""
    requests = plain([0, 1], model=np.array([1, 0]))
    for commands, ms in (((), 0), ([(0.5, "fail", 0), (0.6, "open", 0)], 50)):
        log = both_ways(serve, requests, turning(2, n_resident=2), commands=commands).log_so_far()
        assert log.requests["scheduled_ps"].tolist() == [0, PS + ms * MS]


def test_embeddings_that_are_lost_on_their_way_are_no_wait_for_a_tier():
    """10,000 bytes at 20 kB/s take 0.5 s; who waits for them fails in between."""
    slow = [encoder(), pool(replicas=2, bytes_per_s=2e4)]
    slow[0] = replace(slow[0], port_bytes_per_s=2e4)
    server = serve(with_images([0], [2]), slow, commands=[(0.2, "fail", 1)])
    log = server.log_so_far()
    assert log.requests["status"][0] == STATUS["finished"]
    assert log.requests["replica"][0] == 2
    assert not server._state.stores["wait_ps"].any()
    assert not server._state.stores["n_waits"].any()
    assert not server._state.replicas["n_coming"].any()


def test_kv_of_a_client_that_has_gone_is_given_back_where_it_was_computed():
    """32 tokens take 17 ms over the link; the client goes 5 ms after the prompt, and 5 ms later
    the replica fails to which its KV is on its way."""
    split = [pool("prefill", "p"), pool("decode", "d", replicas=2)]
    first = serve(plain([0], osl=8), split).log_so_far().requests["first_token_ps"][0] / PS
    client, commands = Client(give_up_s=first + 5e-3), [(first + 10e-3, "fail", 1)]
    server = serve(plain([0], osl=8), split, client=client, commands=commands)
    assert server.log_so_far().requests["status"][0] != STATUS["finished"]
    assert not server._state.replicas["n_blocks"].any()
    assert not server._state.replicas["n_away"].any()
    assert server._clock.n_live == 0


def test_who_is_held_in_front_while_its_kv_is_lost_computes_it_again():
    """Nobody answers when the prompt is computed: it is held, its KV stays.  Then that is lost,
    and computed again with the first token, which was given."""
    split = [pool("prefill", "p", replicas=2), pool("decode", "d")]
    commands = [(0.0, "close", 2), (0.5, "fail", 0), (1.0, "open", 2)]
    requests = plain([0], osl=8)
    server = serve(requests, split, commands=commands)
    log = assert_laws(server, requests)
    row = log.requests[0]
    assert (row["status"], row["recomputed"], row["prefill_replica"]) == (0, 32, 1)
    assert log.replicas["n_tokens"].tolist() == [32, 33, 6]


def test_those_behind_one_whose_images_are_lost_start_at_once():
    """Memory of the second, 12 blocks of 4, is full of an answer; the image's request waits at its
    head, since its prompt of 60 tokens does not fit, and text of 4 tokens behind it.  The encoder
    fails: what waited behind starts at the next boundary, before the answer is there."""
    pools = [encoder(), pool(n_blocks=24)]
    requests = with_images([0, 0.05, 0.06], [0, 2, 0])
    requests = replace(requests, isl=np.array([32, 60, 4]), osl=np.array([50, 2, 2]))
    log = both_ways(serve, requests, pools, commands=[(0.1, "fail", 0)]).log_so_far()
    rows = log.requests
    found = rows[rows["request"] == 2][0]
    assert 0 <= found["scheduled_ps"] - 100 * MS < 4 * MS
    assert rows[rows["request"] == 0]["done_ps"][0] > 110 * MS


def test_seats_of_ready_requests_are_free_after_a_failure():
    """The third's blocks come up from a tier within a step; the replica fails a nanosecond before
    the boundary at which it would have joined."""
    tier = Tier("dram", 1e6, 4e6, 1e-4, write="through")
    requests = prompts([1, 2, 3, 4], [9, 9, 9, 9], [1, 2, 3, 4], at=[0, 1, 1.01], osl=40)
    requests = replace(requests, osl=np.array([2, 40, 2]))
    ways = {"tiers": [tier], "fetch": Policy(name="always")}
    early = [(0.5, "fail", 0), (0.6, "open", 0)]  # so that they are in the tier alone
    shared = {**ways, "tiers": [replace(tier, shared_by="fleet")]}
    joined = serve(requests, [pool()], commands=early, **shared).log_so_far().requests
    assert joined["cached"][2] > 0
    at = (joined["scheduled_ps"][2] - 1000) / PS
    commands = [*early, (at, "fail", 0), (2.0, "open", 0)]
    server = both_ways(serve, requests, [pool()], commands=commands, **shared)
    log = assert_laws(server, requests)
    assert log.requests["n_retries"].tolist() == [0, 1, 1]
    assert not server._state.replicas["n_coming"].any()


def test_swapped_kv_of_a_replica_that_fails_leaves_the_tier_of_the_fleet():
    """At 40 tokens each the second makes room and is swapped; the first has 16 tokens to go, some
    2.4 ms each, when the replica fails."""
    tier = Tier("dram", 160e3, 4e6, 1e-4, shared_by="fleet")
    requests = plain([0, 0], osl=24)
    how = {"tiers": [tier], "fetch": Policy(name="always")}
    requests = replace(prompts([1, 2, 3, 4], [5, 6, 7, 8], at=[0, 0], osl=24))
    tight = [pool(n_blocks=20, preemption="swap")]
    leaps = serve(requests, tight, leap=False, **how).log_so_far().leaps
    alone = int(leaps["start_ps"][np.argmax((leaps["n_decode"] == 1) & (leaps["ctx"] > 36))])
    commands = [(alone / PS + 5e-3, "fail", 0), (1.0, "open", 0)]
    server = serve(requests, tight, commands=commands, **how)
    server_before = serve(requests, tight, commands=commands[:1], **how)
    assert not server_before._state.stores["n_swapped"].any()
    log = assert_laws(server, requests)
    assert (log.requests["n_preempt"] > 0).any()
    assert not server._state.stores["n_swapped"].any()


def test_a_place_behind_kv_that_nobody_waits_for_is_free_when_its_source_fails():
    """100 tokens take 0.501 s over the link, 25 blocks of 30 are kept for them; the client goes
    at 0.3 s.  The second's prompt, 8 blocks, was computed elsewhere: its KV of 161 ms begins to
    move when the source of the first fails at 0.32 s, and ends before its client goes at 0.5 s."""
    slow = {"bytes_per_s": 2e5}
    split = [pool("prefill", "p", replicas=2, **slow), pool("decode", "d", n_blocks=30, **slow)]
    requests = replace(plain([0, 0.2]), isl=np.array([100, 32]))
    server = serve(
        requests, split, client=Client(give_up_s=0.3), commands=[(0.32, "fail", 0)], route=IN_TURN
    )
    rows = server.log_so_far().requests
    rows = rows[np.argsort(rows["request"])]
    assert (rows["status"][0] != 0, rows["status"][1]) == (True, 0)
    assert rows["done_ps"][1] - (320 + 161) * MS < 10 * MS


def test_kv_of_those_who_fail_with_their_replica_is_given_back_where_it_was_computed():
    """The second waits for memory on the replica that fails, its KV on the one that computed it."""
    split = [pool("prefill", "p"), pool("decode", "d", n_blocks=14)]
    server = serve(plain([0, 0], osl=20), split, commands=[(0.04, "fail", 1, 1)])
    assert server.log_so_far().requests["status"].tolist() == [STATUS["failed"]] * 2
    assert not server._state.replicas["n_blocks"].any()
    assert not server._state.replicas["n_away"].any()


def test_a_request_that_its_client_left_before_a_failure_was_left():
    """A prompt of 60 tokens takes more than 6 ms; its client goes at 1, its replica at 2 ms."""
    server = serve(
        plain([0], isl=60), [pool()], client=Client(give_up_s=1e-3), commands=[(2e-3, "fail", 0)]
    )
    assert server.log_so_far().requests["status"].tolist() == [STATUS["aborted"]]


def test_who_waited_apart_and_is_sent_again_waits_in_the_queue_there():
    """The second waits apart for its adapter, 8 ms, when its replica fails after 2; on the other,
    whose only seat is taken, it waits in the queue until its client goes."""
    pools = fitted([pool(replicas=2, max_num_seqs=1)])
    requests = replace(plain([0, 0, 0], osl=60), adapter=np.array([-1, 0, -1]))
    requests = replace(requests, arrival_s=np.array([0, 0, 1e-4]))
    server = serve(
        requests, pools, client=Client(give_up_s=0.05), commands=[(2e-3, "fail", 1)], route=IN_TURN
    )
    state = server._state
    for name in ("n_apart", "n_waiting", "n_running", "n_blocks"):
        assert not state.replicas[name].any(), name
    assert not state.slots["n_waiting"].any()
    assert not state.load[:4].any()


def test_who_waits_apart_for_an_adapter_is_nobodys_when_its_replica_fails():
    """Its adapter takes 8 ms to come; the failure is after 2."""
    pools = fitted([pool(replicas=2)])
    requests = plain([0], adapter=np.array([0]))
    server = serve(requests, pools, commands=[(2e-3, "fail", 0)], route=IN_TURN)
    log = assert_laws(server, requests)
    assert (log.requests["replica"][0], log.requests["n_retries"][0]) == (1, 1)
    assert log.requests["scheduled_ps"][0] >= 10 * MS
    state = server._state
    assert not state.slots["n_waiting"].any()
    assert not state.replicas["n_apart"].any()
    assert not state.live["aside"].any()


def test_a_second_copy_goes_on_when_the_first_one_fails_and_no_retry_is_spent():
    """A copy goes elsewhere after 20 ms; then the first's replica fails."""
    client = Client(hedge_s=0.02, retries=1, retry_on=("failure",))
    requests = plain([0], osl=30)
    server = serve(
        requests, [pool(replicas=2)], client=client, commands=[(0.05, "fail", 0)], route=IN_TURN
    )
    log = assert_laws(server, requests)
    assert (log.requests["status"][0], log.requests["replica"][0]) == (0, 1)
    assert log.requests["n_retries"][0] == 0
    assert server._clock.n_sent_again == 0


def test_what_a_copy_that_fails_had_done_is_wasted_once():
    """It is sent again, by its client: its tokens on the first replica were for nothing."""
    client = Client(retries=1, retry_on=("failure",))
    requests = plain([0], osl=30)
    pools = [pool(replicas=2)]
    server = serve(requests, pools, client=client, commands=[(0.05, "fail", 0)], route=IN_TURN)
    log = assert_laws(server, requests)
    assert (log.requests["status"][0], log.requests["replica"][0]) == (0, 1)
    clients = log.meta["clients"]
    assert clients["wasted_output_tokens"] == log.replicas["n_out"][0] > 0
    assert clients["wasted_tokens"] == log.replicas["n_tokens"][0] > 32
