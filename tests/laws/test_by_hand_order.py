"""Who comes when, and what a failure leaves: small cases worked out on paper."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from adapting import assert_adapters, fitted
from families import turning
from fleets import assert_laws, both_ways, pool, prompts, serve
from serving import PS, workload
from test_by_hand_kv import BELOW, MS, kept_in, starts

from forerun.spec.caches import ResponseCache
from forerun.spec.deployment import Policy
from forerun.spec.requests import Requests
from forerun.spec.traces._questions import with_questions
from forerun.spec.workload import Client, Questions

IN_TURN = Policy(name="round_robin")


def graph(before_after, *, n, delay_s=None, isl=16, osl=2, **more):
    """Requests of one workflow that begins at 0, and who waits for whom: pairs in order."""
    before = np.array([a for a, _ in before_after])
    return Requests(
        np.zeros(n), np.broadcast_to(isl, n), np.broadcast_to(osl, n),
        successors=np.array([b for _, b in before_after]),
        successor_starts=np.searchsorted(before, np.arange(n + 1)),
        delay_s=np.zeros(len(before)) if delay_s is None else np.array(delay_s),
        **{"workflow": np.zeros(n, dtype=np.int64), **more},
    )  # fmt: skip


# -- arrivals --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "seed"), [(61, 0), *((7, seed) for seed in range(1, 7))])
def test_many_that_one_request_releases_come_by_time_and_then_by_number(n, seed):
    """Replicas take turns, so each shows how many came before; times differ by 500 ps or not."""
    after = np.random.default_rng(seed).permutation(np.arange(n - 1) // 2)  # each moment twice
    wide = graph([(0, b) for b in range(1, n)], n=n, delay_s=0.1 + after * 500e-12)
    rows = serve(wide, [pool(replicas=n)], route=IN_TURN).log_so_far().requests
    rank = np.argsort(np.argsort(after, kind="stable"), kind="stable")
    assert rows["replica"].tolist() == [0, *(rank + 1).tolist()]
    at = rows["done_ps"][0] + PS // 10 + after * 500
    assert rows["arrival_ps"][1:].tolist() == at.tolist()


def test_who_waits_for_another_passes_the_host_like_everybody():
    """0.5 s a request and 0.25 s a token of its prompt: 4 and 6 tokens."""
    host = {"host_request_s": 0.5, "host_prompt_token_s": 0.25}
    chain = graph([(0, 1)], n=2, delay_s=[1.0], isl=np.array([4, 6]))
    for way in ({}, {"concurrency": 1}):
        rows = serve(chain, [pool(**host)], **way).log_so_far().requests
        assert rows["arrival_ps"].tolist() == [0, rows["done_ps"][0] + PS]
        assert (rows["scheduled_ps"] - rows["arrival_ps"]).tolist() == [3 * PS // 2, 2 * PS]


def test_who_waits_for_another_is_looked_for_among_the_answers_like_everybody():
    """One client; who finds no answer starts when the look for one has taken 7 ms."""
    questions = (Questions(category="chat", topics=40, questions=3, wordings=1),)
    requests = with_questions(replace(workload(3, 20), arrival_s=np.zeros(20)), questions, seed=1)
    cache = ResponseCache(embed_s=5e-3, search_s=2e-3)
    rows = serve(requests, [pool()], responses=cache, concurrency=1).log_so_far().requests
    computed = rows[rows["replica"] >= 0]
    assert len(computed) > 5
    assert set((computed["scheduled_ps"] - computed["arrival_ps"]).tolist()) == {7 * MS}


def test_a_client_begins_the_next_workflow_when_all_of_one_has_ended():
    """Three workflows of a long and a short request that begin together, one client."""
    pairs = Requests(
        np.zeros(6), np.full(6, 16), np.array([2, 9] * 3), workflow=np.repeat(np.arange(3), 2),
        successors=np.zeros(0, dtype=np.int64), successor_starts=np.zeros(7, dtype=np.int64),
        delay_s=np.zeros(0),
    )  # fmt: skip
    rows = serve(pairs, [pool()], concurrency=1, think_s=1.0).log_so_far().requests
    ends = rows["done_ps"].reshape(3, 2).max(axis=1)
    assert rows["arrival_ps"].tolist() == np.repeat([0, *(ends[:-1] + PS)], 2).tolist()
    assert (rows["done_ps"][0::2] < rows["done_ps"][1::2]).all()


def test_a_join_comes_after_the_longest_delay_and_its_path_goes_through_the_longest_run():
    """0 -> 1 (long) -> 3 after 9 s; 0 -> 2 (short, 5 s later) -> 3 at once: 2 ends last, but 1 says
    when 3 comes, and is on the longest path."""
    edges = [(0, 1), (0, 2), (1, 3), (2, 3)]
    requests = graph(edges, n=4, delay_s=[0, 5, 9, 0], osl=np.array([2, 40, 2, 2]))
    server = serve(requests, [pool()])
    rows, calls = server.log_so_far().requests, server._state.calls
    assert rows["done_ps"][2] > rows["done_ps"][1]
    assert rows["arrival_ps"][3] == rows["done_ps"][1] + 9 * PS
    assert calls["ran_ps"][1] > calls["ran_ps"][2]
    assert calls["path_ps"][3] == calls["ran_ps"][0] + calls["ran_ps"][1]


# -- what ends a step ------------------------------------------------------------------------------


def test_the_kv_of_a_prompt_whose_client_has_gone_is_not_moved():
    """The prompt takes some 4 ms, its client waits for 1."""
    split = [pool("prefill", "p"), pool("decode", "d")]
    requests = Requests(np.zeros(1), np.array([32]), np.array([8]))
    server = serve(requests, split, client=Client(first_token_s=1e-3))
    rows = server.log_so_far().requests
    assert (rows["status"][0], rows["n_out"][0] <= 1) == (2, True)
    assert not server._state.ports["bytes"].any()
    assert not server._state.replicas.n_away.any()


def test_the_token_after_a_preemption_ends_a_gap_of_its_own():
    """At 40 tokens each the second makes room, and begins again when the first has ended."""
    requests = Requests(np.zeros(2), np.full(2, 32), np.full(2, 24))
    log = both_ways(serve, requests, [pool(n_blocks=20)]).log_so_far()
    assert log.requests["n_preempt"].tolist() == [0, 1]
    resumed = log.gaps[log.gaps["resumed"] == 1]
    assert resumed["gap_ps"].tolist() == [log.requests["max_itl_ps"][1]]
    assert resumed["end_ps"][0] > log.requests["done_ps"][0]


def test_who_begins_to_decode_has_waited_only_since_its_own_first_token():
    """Prompts of 60 come together while one decodes, which waits for both; the first of them waits
    for the second; and the second for nobody."""
    first_first = [pool(batch=Policy(name="prefill_first"))]
    requests = Requests(np.array([0, 0.02, 0.02]), np.array([32, 60, 60]), np.full(3, 20))
    log = both_ways(serve, requests, first_first).log_so_far()
    rows, steps = log.requests, log.leaps[log.leaps["n_decode"] > 0]
    together = steps[steps["n_decode"] == 3][0]
    end = together["start_ps"] + together["first_ps"]
    assert rows["max_itl_ps"][1] == end - rows["first_token_ps"][1]
    assert rows["max_itl_ps"][0] >= end - rows["first_token_ps"][2] + 2 * 6 * MS
    assert rows["max_itl_ps"][2] < 6 * MS  # a step of decoding, less than one of a prompt


# -- failures --------------------------------------------------------------------------------------


def test_a_step_that_ends_at_the_moment_of_a_failure_counts():
    """Five steps end before or then, inside a leap: 32 + 4 tokens are lost, and no time."""
    one = Requests(np.zeros(1), np.array([32]), np.array([30]))
    fifth = serve(one, [pool()], leap=False).log_so_far().leaps["start_ps"][5]
    at = int(fifth) / PS
    for later_ps, lost in ((0, 36), (-1, 35)):
        commands = [(at + later_ps / PS, "fail", 0), (1.0, "open", 0)]
        server = both_ways(serve, one, [pool()], commands=commands)
        log = assert_laws(server, one)
        assert log.requests["recomputed"].tolist() == [lost]
        assert log.requests["n_retries"].tolist() == [1]
        assert (server._state.totals["lost_ps"][0] == 0) == (later_ps == 0)


def test_who_waits_at_a_replica_that_fails_is_sent_again_too():
    requests = Requests(np.zeros(2), np.full(2, 32), np.full(2, 30))
    commands = [(0.02, "fail", 0), (1.0, "open", 0)]
    log = assert_laws(serve(requests, [pool(max_num_seqs=1)], commands=commands), requests)
    assert log.requests["n_retries"].tolist() == [1, 1]
    assert log.requests["scheduled_ps"][1] > PS


def test_kv_on_its_way_to_a_replica_that_fails_is_moved_to_another_one():
    """17 ms from the failure on; nothing is computed again."""
    split = [pool("prefill", "p"), pool("decode", "d", replicas=2)]
    requests = Requests(np.zeros(1), np.array([32]), np.array([8]))
    server = serve(requests, split, commands=[(0.01, "fail", 1)])
    log = assert_laws(server, requests)
    assert log.requests["replica"][0] == 2
    assert starts(log, 2) == (10 + 17) * MS
    assert log.requests["recomputed"][0] == 0


def test_kv_on_its_way_up_to_a_replica_that_fails_is_brought_up_again():
    """Three of four blocks come up for 6.1 ms; the failure is 1 ms after they are called."""
    tier = replace(BELOW, capacity_bytes=1e6, write="through")
    requests = prompts([1, 2, 3, 4], [1, 2, 3, 4], at=[0, 1], osl=2)
    commands = [(0.5, "fail", 0), (0.6, "open", 0), (1.001, "fail", 0), (2.0, "open", 0)]
    server = serve(requests, [pool()], tiers=[tier], commands=commands, fetch=Policy(name="always"))
    log = assert_laws(server, requests)
    assert log.requests["cached"].tolist() == [0, 24]
    assert log.requests["scheduled_ps"][1] == 2 * PS + 61 * MS // 10


def test_who_waits_with_kv_that_is_lost_starts_with_the_blocks_of_its_first_chunk():
    """The first has 10 blocks or more of 24, so that the KV of 60 tokens (15) waits where it was
    computed, until that fails: then the first chunk of 15 tokens has room, at the next boundary."""
    small = {"n_blocks": 24, "max_num_batched_tokens": 16}
    mixed = [pool("prefill", "p", prefix_caching=False), pool("both", "d", **small)]
    requests = Requests(np.array([0, 0.04]), np.array([40, 60]), np.array([40, 4]))
    commands = [(0.08, "fail", 0), (3.0, "open", 0)]
    leapt = both_ways(serve, requests, mixed, commands=commands)
    log = assert_laws(leapt, requests)
    chunks = log.leaps[(log.leaps["replica"] == 1) & (log.leaps["chunk"] > 0)]
    assert chunks["chunk"][0] == 15
    assert 0 <= chunks["start_ps"][0] - 80 * MS < 3 * MS
    assert log.requests["done_ps"][0] > 83 * MS


def test_a_failure_elsewhere_gives_room_back_after_what_a_leap_has_dropped():
    """On the second replica an answer grows to 31 blocks of 39, of 8 of which KV is on its way: so
    the prefix of 4 blocks that was there is dropped on the way, before its source fails."""
    slow = {"bytes_per_s": 2e5}
    mixed = [
        pool("prefill", "p", prefix_caching=False, **slow), pool("both", "d", n_blocks=39, **slow)
    ]  # fmt: skip
    at = [0, 1, 8]
    commands = ()
    for k in range(3):  # first to know when the answer ends
        rows = [[1, 2, 3, 4], [], []][: 2 + (k > 0)]
        requests = replace(
            prompts(*rows, at=at[: len(rows)]),
            isl=np.array([33, 64, 32])[: len(rows)], osl=np.array([2, 60, 2])[: len(rows)],
        )  # fmt: skip
        server = serve(requests, mixed, commands=commands)
        done_s = server.log_so_far().requests["done_ps"][1] / PS
        if k == 0:
            at[2] = done_s - 0.1
        commands = [(done_s - 1e-3, "fail", 0), (20.0, "open", 0)]
    log = assert_laws(server, requests)
    assert log.replicas["peak_blocks"][1] == 39
    assert log.requests["recomputed"].tolist() == [0, 0, 32]
    assert kept_in(server, 1) == set()


def test_a_replica_that_failed_has_no_adapter_left():
    two = Requests(np.array([0.0, 2.0]), np.full(2, 32), np.full(2, 2), adapter=np.zeros(2, int))
    for commands, n_loads in (((), 1), ([(1.0, "fail", 0), (1.1, "open", 0)], 2)):
        log = serve(two, fitted([pool()]), commands=commands).log_so_far()
        assert log.fitted["n_loads"].tolist() == [n_loads]


def test_nobody_uses_the_adapter_of_a_replica_that_fails_before_the_kv_has_come():
    """KV begins to move when the adapter is there, 8 ms after it was asked for, and takes 17."""
    split = fitted([pool("prefill", "p"), pool("decode", "d", replicas=2)])
    one = Requests(np.zeros(1), np.array([32]), np.array([8]), adapter=np.zeros(1, int))
    came = starts(serve(one, split).log_so_far(), 1)
    server = serve(one, split, commands=[(came / PS - 5e-3, "fail", 1)])
    log = assert_laws(server, one)
    assert_adapters(server, split)
    assert (log.requests["replica"][0], log.requests["recomputed"][0]) == (2, 0)
    assert not server._state.slots["n_using"].any()


# -- models in turn --------------------------------------------------------------------------------


def test_who_waits_for_a_model_at_a_replica_that_fails_goes_elsewhere():
    """The third waits behind the first, for another model; only the second's replica stays."""
    requests = Requests(
        np.zeros(3), np.full(3, 32), np.full(3, 30), model=np.array([0, 0, 1])
    )  # fmt: skip
    pools = turning(2, replicas=2)
    server = serve(requests, pools, route=IN_TURN, commands=[(0.02, "fail", 0)])
    log = assert_laws(server, requests)
    assert log.requests["status"].tolist() == [0, 0, 0]
    assert log.requests["replica"].tolist() == [1, 1, 1]
    assert log.requests["n_retries"].tolist() == [1, 0, 1]


def test_a_replica_that_fails_while_weights_come_has_them_when_it_comes_back():
    """Loading takes 50 ms from 0 on; a failure at 10 ms, and it is back at 20 ms."""
    one = Requests(np.zeros(1), np.array([32]), np.array([2]), model=np.array([1]))
    commands = [(0.01, "fail", 0), (0.02, "open", 0)]
    for how, at_ms in (((), 50), (commands, 20)):
        log = serve(one, turning(2), commands=how).log_so_far()
        assert log.requests["scheduled_ps"].tolist() == [at_ms * MS]


def test_a_router_finds_no_prefix_of_another_model():
    """The first left its prompt on one replica, the second runs there; the third has that prompt
    too, but asks for another model, and goes where nobody is."""
    requests = replace(
        prompts([1, 2, 3, 4], [], [1, 2, 3, 4], at=[0, 1, 1.01]),
        osl=np.array([2, 40, 2]), model=np.array([0, 0, 1]),
    )  # fmt: skip
    route = Policy(name="prefix_aware", params={"load_tokens": 1.0})
    for model, replica in ((0, 0), (1, 1)):
        asked = replace(requests, model=np.array([0, 0, model]))
        log = serve(asked, turning(2, replicas=2), route=route).log_so_far()
        assert log.requests["replica"].tolist() == [0, 0, replica]
