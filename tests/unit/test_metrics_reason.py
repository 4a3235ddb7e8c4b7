"""The sentences name what the log was made to be bound by."""

from dataclasses import replace

import numpy as np
import pytest
from handmade_logs import S, many_requests, table, three_requests

from forerun.metrics import latency, waits
from forerun.metrics.figure import text
from forerun.metrics.reason import explain, spent
from forerun.metrics.score import score
from forerun.metrics.window import view
from forerun.spec.slo import Slo


def said(log, slo=None):
    return " ".join(explain(log, score(log, slo)))


def test_the_verdict_names_the_term_that_fails():
    words = said(three_requests(), Slo(ttft_s=3, tpot_s=3))
    assert "1 rejected of 3" in words
    assert "time to first token: 50 % of finished requests took more than 3 s" in words


def test_time_splits_add_up():
    # host: 0.1 s a step and 0.05 s a sequence, 4 steps of one sequence in 8 s
    s = spent(view(three_requests()))
    assert s.host == pytest.approx(4 * 0.15 / 8)
    assert s.compute == pytest.approx(1893 / 1000 / 8)
    assert s.memory == pytest.approx(2 * 1893 / 4000 / 8)
    assert s.prefill == pytest.approx(5 / 8)  # leaps of 2 s and 3 s of 8 s


def test_waiting_is_told_by_what_for():
    # request 1 came at 1, in the step that ends at 2, and was scheduled at 2
    found = waits.waited_s(view(three_requests()))
    assert found.pop(waits.STEP) == pytest.approx(1)
    assert set(found.values()) == {0.0}


def turned_away(**changes):
    """The three requests, but request 1 is only scheduled at 5: it waits out a leap of 3 s."""
    log = three_requests(**changes)
    log.requests["scheduled_ps"][1] = 5 * S
    return log


@pytest.mark.parametrize(
    ("change", "capacity", "limit", "words"),
    [
        ({}, 10, waits.KV, "75 % is while 95 % or more of the KV blocks"),  # 10 of 10
        ({"max_seqs": 2}, 99, waits.SEATS, "75 % is while the batch was full (max_num_seqs 2)"),
        ({"max_tokens": 50}, 99, waits.TOKENS, "(max_num_batched_tokens 50)"),
        ({}, 99, waits.POLICY, "75 % is below these limits"),
    ],
)
def test_the_limit_that_holds_requests_back_is_named(change, capacity, limit, words):
    log = turned_away(kv_blocks=np.array([capacity]), tables=(limited(**change),))
    found = waits.waited_s(view(log))
    assert found[waits.STEP] == pytest.approx(1)
    assert found[limit] == pytest.approx(3)
    assert sum(found.values()) == pytest.approx(4)
    assert words in said(log)


def test_a_request_that_comes_as_a_step_begins_was_turned_away_from_it():
    log = turned_away()
    log.requests["arrival_ps"][1] = 2 * S
    found = waits.waited_s(view(log))
    assert found[waits.STEP] == 0
    assert found[waits.KV] == pytest.approx(3)


def test_waiting_outside_steps_is_kept_apart():
    log = three_requests()
    log.requests["arrival_ps"][0] = -S  # a second before the first step began
    assert waits.waited_s(view(log))[waits.OUTSIDE] == pytest.approx(1)


def test_all_waiting_has_a_reason():
    log = many_requests(300)
    total = latency.queue_s(log.requests).sum()
    assert sum(waits.waited_s(view(log)).values()) == pytest.approx(total)


def limited(**change):
    """The usual table, with a limit lowered and its grids cut to it."""
    t = table()
    parts = {}
    for name in ("time_s", "flop", "hbm_bytes", "link_bytes", "energy_j"):
        w = getattr(t, name)
        parts[name] = replace(
            w,
            tokens=w.tokens[: change.get("max_tokens", 128) + 1],
            prefill=w.prefill[: change.get("max_tokens", 128) + 1],
            seqs=w.seqs[: change.get("max_seqs", 4) + 1],
        )
    return replace(t, **parts, **change)


def test_compute_memory_and_host_are_told_apart():
    for changes, bound in (
        ({"peak_flop_per_s": 300.0}, "compute bounds"),
        ({"peak_hbm_bytes_per_s": 600.0}, "HBM bandwidth bounds"),
        ({"host_step_s": 1.5}, "host overhead bounds"),
        ({}, "none of these fills it"),
    ):
        log = replace(three_requests(), tables=(replace(table(), **changes),))
        assert bound in said(log), changes


def test_overload_is_said():
    log = many_requests(400, replicas=1)
    assert "overloaded" in said(log)
    assert "mostly queueing" in said(log)


def test_a_replica_that_is_always_in_a_step_is_not_called_overloaded():
    words = said(three_requests())
    assert "in a step 100 % of the time, with 1.38 of at most 4 requests" in words
    assert "overloaded" not in words
    assert "overloaded" not in said(many_requests(400, replicas=4))


def test_preemptions_are_said():
    log = three_requests()
    log.requests["n_preempt"][0], log.requests["recomputed"][0] = 1, 40
    assert "1 preemption recomputed 40 tokens" in said(log)


def test_without_steps_the_bound_is_unknown():
    assert "unknown" in said(three_requests(leaps=None, gaps=None))


def test_every_value_shows_its_unit():
    assert text(0.0234, "s") == "23.4 ms"
    assert text(0.932, "share") == "93.2 %"
    assert text(0.99996, "share") == "> 99.99 %"
    assert text(1.0, "share") == "100 %"
    assert text(1234.5, "token/s") == "1,234 token/s"
    assert text(0.0123, "J/token") == "12.3 mJ/token"
    assert text(None, "s") == "unknown"
    assert S == 10**12
