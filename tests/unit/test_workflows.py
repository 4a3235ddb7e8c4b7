"""Workflows from their description to their figures."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "laws"))

from fleets import pool, serve

from forerun.errors import SpecError
from forerun.metrics.score import score
from forerun.spec.traces.draw import requests_of
from forerun.spec.workload import Traffic


def traffic(nodes, *, n=1, deadline_s=None, block_tokens=8, **more):
    rate = {} if "concurrency" in more else {"rate_per_s": 5.0}
    flow = {"nodes": nodes, "deadline_s": deadline_s, "block_tokens": block_tokens}
    return Traffic(**(rate | more), n_requests=n, workflow=flow)


def edges(requests):
    before = np.repeat(np.arange(len(requests)), np.diff(requests.successor_starts))
    return list(zip(before.tolist(), requests.successors.tolist(), strict=True))


def blocks(requests, i):
    return requests.block_hashes[requests.block_starts[i] : requests.block_starts[i + 1]].tolist()


def test_copies_are_sent_side_by_side_and_what_comes_after_waits_for_all():
    nodes = {
        "split": {"isl": 10, "osl": 2},
        "map": {"after": "split", "copies": 3, "isl": 20, "osl": 4},
        "reduce": {"after": ["map"], "isl": 30, "osl": 6, "delay": 0.5},
    }
    requests = requests_of(traffic(nodes), seed=1)
    assert requests.isl.tolist() == [10, 20, 20, 20, 30]
    assert edges(requests) == [(0, 1), (0, 2), (0, 3), (1, 4), (2, 4), (3, 4)]
    assert requests.delay_s.tolist() == [0, 0, 0, 0.5, 0.5, 0.5]
    assert requests.block_hashes is None  # nothing begins alike


def test_each_makes_a_tree_whose_branches_do_not_wait_for_each_other():
    nodes = {
        "root": {"isl": 16, "osl": 8},
        "branch": {"each": "root", "extends": "root", "copies": 2, "isl": 8, "osl": 8},
        "leaf": {"each": "branch", "extends": "branch", "copies": 2, "isl": 8, "osl": 8},
    }
    requests = requests_of(traffic(nodes), seed=1)
    assert edges(requests) == [(0, 1), (0, 2), (1, 3), (1, 4), (2, 5), (2, 6)]
    assert requests.isl.tolist() == [16, 32, 32, 48, 48, 48, 48]
    assert blocks(requests, 5)[:5] == blocks(requests, 2)
    assert blocks(requests, 5)[:3] == blocks(requests, 0)
    assert blocks(requests, 5)[5:] != blocks(requests, 6)[5:]


def test_a_repeated_node_sends_one_turn_after_another_each_with_all_before_it():
    nodes = {"turn": {"extends": "turn", "repeat": 3, "isl": 10, "osl": 5, "delay": "2 s"}}
    requests = requests_of(traffic(nodes), seed=1)
    assert requests.isl.tolist() == [10, 25, 40]
    assert edges(requests) == [(0, 1), (1, 2)]
    assert requests.delay_s.tolist() == [2, 2]
    # 15 tokens are one whole block of 8, 30 are three
    assert [len(blocks(requests, i)) for i in range(3)] == [1, 3, 5]
    assert blocks(requests, 2)[:3] == blocks(requests, 1)


def test_what_all_requests_of_a_node_begin_with_has_the_same_blocks_in_all_workflows():
    nodes = {"a": {"isl": 40, "system": 20, "osl": 1}, "b": {"isl": 40, "system": 20, "osl": 1}}
    requests = requests_of(traffic(nodes, n=2), seed=1)
    heads = [blocks(requests, i)[:2] for i in range(4)]
    assert heads[0] == heads[2]
    assert heads[1] == heads[3]
    assert heads[0] != heads[1]
    assert blocks(requests, 0)[2] != blocks(requests, 2)[2]


def test_one_nodes_draws_do_not_depend_on_the_lengths_of_another():
    nodes = {
        "a": {"isl": {"kind": "geometric", "mean": 50}, "osl": 4},
        "b": {"after": "a", "isl": {"kind": "geometric", "mean": 50}, "osl": 4},
    }
    other = nodes | {"a": {"isl": 7, "osl": 9, "copies": 2}}
    one, two = (requests_of(traffic(n, n=20), seed=3) for n in (nodes, other))
    np.testing.assert_array_equal(one.isl[1::2], two.isl[2::3])


def test_drawn_delays_have_their_mean():
    nodes = {
        "turn": {"repeat": 4000, "isl": 1, "osl": 1,
                 "delay": {"kind": "lognormal", "mean_s": 2.0, "cv": 0.5}},
    }  # fmt: skip
    drawn = requests_of(traffic(nodes), seed=1).delay_s
    assert abs(drawn.mean() - 2.0) < 4 * 1.0 / np.sqrt(len(drawn))
    assert abs(drawn.std() - 1.0) < 0.1


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ({"a": {"after": "c", "isl": 1, "osl": 1}, "b": {"after": "a", "isl": 1, "osl": 1},
          "c": {"after": "b", "isl": 1, "osl": 1}}, "a -> b -> c -> a"),
        ({"a": {"after": "a", "isl": 1, "osl": 1}}, "a -> a"),
        ({"plan": {"isl": 1, "osl": 1}, "b": {"after": "plam", "isl": 1, "osl": 1}},
         "no node is called 'plam'"),
        ({"a": {"isl": 1, "osl": 1}, "b": {"extends": "a", "isl": 1, "osl": 1}},
         "b does not wait for a"),
        ({"a": {"isl": 1, "osl": 1, "delay": {"mean_s": 1.0, "cv": 1}}},
         "only lognormal delays read it"),
        ({}, "there is none"),
    ],
)  # fmt: skip
def test_a_workflow_that_cannot_be_is_refused_with_a_sentence(nodes, message):
    with pytest.raises(SpecError, match=message):
        requests_of(traffic(nodes), seed=1)


def test_a_workflow_beside_a_trace_or_lengths_of_its_own_is_refused():
    nodes = {"a": {"isl": 1, "osl": 1}}
    with pytest.raises(SpecError, match="given together with a workflow"):
        requests_of(traffic(nodes, trace="chat"), seed=1)
    with pytest.raises(SpecError, match="given together with a workflow"):
        requests_of(traffic(nodes, isl={"mean": 4}), seed=1)


# -- figures ----------------------------------------------------------------------------------


def test_the_parts_of_the_critical_path_add_up_to_the_latency():
    nodes = {
        "split": {"isl": 10, "osl": 2},
        "map": {"after": "split", "copies": 4, "isl": 24, "osl": 12,
                "delay": {"kind": "exponential", "mean_s": 0.02}},
        "reduce": {"after": "map", "isl": 30, "osl": 6, "repeat": 2},
    }  # fmt: skip
    for more in ({}, {"concurrency": 3}):
        requests = requests_of(traffic(nodes, n=30, **more), seed=4)
        log = serve(requests, [pool(replicas=2)], concurrency=more.get("concurrency"))
        found = score(log.log_so_far(), bootstrap=False).workflows
        assert (found.n, found.finished) == (30, 30)
        parts = (found.path_queue_s, found.path_service_s, found.path_delay_s)
        assert sum(part.value for part in parts) == pytest.approx(found.e2el_s.mean, rel=1e-9)
        assert found.path_requests.value == 4


def test_a_deadline_counts_for_the_whole_workflow():
    nodes = {"turn": {"repeat": 2, "isl": 16, "osl": 5, "delay": 0.1}}
    for deadline_s, met in ((0.1, 0.0), (1.0, 1.0), (None, None)):
        requests = requests_of(traffic(nodes, n=5, deadline_s=deadline_s), seed=4)
        found = score(serve(requests, [pool()]).log_so_far(), bootstrap=False).workflows
        assert found.deadline_met.value == met


def test_a_workflow_with_a_rejected_request_is_not_finished():
    nodes = {"a": {"isl": 20, "osl": 2}, "b": {"after": "a", "isl": 9_999, "osl": 2}}
    metrics = score(serve(requests_of(traffic(nodes, n=3), seed=1), [pool()]).log_so_far())
    assert (metrics.workflows.n, metrics.workflows.finished) == (3, 0)
    assert metrics.workflows.e2el_s.n == 0
    assert (metrics.counts.rejected, metrics.counts.finished) == (3, 3)


def test_plain_requests_have_no_workflow_figures():
    requests = requests_of(Traffic(rate_per_s=5.0, n_requests=4, isl=8, osl=2), seed=1)
    assert score(serve(requests, [pool()]).log_so_far()).workflows is None
