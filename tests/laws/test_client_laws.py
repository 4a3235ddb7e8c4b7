"""Laws of clients and of the gate: patience, retries, second copies, who is let in."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from fleets import assert_laws, assert_same, both_ways, fleets, pool, serve, sharing, troubles
from flows import PS, assert_order, woven
from serving import workload

from forerun.sim.serve import Server
from forerun.spec.deployment import Policy
from forerun.spec.requests import Requests
from forerun.spec.workload import Client

ROUTES = ("least_outstanding", "round_robin", "power_of_two", "prefix_aware", "session_sticky")
CLIENTS = [
    Client(give_up_s=0.3),
    Client(first_token_s=0.05, retries=2, retry_on=("timeout",), backoff_s=0.02),
    Client(hedge_s=0.02),
    Client(hedge_s=0.02, hedge_by="first_token"),
    Client(
        first_token_s=0.06, give_up_s=0.4, hedge_s=0.03, retries=3, backoff_s=0.01,
        retry_on=("timeout", "failure", "rejection"),
    ),
]  # fmt: skip


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("concurrency", [None, 6])
def test_a_leap_equals_stepping_whatever_clients_do(client, concurrency):
    did: dict[str, int] = {}
    for seed in range(5):
        requests = sharing(seed, 60, isl=60, ties=seed % 2 == 0)
        if seed % 2:
            requests = woven(requests, seed)
        for pools in fleets().values():
            commands = troubles(seed, pools) if seed > 1 else ()
            leapt = both_ways(
                serve, requests, pools, commands=commands, client=client, concurrency=concurrency,
                route=Policy(name=ROUTES[seed]),
            )  # fmt: skip
            log = assert_laws(leapt, requests, all_sent=False)
            if seed % 2:
                assert_order(log, requests)
            for name, n in log.meta["clients"].items():
                did[name] = did.get(name, 0) + n
    if client.hedge_s:
        assert did["hedged"] > 20
        assert did["wasted_tokens"] > 100
    if client.first_token_s or client.give_up_s:
        assert did["given_up"] > 10
    if client.retries:
        assert did["sent_again"] > 10


@pytest.mark.parametrize("client", CLIENTS)
def test_every_request_is_told_of_once_though_a_role_goes_away(client):
    """The last replica of a role closes, fails or changes; some copies never find another one."""
    left = again = 0
    for seed in range(4):
        requests = sharing(seed, 60, isl=60, ties=seed % 2 == 0)
        for pools in fleets().values():
            stays_away = troubles(seed, pools)[:12]
            if seed % 2:  # nobody sends again what a failure lost
                stays_away = [(t, v, i, 1 if v == "fail" else n) for t, v, i, n in stays_away]
            cut_s = 0.4 + 0.3 * seed
            for until_s in (np.inf, cut_s):
                logs = []
                for leap in (True, False):
                    server = Server(
                        pools, n_requests=60, hash_tokens=requests.hash_tokens, client=client,
                        leap=leap, route=Policy(name=ROUTES[seed]),
                    )  # fmt: skip
                    for command in stays_away:
                        server.command(*command)
                    server.inject(requests)
                    server.advance(until_s)
                    logs.append(server.log_so_far())
                sent = np.flatnonzero(requests.arrival_s <= until_s)
                rows = logs[0].requests
                assert rows["request"].tolist() == sent.tolist()
                wasted = logs[0].meta["clients"]["wasted_output_tokens"]
                assert logs[0].replicas["n_out"].sum() == rows["n_out"].sum() + wasted
                if until_s == np.inf:
                    assert_same(assert_laws(server, requests), logs[0])
                    assert logs[0].meta["clients"] == logs[1].meta["clients"]
                    left += logs[0].n_unfinished
                again += (rows["n_retries"][rows["status"] == 3] > 0).sum()
    assert left > (-1 if client.give_up_s else 5)
    assert again > (5 if client.retries else -1)


def test_work_that_a_copy_lost_before_its_replica_failed_is_wasted_once():
    """One copy waits for its KV at a replica that is gone then, the other one answers."""
    for seed in (25, 26, 30, 55):
        requests = sharing(seed, 60, isl=60, ties=seed % 2 == 0)
        for name in ("split", "mixed"):
            pools = fleets()[name]
            fails = [(t, v, i, 1 if v == "fail" else n) for t, v, i, n in troubles(seed, pools)]
            assert_laws(serve(requests, pools, commands=fails, client=CLIENTS[2]), requests)


def test_clients_who_never_lose_patience_write_the_log_of_plain_requests():
    patient = Client(first_token_s=1e5, give_up_s=1e6, hedge_s=1e5, retries=3)
    for seed in range(4):
        requests = sharing(seed, 50, isl=60, ties=True)
        for pools in fleets().values():
            for concurrency in (None, 4):
                commands = troubles(seed, pools)
                plain, same = (
                    serve(
                        requests, pools, commands=commands, client=c, concurrency=concurrency
                    ).log_so_far()
                    for c in (None, patient)
                )
                for name in ("requests", "leaps", "gaps", "replicas"):
                    assert getattr(plain, name).tobytes() == getattr(same, name).tobytes()
                assert plain.end_ps == same.end_ps  # nobody waits for timers that mean nothing


def some(n, isl=32, osl=30, at=0.0):
    return Requests(np.full(n, at), np.full(n, isl), np.full(n, osl))


def test_a_client_gives_up_when_no_token_has_come_by_then():
    log = serve(some(3), [pool(max_num_seqs=1)], client=Client(first_token_s=0.05)).log_so_far()
    rows = log.requests
    assert rows["status"].tolist() == [0, 2, 2]
    assert rows["done_ps"][1:].tolist() == [PS // 20] * 2  # they were waiting: at once
    assert log.meta["clients"]["given_up"] == 2


def test_a_client_that_gives_up_frees_its_seat_at_the_next_step():
    log = serve(some(2), [pool(max_num_seqs=1)], client=Client(give_up_s=0.05)).log_so_far()
    first, second = log.requests
    assert first["status"] == 2
    assert PS // 20 < first["done_ps"] < PS // 20 + 4 * PS // 1000  # a step takes 2 ms and some
    assert 0 < first["n_out"] < 30
    assert second["scheduled_ps"] == -1  # its own patience ended at the same moment


def test_a_request_is_sent_again_after_longer_and_longer():
    client = Client(
        first_token_s=0.01, retries=3, retry_on=("timeout",), backoff_s=0.1, backoff_factor=3
    )
    seen = serve(
        some(1, isl=640, osl=1), [pool(n_blocks=400)], client=client
    ).log_so_far()  # ten steps of 64 tokens, each more than 2 ms: never within 10 ms
    row = seen.requests[0]
    assert (row["status"], row["n_retries"]) == (2, 3)
    assert row["arrival_ps"] == 0
    # tries at 0, 0.11, 0.42 and 1.33 s; the last ends 10 ms later, at the next step boundary
    ends = seen.leaps["start_ps"] + seen.leaps["first_ps"]
    assert row["done_ps"] == ends[ends >= 1.34 * PS].min()
    assert seen.meta["clients"]["sent_again"] == 3
    assert seen.meta["clients"]["wasted_tokens"] > 0


def test_of_two_copies_the_first_to_answer_counts_and_the_other_is_dropped():
    slow, fast = fleets(slow=8e-3)["unequal"][1], pool("both", "fast")
    log = serve(some(1), [slow, fast], client=Client(hedge_s=0.02), policies={"route": _first})
    log = log.log_so_far()
    row = log.requests[0]
    alone = serve(some(1), [fast]).log_so_far().requests[0]
    assert (row["replica"], row["status"]) == (1, 0)
    assert row["done_ps"] == PS // 50 + alone["done_ps"]  # as if it had been sent 20 ms later
    assert log.meta["clients"]["hedged"] == 1
    assert log.meta["clients"]["wasted_tokens"] == log.replicas["n_tokens"][0]
    assert log.replicas["n_done"].tolist() == [0, 1]


def _first(request, load, params, memory, rng):
    return 0


def test_a_single_replica_gets_no_second_copy():
    plain = serve(some(4), [pool()]).log_so_far()
    hedged = serve(some(4), [pool()], client=Client(hedge_s=0.01)).log_so_far()
    assert hedged.meta["clients"]["hedged"] == 0
    assert plain.requests.tobytes() == hedged.requests.tobytes()


def test_a_failure_can_be_seen_by_the_client_who_waits_before_trying_again():
    client = Client(retries=1, retry_on=("failure",), backoff_s=0.5)
    commands = [(0.03, "fail", 0)]
    row = serve(some(1), [pool(replicas=2)], commands=commands, client=client)
    row = row.log_so_far().requests[0]
    assert (row["replica"], row["n_retries"], row["status"]) == (1, 1, 0)
    assert row["scheduled_ps"] == round(0.53 * PS)
    again = [(0.03, "fail", 0), (0.54, "fail", 1), (0.9, "open", 0)]
    row = serve(some(1), [pool(replicas=2)], commands=again, client=client)
    row = row.log_so_far().requests[0]
    assert (row["status"], row["n_retries"]) == (5, 1)  # failed


def test_retries_multiply_the_load_of_an_overloaded_fleet():
    requests = workload(1, 200, rate=400.0)
    counts = [
        serve(requests, [pool()], client=Client(
            first_token_s=0.2, retries=retries, retry_on=("timeout",), backoff_s=0.05,
        )).log_so_far()
        for retries in (0, 3)
    ]  # fmt: skip
    worse = [log.meta["clients"]["given_up"] for log in counts]
    assert worse[1] > worse[0]


GATES = [
    Policy(name="short_queue", params={"waiting": 1}),
    Policy(name="token_bucket", params={"per_s": 150, "burst": 120}),
    Policy(name="feasible", params={"tokens_per_s": 3000, "answer_s": 0.02}),
]


@pytest.mark.parametrize("gate", GATES)
def test_a_leap_equals_stepping_behind_a_gate(gate):
    client = Client(retries=2, backoff_s=0.03, hedge_s=0.05)
    rejected = again = 0
    for seed in range(5):
        requests = woven(sharing(seed, 60, isl=60, ties=seed % 2 == 0), seed, most=3)
        requests = replace(requests, tenant=np.arange(60) % 3)
        for pools in fleets().values():
            for who in (None, client):
                leapt = both_ways(
                    serve, requests, pools, gate=gate, client=who, commands=troubles(seed, pools)
                )
                log = assert_laws(leapt, requests, all_sent=False)
                assert_order(log, requests)
                rejected += (log.requests["status"] == 1).sum()
                again += 0 if who is None else log.meta["clients"]["sent_again"]
    assert rejected > 50
    assert again > 50


def test_a_token_bucket_lets_in_no_more_than_its_rate_and_burst():
    per_s, burst = 400.0, 150.0
    requests = replace(workload(5, 400, rate=60.0), tenant=np.arange(400) % 2)
    gate = Policy(name="token_bucket", params={"per_s": per_s, "burst": burst})
    rows = serve(requests, [pool(replicas=2)], gate=gate).log_so_far().requests
    for tenant in (0, 1):
        mine = rows[(rows["tag"] == tenant) & (rows["status"] == 0)]
        times, tokens = mine["arrival_ps"] / PS, np.cumsum(mine["isl"])
        for k in range(len(mine)):
            let_in = tokens[k:] - tokens[k] + mine["isl"][k]
            assert (let_in <= burst + per_s * (times[k:] - times[k]) + 1e-3).all()
        refused = rows[(rows["tag"] == tenant) & (rows["status"] == 1)]
        assert len(refused) > 20
        assert tokens[-1] > 0.5 * per_s * times[-1]  # and it does use its rate


def test_each_tenant_has_a_bucket_of_its_own():
    requests = replace(some(4, isl=100, osl=2), tenant=np.array([0, 0, 1, 1]))
    gate = Policy(name="token_bucket", params={"per_s": 1, "burst": 100})
    rows = serve(requests, [pool()], gate=gate).log_so_far().requests
    assert rows["status"].tolist() == [0, 1, 0, 1]


def test_a_gate_that_lets_everybody_in_writes_the_log_of_no_gate():
    requests = sharing(3, 50, isl=60, ties=True)
    endless = Policy(name="short_queue", params={"waiting": 1e9})
    for pools in fleets().values():
        plain, gated = (
            serve(requests, pools, **given).log_so_far() for given in ({}, {"gate": endless})
        )
        for name in ("requests", "leaps", "gaps", "replicas"):
            assert getattr(plain, name).tobytes() == getattr(gated, name).tobytes()


def test_what_cannot_meet_its_deadline_is_refused_at_once():
    requests = replace(some(3, isl=64, osl=2), deadline_s=np.array([1.0, 0.01, np.inf]))
    gate = Policy(name="feasible", params={"tokens_per_s": 1000, "answer_s": 0.1})
    rows = serve(requests, [pool()], gate=gate).log_so_far().requests
    assert rows["status"].tolist() == [0, 1, 0]
    assert rows["done_ps"][1] == 0


def test_a_router_that_weighs_speed_sends_a_slower_replica_less():
    pools = fleets(slow=8e-3)["unequal"]
    requests = workload(2, 300, rate=60.0)
    rows = serve(requests, pools, route=Policy(name="fastest_free")).log_so_far().requests
    counts = np.bincount(rows["replica"], minlength=4)
    assert counts[3] < 0.7 * counts[:3].mean()
