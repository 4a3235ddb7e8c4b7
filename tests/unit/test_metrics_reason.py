"""The sentences name what the log was made to be bound by."""

from dataclasses import replace

import pytest
from handmade_logs import S, many_requests, table, three_requests

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
    assert s.waiting == pytest.approx(3 / 8)
    assert sum(s.turned_away.values()) == pytest.approx(1)


def test_full_kv_blocks_are_named():
    assert "95% or more of the KV blocks" in said(three_requests())  # 10 of 10 while one waits


@pytest.mark.parametrize(
    ("change", "limit"),
    [({"max_seqs": 2}, "max_num_seqs 2"), ({"max_tokens": 50}, "max_num_batched_tokens 50")],
)
def test_the_limit_that_holds_requests_back_is_named(change, limit):
    log = three_requests(kv_blocks=[100])
    log = replace(log, kv_blocks=three_requests().kv_blocks * 10)
    small = replace(log, tables=(limited(**change),))
    assert limit in said(small)


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
