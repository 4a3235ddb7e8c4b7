"""Laws of requests that cause requests: workflows, think times, joins, closed loops."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from fleets import assert_laws, assert_same, both_ways, fleets, pool, serve, sharing, troubles
from flows import PS, alone, assert_order, woven
from serving import workload

from forerun.errors import SpecError
from forerun.spec.requests import Requests


@pytest.mark.parametrize("concurrency", [None, 3])
def test_a_leap_equals_stepping_in_workflows_whatever_happens_to_the_fleet(concurrency):
    cancelled = 0
    for seed in range(8):
        requests = woven(sharing(seed, 60, isl=60, ties=True), seed)
        for pools in fleets().values():
            commands = troubles(seed, pools)
            leapt = both_ways(serve, requests, pools, commands=commands, concurrency=concurrency)
            log = assert_laws(leapt, requests, all_sent=False)
            assert_order(log, requests)
            cancelled += (log.requests["status"] == 4).sum()


@pytest.mark.parametrize("order", [(30, 9), (9, 30)])
def test_what_ends_at_the_boundary_of_another_replica_releases_after_it_or_before(order):
    """Two replicas step together; the successor of the one that ends goes to the other (2 -> 0)."""
    for prefer in (0, 1):
        requests = Requests(
            np.zeros(3), np.full(3, 16), np.array([*order, 4]),
            workflow=np.array([1, 1, 1]), successors=np.array([2]),
            successor_starts=np.array([0, 0, 1, 1] if order[1] == 9 else [0, 1, 1, 1]),
            delay_s=np.zeros(1),
        )  # fmt: skip
        rows = [
            serve(requests, [pool(replicas=2)], leap=leap, policies={"route": _in_turn(prefer)})
            for leap in (True, False)
        ]
        assert_same(*(server.log_so_far() for server in rows))


def _in_turn(last):
    def route(request, load, params, memory, rng):
        i = memory[0]
        memory[0] += 1
        return i if i < 2 else last

    return route


@pytest.mark.parametrize("concurrency", [None, 4])
def test_workflows_of_one_request_write_the_log_of_plain_requests(concurrency):
    for seed in range(4):
        requests = sharing(seed, 50, isl=60, ties=True)
        for pools in fleets().values():
            commands = troubles(seed, pools)
            plain, single = (
                serve(r, pools, commands=commands, concurrency=concurrency).log_so_far()
                for r in (requests, alone(requests))
            )
            for name in ("requests", "leaps", "gaps", "replicas"):
                assert getattr(plain, name).tobytes() == getattr(single, name).tobytes()


def three(*, isl=32, osl=3, delay_s=(0.5, 0.5, 0.0, 0.0), at=1.0, **more):
    """0 -> (1, 2) -> 3: two in parallel, joined."""
    return Requests(
        np.full(4, at), np.full(4, isl), np.full(4, osl), workflow=np.zeros(4, dtype=np.int64),
        successors=np.array([1, 2, 3, 3]), successor_starts=np.array([0, 2, 3, 4, 4]),
        delay_s=np.array(delay_s), **more,
    )  # fmt: skip


def test_a_request_is_sent_when_the_last_it_waits_for_has_ended_and_its_delay_has_passed():
    rows = serve(three(delay_s=(0.5, 1.5, 0, 0)), [pool()]).log_so_far().requests
    first = rows["done_ps"][0]
    assert rows["arrival_ps"].tolist() == [
        PS, first + PS // 2, first + 3 * PS // 2, rows["done_ps"][2],
    ]  # fmt: skip


def test_successors_of_a_rejected_request_are_cancelled_or_go_on():
    requests = replace(three(), isl=np.array([32, 32, 9_000, 32]))  # the third fits nowhere
    rows = serve(requests, [pool(n_blocks=64)]).log_so_far().requests
    assert rows["status"].tolist() == [0, 0, 1, 4]
    assert rows["done_ps"][3] == rows["done_ps"][1]  # when both were known to have ended
    rows = serve(requests, [pool(n_blocks=64)], go_on=True).log_so_far().requests
    assert rows["status"].tolist() == [0, 0, 1, 0]


def test_a_lost_request_takes_the_whole_chain_behind_it_along():
    n = 40
    chain = Requests(
        np.zeros(n), np.array([9_000, *[8] * (n - 1)]), np.full(n, 2),
        workflow=np.zeros(n, dtype=np.int64), successors=np.arange(1, n),
        successor_starts=np.minimum(np.arange(n + 1), n - 1), delay_s=np.full(n - 1, 3.0),
    )  # fmt: skip
    log = serve(chain, [pool()]).log_so_far()
    assert log.requests["status"].tolist() == [1, *[4] * (n - 1)]
    assert log.end_ps == 0  # it is known at once


def test_deadlines_of_a_workflow_count_from_its_first_arrival():
    seen = []

    def spy(request, now_ps, params):
        seen.append((int(request.request), int(request.deadline_ps)))
        return request.arrival_ps

    if not _jit():
        requests = three(deadline_s=np.array([5.0, np.inf, 5.0, 9.0]))
        serve(requests, [pool()], policies={"order": spy})
        never = (1 << 63) - 1
        assert dict(seen) == {0: 6 * PS, 1: never, 2: 6 * PS, 3: 10 * PS}
    graph = serve(three(deadline_s=np.full(4, 5.0)), [pool()]).log_so_far().graph
    assert graph.deadline_ps.tolist() == [6 * PS]


def _jit():
    from forerun.sim.core.jit import JIT

    return JIT


def test_a_closed_loop_keeps_as_many_workflows_in_flight_as_it_has_clients():
    """Little's law: mean number in flight = completions a second x mean time of each."""
    requests = woven(workload(3, 400, isl=30), 3)
    requests = replace(requests, arrival_s=np.zeros(400), deadline_s=None)
    log = serve(requests, [pool(replicas=2)], concurrency=5).log_so_far()
    flow, rows = log.graph.workflow, log.requests
    start = np.array([rows["arrival_ps"][flow == w].min() for w in range(flow.max() + 1)])
    end = np.array([rows["done_ps"][flow == w].max() for w in range(flow.max() + 1)])
    edges = np.sort(np.concatenate([start, end]))
    busy = edges[edges <= start.max()]
    inside = (start[:, None] <= busy[:-1]) & (end[:, None] > busy[:-1])
    in_flight = inside.sum(axis=0)[np.diff(busy) > 0]
    assert (in_flight == 5).all()
    np.testing.assert_array_equal(np.sort(start)[5:], np.sort(end)[: len(end) - 5])


def test_an_open_loop_takes_workflows_in_pieces_as_it_takes_them_whole():
    from forerun.sim.serve import Server

    requests = woven(workload(5, 60), 5, delay_s=0.3)
    whole = serve(requests, [pool(replicas=2)]).log_so_far()
    server = Server([pool(replicas=2)])
    starts = np.flatnonzero(np.diff(requests.workflow, prepend=-1))
    cuts = [0, int(starts[len(starts) // 3]), int(starts[len(starts) // 2]), 60]
    for a, b in itertools.pairwise(cuts):
        if a:
            server.advance(float(requests.arrival_s[a]) - 1e-9)
        server.inject(requests[a:b])
    server.advance()
    assert server.log_so_far().requests.tobytes() == whole.requests.tobytes()


def test_a_turn_finds_the_prompt_and_the_answer_of_the_turn_before():
    # 32 + 8 tokens are five blocks; the last token of an answer is never computed, so the fifth
    # block is not there, and the second turn finds four: 32 tokens; with 9 it finds all five
    for osl, found in ((8, 32), (9, 40)):
        turns = Requests(
            np.zeros(2), np.array([32, 56]), np.array([osl, 2]),
            workflow=np.zeros(2, dtype=np.int64), successors=np.array([1]),
            successor_starts=np.array([0, 1, 1]), delay_s=np.array([1.0]),
            block_hashes=np.array([1, 2, 3, 4, 5, 1, 2, 3, 4, 5, 6, 7]),
            block_starts=np.array([0, 5, 12]), hash_tokens=8, answers_named=True,
        )  # fmt: skip
        rows = serve(turns, [pool()]).log_so_far().requests
        assert rows["cached"].tolist() == [0, found]


def test_requests_that_wait_in_a_circle_are_refused_with_the_circle():
    requests = replace(
        three(),
        successors=np.array([1, 2, 3, 1]),
        successor_starts=np.array([0, 1, 2, 3, 4]),
    )
    with pytest.raises(SpecError, match="1 -> 2 -> 3 -> 1"):
        serve(requests, [pool()])


def test_waiting_for_what_is_not_there_or_for_another_workflow_is_refused():
    with pytest.raises(SpecError, match="there are 4 requests"):
        serve(replace(three(), successors=np.array([1, 2, 3, 7])), [pool()])
    with pytest.raises(SpecError, match="of another workflow"):
        serve(replace(three(), workflow=np.array([0, 0, 0, 1])), [pool()])
    with pytest.raises(SpecError, match=r"-1 s from request 0 to 1"):
        serve(replace(three(), delay_s=np.array([-1.0, 0, 0, 0])), [pool()])
