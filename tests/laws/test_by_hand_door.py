"""Who is let in, answered from what is kept or turned away, and that a slot is clean for the next
request: small cases worked out on paper."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from families import turning
from fleets import both_ways, plain, pool, prompts, serve
from seeing import in_front
from serving import PS
from speculating import kinds

from forerun.errors import SpecError
from forerun.sim.core.rows_log import STATUS
from forerun.spec.deployment import Policy, ResponseCache
from forerun.spec.traces._questions import with_questions
from forerun.spec.workload import Client, Questions

MS = PS // 1000
ONE_TEXT = (Questions(topics=1, questions=1, wordings=1),)


def never(request, load, now_ps, params, memory):
    return 0


# -- answers that were kept ------------------------------------------------------------------------


def test_an_answer_that_was_kept_comes_token_by_token_at_its_rate():
    """Looked for in 7 ms, fetched in 20, then a token each 2 ms: 5 of them, or one."""
    cache = ResponseCache(embed_s=5e-3, search_s=2e-3, fetch_s=20e-3, rate_per_s=500)
    for n_out, gap in ((5, 2 * MS), (1, 0)):
        requests = with_questions(plain([0, 1], osl=n_out), ONE_TEXT, seed=1)
        row = both_ways(serve, requests, [pool()], responses=cache).log_so_far().requests[1]
        assert (row["replica"], row["n_out"], row["scheduled_ps"]) == (-1, n_out, -1)
        assert row["first_token_ps"] == PS + 27 * MS
        assert row["done_ps"] == PS + 27 * MS + (n_out - 1) * 2 * MS
        assert row["max_itl_ps"] == gap


def test_a_client_begins_its_next_request_when_an_answer_that_was_kept_has_been_given():
    """One client; the second answer is the first's, 27 ms and four tokens of 2 ms."""
    cache = ResponseCache(embed_s=5e-3, search_s=2e-3, fetch_s=20e-3, rate_per_s=500)
    requests = with_questions(plain([0, 0, 0], osl=5), ONE_TEXT, seed=1)
    rows = serve(requests, [pool()], responses=cache, concurrency=1).log_so_far().requests
    assert (rows["done_ps"] - rows["arrival_ps"])[1:].tolist() == [35 * MS, 35 * MS]
    assert rows["arrival_ps"][1:].tolist() == rows["done_ps"][:-1].tolist()


def test_who_is_answered_at_the_first_try_was_not_sent_again():
    cache = ResponseCache()
    requests = with_questions(plain([0, 1]), ONE_TEXT, seed=1)
    client = Client(retries=2, retry_on=("rejection",))
    rows = serve(requests, [pool()], responses=cache, client=client).log_so_far().requests
    assert rows["replica"].tolist() == [0, -1]
    assert rows["n_retries"].tolist() == [0, 0]


def first_only(request, load, now_ps, params, memory):
    return 1 if request.request == 0 else 0


def test_who_is_answered_after_it_was_refused_was_sent_again_once():
    """The first's answer takes some 50 ms; the second comes before, and again after 0.1 s."""
    requests = with_questions(plain([0, 1e-3], osl=20), ONE_TEXT, seed=1)
    client = Client(retries=2, retry_on=("rejection",), backoff_s=0.1)
    server = serve(
        requests, [pool()], responses=ResponseCache(), client=client,
        policies={"gate": first_only},
    )  # fmt: skip
    rows = server.log_so_far().requests
    assert rows["replica"].tolist() == [0, -1]
    assert rows["n_retries"].tolist() == [0, 1]


# -- the gate --------------------------------------------------------------------------------------


def test_who_is_never_let_in_is_sent_again_as_often_as_its_client_does():
    """At 0.5 s, and after 0.1 and 0.2 s more; without such a client it is turned away at once."""
    ways = {"rejection": (8 * PS // 10, 2), "timeout": (PS // 2, 0)}
    for when, (done_ps, again) in ways.items():
        client = Client(retries=2, retry_on=(when,), backoff_s=0.1, first_token_s=9.0)
        server = serve(plain([0.5]), [pool()], client=client, policies={"gate": never})
        row = server.log_so_far().requests[0]
        assert row["status"] == STATUS["rejected"]
        assert (row["arrival_ps"], row["done_ps"], row["n_retries"]) == (PS // 2, done_ps, again)
        assert server._clock.n_live == 0


def test_the_log_says_whose_request_was_turned_away():
    requests = plain([0, 0, 0], tenant=np.array([0, 2, 1]), model=np.array([1, 0, 1]))
    log = serve(requests, turning(2), policies={"gate": never}).log_so_far()
    assert log.requests["tag"].tolist() == [0, 2, 1]
    assert log.requests["model"].tolist() == [1, 0, 1]


# -- a slot that another request had ---------------------------------------------------------------


def test_a_request_of_one_token_has_no_gap_whoever_had_its_slot():
    log = serve(plain([0, 1], osl=np.array([20, 1])), [pool()]).log_so_far()
    assert log.requests["max_itl_ps"][0] > 0
    assert log.requests["max_itl_ps"][1] == 0


def test_images_of_each_request_are_encoded_whoever_had_its_slot():
    requests = plain(
        [0, 1], n_items=np.array([2, 2]), item_units=np.array([20, 20]),
        item_tokens=np.array([5, 5]),
    )  # fmt: skip
    log = serve(requests, in_front([pool()])).log_so_far()
    assert log.encodes["n_items"].sum() == 4


def test_who_never_starts_has_found_nothing_whoever_had_its_slot():
    """Beside a long answer the third finds 24 tokens; the fourth has its slot, and waits for memory
    until its client goes: at 0.2 s the answer has some 20 blocks of 40, its prompt takes 25."""
    requests = prompts([], [1, 2, 3, 4], [1, 2, 3, 4], [], at=[0, 0, 0.1, 0.2])
    requests = replace(requests, isl=np.array([32, 32, 32, 100]), osl=np.array([120, 2, 2, 2]))
    server = serve(requests, [pool(n_blocks=40)], client=Client(first_token_s=0.03))
    rows = server.log_so_far().requests
    rows = rows[np.argsort(rows["request"])]
    assert (rows["scheduled_ps"][3], rows["done_ps"][0] > PS // 4) == (-1, True)
    assert rows["cached"].tolist() == [0, 0, 24, 0]


def test_what_was_proposed_for_a_request_is_its_own_whoever_had_its_slot():
    for name, pools in kinds(n_blocks=64).items():
        log = serve(plain([0, 5, 10], osl=20), pools, seed=6).log_so_far()
        assert log.requests["n_drafted"].sum() == log.replicas["n_drafted"].sum() > 0, name
        assert log.requests["n_extra"].sum() == log.replicas["n_extra"].sum(), name


def test_every_prompt_is_charged_to_its_tenant_whoever_had_its_slot():
    """One after another or together: a tenant has been served as much."""
    fair = [pool(order=Policy(name="vtc"))]
    served = [
        serve(plain(at, tenant=np.zeros(3, dtype=np.int64)), fair)._state.lines["served"].tolist()
        for at in ([0, 1, 2], [0, 0, 0])
    ]
    assert served[0] == served[1] != [0]


@pytest.mark.parametrize("column", ["isl", "osl"])
def test_a_length_beyond_what_is_counted_is_refused_and_not_wrapped(column):
    with pytest.raises(SpecError, match="one has 2,147,483,648 tokens"):
        serve(plain([0.0], **{column: 2**31}), [pool()])
