"""The request core case by case: small numbers that can be checked by hand."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from serving import PS, served, simulate, table, workload

from forerun.cost.table import CostTable, Work, grid
from forerun.errors import PolicyError, SpecError
from forerun.sim.core.jit import JIT
from forerun.sim.core.signatures import OUTSTANDING
from forerun.sim.serve import Server
from forerun.spec.deployment import Policy
from forerun.spec.requests import Requests

HERE = Path(__file__).parent


def requests(arrival_s, isl, osl, **more):
    return Requests(np.array(arrival_s, float), np.array(isl), np.array(osl), **more)


def hand_table(max_tokens=64, max_seqs=8):
    """A step costs 1 s; 1 s more a token beyond the first; 0.25 s a cached token of a decoder."""
    tokens, seqs = grid(max_tokens).astype(float), grid(max_seqs).astype(float)
    n = np.arange(max_seqs + 1)[:, None]
    knots = np.array([0, 1000])
    nothing = tokens[:, None] * 0 * knots
    time = Work(tokens=tokens, seqs=seqs * 0, decode=n * knots * 0.25, prefill=nothing)
    return CostTable(
        max_tokens=max_tokens, max_seqs=max_seqs, knots_ctx=knots, knots_past=knots, time_s=time,
        flop=time, hbm_bytes=time, link_bytes=time, energy_j=time, idle_w=0.0, host_step_s=0.0,
        host_seq_s=0.0, n_devices=1, peak_flop_per_s=1.0, peak_hbm_bytes_per_s=1.0, low=1.0,
        high=1.0, sources={},
    )  # fmt: skip


def test_one_request_takes_the_time_one_can_add_up():
    # prompt of 4: 4 s.  Then decode steps with 4, 5, 6 cached tokens: 1 + 0.25 * ctx each
    # = 2, 2.25, 2.5 s.  First token at 1 + 4 = 5 s, the others at 7, 9.25, 11.75 s.
    log = simulate(requests([1.0], [4], [4]), served(hand_table()))
    row = log.requests[0]
    assert row["scheduled_ps"] == 1 * PS
    assert row["first_token_ps"] == 5 * PS
    assert row["done_ps"] == 11.75 * PS
    assert row["max_itl_ps"] == 2.5 * PS
    leap = log.leaps[1]
    assert (leap["n_steps"], leap["first_ps"], leap["slope_ps"]) == (3, 2 * PS, 0.25 * PS)


def test_a_long_prompt_is_computed_in_chunks_beside_decodes():
    # budget 4.  A (prompt 2, 4 tokens) starts at 0: 2 s, first token at 2.  B (prompt 6) came at 1.
    # 2-6.5: A decodes (ctx 2) and B computes 3: 4 tokens, 4 + 0.5 s.  6.5-11.25: A ctx 3, B 3 more:
    # 4.75 s; B has its first token at 11.25.  11.25: both decode, ctx 4 + 6: 2 + 2.5 = 4.5 s.
    log = simulate(
        requests([0.0, 1.0], [2, 6], [4, 2]),
        served(hand_table(), max_num_batched_tokens=4, max_num_seqs=4),
    )
    a, b = log.requests
    assert a["first_token_ps"] == 2 * PS
    assert b["scheduled_ps"] == 2 * PS
    assert b["first_token_ps"] == 11.25 * PS
    assert b["done_ps"] == 15.75 * PS
    assert a["done_ps"] == 15.75 * PS


def test_whole_prompts_make_decodes_wait():
    # prefill first: A's decode at 2 s is put off while B's 6 tokens take 6 s.
    # A: first token 2; its next at 8 + (2 + 0.25 * (2 + 6)) = 12, a gap of 10 s.
    log = simulate(
        requests([0.0, 1.0], [2, 6], [2, 2]), served(hand_table(), batch="prefill_first")
    )
    a, b = log.requests
    assert b["first_token_ps"] == 8 * PS
    assert a["done_ps"] == b["done_ps"] == 12 * PS
    assert a["max_itl_ps"] == 10 * PS
    assert b["max_itl_ps"] == 4 * PS
    gap = log.gaps[0]
    assert (gap["end_ps"], gap["gap_ps"], gap["count"]) == (12 * PS, 10 * PS, 1)


def test_a_static_batch_runs_to_its_end_before_the_next_starts():
    log = simulate(requests([0.0, 0.5], [2, 2], [3, 1]), served(hand_table(), batch="static"))
    a, b = log.requests
    assert b["scheduled_ps"] == a["done_ps"]


def test_a_preempted_request_keeps_its_place_and_recomputes_what_it_knew():
    # 2 blocks of 4.  A and B (prompts of 4) hold one block each; both want a second one for their
    # first decode, so B, admitted last, gives up its block.  It is served again before C.
    log = simulate(
        requests([0.0, 0.0, 0.1], [4, 4, 1], [3, 3, 1]), served(hand_table(), n_blocks=2)
    )
    a, b, c = log.requests
    assert (a["n_preempt"], b["n_preempt"], c["n_preempt"]) == (0, 1, 0)
    assert b["recomputed"] == 4
    assert b["scheduled_ps"] == 0
    assert a["done_ps"] < b["done_ps"]
    assert c["scheduled_ps"] >= a["done_ps"]
    # 8 s for both prompts, A alone with 4 and 5 cached: 2 + 2.25 s; then B computes its 5 tokens,
    # for which it needs both blocks: its second token comes at 8 + 4.25 + 5
    assert a["done_ps"] == 12.25 * PS
    assert b["max_itl_ps"] == 9.25 * PS
    assert c["scheduled_ps"] == b["done_ps"]


def test_a_preempted_request_that_has_outgrown_a_step_is_cut_and_returns():
    # whole prompts of at most 8 tokens a step; B knows 4 + 5 = 9 when it gives up its blocks to A
    pool = served(
        hand_table(max_tokens=8), n_blocks=5, batch="prefill_first", max_num_batched_tokens=8
    )
    log = simulate(requests([0.0, 0.0], [4, 4], [12, 12]), pool)
    assert log.requests["n_preempt"][1] >= 1
    assert list(log.requests["n_out"]) == [12, 12]


def test_blocks_that_no_request_may_touch_keep_late_ones_out():
    # 10 blocks, a tenth kept free: 9 can be used, so a request of 37 tokens (10 blocks) is refused
    pool = served(hand_table(), n_blocks=10, watermark=0.1)
    log = simulate(requests([0.0, 0.0], [36, 30], [2, 2]), pool)
    assert list(log.requests["status"]) == [1, 0]


def test_requests_longer_than_the_model_allows_are_refused_and_counted():
    log = simulate(requests([0.0, 1.0], [20, 5], [20, 5]), served(hand_table(), max_len=30))
    assert list(log.requests["status"]) == [1, 0]
    assert log.requests["replica"][0] == -1
    assert log.n_unfinished == 0


def test_ties_are_taken_in_the_order_of_arrivals_then_boundaries():
    # B arrives at the very moment A's prompt is done: it joins the step that begins then
    log = simulate(requests([0.0, 4.0], [4, 3], [2, 2]), served(hand_table()))
    assert log.requests["scheduled_ps"][1] == 4 * PS


def test_a_request_that_comes_as_a_step_ends_joins_the_next_one():
    # A decodes from 4 to 6, to 8.25, to 10.75 s and so on, leapt over in one; B comes at 6 s sharp
    log = simulate(requests([0.0, 6.0], [4, 3], [9, 2]), served(hand_table()))
    assert log.requests["scheduled_ps"][1] == 6 * PS


def test_a_closed_loop_keeps_its_number_of_requests_in_flight():
    log = simulate(
        requests([0.0] * 6, [2] * 6, [1] * 6), served(hand_table(), max_num_seqs=8), concurrency=2,
        think_s=3.0,
    )  # fmt: skip
    rows = log.requests
    np.testing.assert_array_equal(rows["arrival_ps"][:2], 0)
    # each pair is computed together in 4 s, then both clients think for 3 s
    np.testing.assert_array_equal(rows["arrival_ps"][2:], np.array([7, 7, 14, 14]) * PS)


def test_host_time_comes_before_the_queue_and_in_every_step():
    pool = served(hand_table(), host_request_s=0.5, host_prompt_token_s=0.25, host_step_s=0.0)
    log = simulate(requests([1.0], [2], [1]), pool)
    assert log.requests["arrival_ps"][0] == 1 * PS
    assert log.requests["scheduled_ps"][0] == 2 * PS


def test_a_short_prompt_may_be_ready_before_a_longer_one_that_was_put_in_earlier():
    work = workload(3, 60, rate=60.0, ties=True)
    pool = served(host_request_s=0.01, host_prompt_token_s=2e-3)
    whole = simulate(work, pool).requests
    for size in (1, 7, 40):
        parts = iter([work[k : k + size] for k in range(0, 60, size)])
        np.testing.assert_array_equal(simulate(parts, pool).requests, whole)
        live = Server([pool])
        for k in range(0, 60, size):
            live.advance(float(work.arrival_s[k]))
            live.inject(work[k : k + size])
        live.advance()
        np.testing.assert_array_equal(live.log_so_far().requests, whole)
    ready = work.arrival_s + 2e-3 * work.isl
    assert (np.diff(ready) < 0).sum() > 5


def test_compiled_and_plain_python_write_the_same_log():
    lines = []
    paths = [str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])]
    for jit in ("1", "0"):
        done = subprocess.run(
            [sys.executable, str(HERE / "plain_python.py")],
            env={**os.environ, "FORERUN_JIT": jit, "PYTHONPATH": os.pathsep.join(paths)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        lines.append(done.stdout.splitlines())
    assert len(lines[0]) >= 26
    assert lines[0] == lines[1]


@pytest.mark.parametrize("concurrency", [None, 3])
def test_a_clock_in_the_callers_hands_writes_the_log_of_the_batch_run(concurrency):
    work = workload(5, 40)
    pool = served(table(), replicas=2, n_blocks=30)
    batch = simulate(work, pool, concurrency=concurrency)
    live = Server([pool], concurrency=concurrency)
    if concurrency:
        live.inject(work)
    else:
        for n in range(len(work)):
            live.advance(float(work.arrival_s[n]) - 1e-9)
            live.inject(work[n : n + 1])
    for step in range(30):
        live.advance(max(live.now_s, 0.05 * step))
    live.advance()
    log = live.log_so_far()
    np.testing.assert_array_equal(log.requests, batch.requests)
    np.testing.assert_array_equal(log.replicas, batch.replicas)
    assert log.leaps.tobytes() == batch.leaps.tobytes()


def test_an_aborted_request_leaves_and_frees_what_it_held():
    live = Server([served(hand_table(), max_num_seqs=1)])
    live.inject(requests([0.0, 0.0, 0.0], [4, 4, 4], [10, 10, 1]))
    live.advance(5.0)
    assert live.abort(1)  # waiting: it ends now
    assert live.abort(0)  # running: it ends with its step, at 4 + 2 = 6 s
    assert not live.abort(7)
    live.advance()
    log = live.log_so_far()
    assert list(log.requests["status"]) == [2, 2, 0]
    assert list(log.requests["done_ps"]) == [6 * PS, 5 * PS, 10 * PS]
    assert log.requests["n_out"][0] == 2
    assert log.n_unfinished == 0


def test_a_copy_of_a_run_goes_its_own_way():
    live = Server([served(hand_table(), max_num_seqs=1)])
    live.inject(requests([0.0, 0.0, 0.0], [4, 4, 4], [10, 10, 1]))
    live.advance(5.0)
    assert live.abort(2)  # compiled code knows where the arrays are, and the copy's are elsewhere
    other = copy.deepcopy(live)
    other.abort(0)
    other.advance()
    live.advance()
    assert list(live.log_so_far().requests["status"]) == [0, 0, 2]
    assert list(other.log_so_far().requests["status"]) == [2, 0, 2]


def test_a_run_that_is_cut_lists_what_is_under_way():
    # at 9.5 s: A has tokens at 4, 6, 8.25; B waits; C has not come
    log = simulate(
        requests([0.0, 1.0, 20.0], [4, 4, 4], [9, 9, 9]),
        served(hand_table(), max_num_seqs=1),
        until_s=9.5,
    )
    assert list(log.requests["status"]) == [3, 3]
    assert list(log.requests["first_token_ps"]) == [4 * PS, -1]
    assert log.n_unfinished == 2
    assert log.end_ps == 9.5 * PS


def test_a_trace_longer_than_the_clock_is_refused():
    with pytest.raises(SpecError, match="121 days"):
        simulate(requests([0.0, 121 * 86400.0], [1, 1], [1, 1]), served(hand_table()))


def test_arrivals_cannot_be_put_into_the_past():
    live = Server([served(hand_table())])
    live.advance(5.0)
    with pytest.raises(SpecError, match="before the clock"):
        live.inject(requests([4.0], [1], [1]))


def to_the_last(request, load, params, memory, rng):
    return load.shape[1] - 1


def nowhere(request, load, params, memory, rng):
    return load.shape[1]


def does_not_compile(request, load, params, memory, rng):
    return open("/dev/null")


def never(request, replica, engine, params):
    return 0


def test_a_users_function_is_a_policy():
    pool = served(table(), replicas=3)
    log = simulate(workload(1, 20), pool, policies={"route": to_the_last})
    assert set(log.requests["replica"]) == {2}


def test_a_users_policy_is_found_by_file_and_function():
    policy = Policy(name=f"{__file__}:to_the_last")
    log = simulate(workload(1, 20), served(table(), replicas=3), route=policy)
    assert set(log.requests["replica"]) == {2}


def test_an_impossible_choice_names_the_policy_the_request_and_the_time():
    with pytest.raises(PolicyError, match=r"nowhere: sent request 0 to replica 3 at 0\.0"):
        simulate(workload(1, 20), served(table(), replicas=3), policies={"route": nowhere})
    with pytest.raises(PolicyError, match="1 requests wait, and the step it formed"):
        simulate(workload(1, 20), served(table()), policies={"admit": never})


@pytest.mark.skipif(not JIT, reason="without the compiler any Python runs")
def test_a_policy_that_does_not_compile_is_told():
    with pytest.raises(PolicyError, match="does not compile as a `route` policy"):
        simulate(workload(1, 5), served(table()), policies={"route": does_not_compile})


def test_a_policy_that_cannot_run_is_told_with_its_signature():
    with pytest.raises(PolicyError, match="takes 4 arguments"):
        simulate(workload(1, 5), served(table()), policies={"route": never})
    with pytest.raises(PolicyError, match="did you mean least_outstanding"):
        simulate(workload(1, 5), served(table()), route=Policy(name="least_outstandin"))
    wrong = served(table(), batch={"name": "decode_first", "params": {"size": 1}})
    with pytest.raises(PolicyError, match="no knob 'size'"):
        simulate(workload(1, 5), wrong)


def test_each_pool_follows_its_own_policies():
    pools = [
        served(hand_table(), batch="prefill_first"),
        served(hand_table(), batch={"name": "decode_first", "params": {"chunk_tokens": 3}}),
    ]
    work = requests([0.0, 0.0], [6, 6], [1, 1])
    log = simulate(work, pools, route=Policy(name="round_robin"))
    assert list(log.leaps["n_tokens"][log.leaps["replica"] == 0]) == [6]
    assert list(log.leaps["n_tokens"][log.leaps["replica"] == 1]) == [3, 3]


def test_pipeline_stages_share_the_sequences_and_blocks_of_a_replica():
    pool = served(hand_table(), pp=2, max_num_seqs=5, n_blocks=21)
    log = simulate(requests([0.0] * 12, [4] * 12, [2] * 12), pool)
    assert len(log.replicas) == 2  # one a stage
    assert set(log.replicas["peak_running"]) == {3}
    assert list(log.kv_blocks) == [10]
    assert "bubbles" in log.meta["assumed"][0]


def kv_use(request, load, params, memory, rng):
    return load[4].argmin()  # KV_BLOCKS


kv_use.FRESH = True


def test_a_router_that_asks_for_kv_use_as_of_now_sees_the_same_leapt_or_stepped():
    pool = served(table(), replicas=3, n_blocks=100)
    use = {"route": kv_use}
    logs = [simulate(workload(2, 60), pool, policies=use, leap=leap) for leap in (True, False)]
    np.testing.assert_array_equal(logs[0].requests, logs[1].requests)
    assert len(set(logs[0].requests["replica"])) == 3


def test_log_rows_reach_a_sink_as_they_are_written():
    got = []
    log = simulate(workload(1, 30), served(table()), sink=got.append, log="requests")
    rows = np.concatenate([g.requests for g in got])
    assert sorted(rows["request"]) == list(range(30))
    assert len(log.requests) == 0


def test_routers_spread_as_they_say():
    pool = served(table(), replicas=4, n_blocks=200)
    turns = simulate(workload(1, 40), pool, route=Policy(name="round_robin"))
    np.testing.assert_array_equal(turns.requests["replica"], np.arange(40) % 4)
    work = workload(1, 200)
    sticky = simulate(work, pool, route=Policy(name="session_sticky"))
    for session in range(5):
        assert len(set(sticky.requests["replica"][work.session == session])) == 1
    drawn = simulate(work, pool, route=Policy(name="random"), seed=4)
    counts = np.bincount(drawn.requests["replica"], minlength=4)
    # 200 draws over 4: each within 4 standard deviations (sqrt(200 * 3 / 16) = 6.1) of 50
    assert (abs(counts - 50) < 25).all()
    assert OUTSTANDING == 0


def test_a_hash_is_the_same_compiled_and_plain_whatever_the_sign():
    from numba import int64

    from forerun.sim.core import rng
    from forerun.sim.core.jit import JIT, jit

    if not JIT:
        pytest.skip("nothing is compiled under FORERUN_JIT=0")
    compiled = jit(signature=int64(int64))(rng.scattered.py_func)
    mixed = rng._mixed.py_func
    for n in (-(2**63), -5, -1, 0, 1, 2**40, 2**63 - 1):
        with np.errstate(over="ignore"):
            plain = np.int64(mixed(np.uint64(np.int64(n)) + rng._STEP) >> np.uint64(1))
        assert compiled(n) == plain >= 0
