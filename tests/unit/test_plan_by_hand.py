"""Parts of a plan, beside what is known by hand."""

from dataclasses import replace

import numpy as np
import pytest
from small_plans import one_at_a_time

from forerun import catalog
from forerun.cost.table import Work
from forerun.plan import bounds, evaluate
from forerun.plan.evaluate import loosened
from forerun.plan.lower import lower_bound
from forerun.plan.seek import capacity, search_one
from forerun.plan.seek import least_replicas as least
from forerun.sim.core.rows_log import DONE
from forerun.spec.deployment import Pool
from forerun.spec.requests import Requests
from forerun.spec.slo import Slo


def test_two_device_types_take_the_replicas_that_their_rates_ask_for():
    slow, quick = one_at_a_time(0.010, device="slow"), one_at_a_time(0.005, device="quick")
    assert search_one(slow).met_at == 3
    assert search_one(quick).met_at == 2
    # at 1.5 times the step: 66.7 a second each take 4, 133 a second take 2
    assert search_one(slow).safe_at == 4
    assert search_one(quick).safe_at == 2


def test_a_bound_starts_the_search_next_to_its_end():
    # 396 good requests of 10 ms in 399 * 4 ms + 21 ms, a tenth taken off for the optimistic end
    lanes = 0.9 * 396 * 0.010 / (399 * 0.004 + 0.021)
    assert lanes == pytest.approx(2.2, abs=0.01)
    assert one_at_a_time(0.010, device="slow").ready.least == 3


def test_capacity_is_the_rate_at_which_the_queue_starts_to_grow():
    # 3 replicas of 100 a second; the last of 400 requests may have queued 11 ms by then
    bench = one_at_a_time(0.010, device="slow")
    rate, is_least = capacity(bench, 3)
    assert not is_least
    assert 294 <= rate <= 306


def test_the_step_times_at_the_pessimistic_end_are_simulated():
    bench = one_at_a_time(0.010, device="slow")
    assert bench.tails(4, time_factor=1.5).ttft_p99_s == pytest.approx(0.015, abs=0.002)


def test_a_slower_device_is_slower_beside_chunks_too():
    table = replace(
        one_at_a_time(0.010, device="slow").ready.served.table,
        mixed_decode=np.array([[0.0], [0.004]]), mixed_cross_s=0.001, eager_s=0.002,
    )  # fmt: skip
    twice = evaluate.slowed(table, 2.0)
    assert twice.mixed_decode[1, 0] == 0.008
    assert twice.mixed_cross_s == 0.002
    assert twice.time_s.tokens[1] == 0.020
    assert twice.eager_s == 0.002
    assert evaluate.slowed(replace(table, mixed_decode=None), 2.0).mixed_decode is None


def test_the_least_work_takes_every_part_at_its_best_batch():
    # tokens: 4 at once cost 1 each; samples: 2 at once 0.5 each; decode: best per request is
    # 3 without context and 5 at 10 tokens, so 0.2 more a token, both below half a token's 12
    time = Work(
        tokens=12 * np.array([0.0, 2.0, 3.0, 4.0, 4.0]),
        seqs=np.array([0.0, 1.0, 1.0]),
        decode=np.array([[0.0, 0.0], [4.0, 5.0], [6.0, 14.0]]),
        prefill=np.zeros((5, 2)),
    )
    costs = replace(
        one_at_a_time(1.0, device="hand").ready.served.table,
        max_tokens=4, max_seqs=2, knots_ctx=np.array([0, 10]), time_s=time,
    )  # fmt: skip
    found = bounds.least(costs, time)
    assert (found.token, found.sample, found.decode, found.context) == (12.0, 0.5, 3.0, 0.2)
    r = Requests(np.zeros(1), np.array([3]), np.array([3]))
    assert found.prompts(r.isl)[0] == 3 * 12 + 0.5
    # five tokens, three samples, two decodes after 3 and 4 tokens
    assert found.whole(r, r.isl)[0] == pytest.approx(5 * 12 + 3 * 0.5 + 2 * 3 + 7 * 0.2)


def test_a_prompt_alone_takes_one_step_or_two():
    # four tokens in one step take 100; in two steps 2 * 24 at least; the optimistic end is 0.9
    time = Work(
        tokens=np.array([0.0, 24.0, 24.0, 24.0, 100.0]), seqs=np.array([0.0, 2.0]),
        decode=np.array([[0.0], [1.0]]), prefill=np.zeros((5, 1)),
    )  # fmt: skip
    costs = replace(
        one_at_a_time(1.0, device="hand").ready.served.table, max_tokens=4, time_s=time,
        host_step_s=3.0, host_seq_s=0.5,
    )  # fmt: skip
    r = Requests(np.zeros(2), np.array([4, 2]), np.array([3, 1]))
    found = bounds.alone(costs, r.isl)
    assert found.ttft_s == pytest.approx([0.9 * (48 + 2) + 3.5, 0.9 * (24 + 2) + 3.5])
    assert found.step_s == pytest.approx(0.9 * (24 + 2 + 1) + 3.5)
    assert np.isnan(found.latencies(r)["tpot_s"][1])


def test_a_perfect_system_by_hand():
    """1000 tokens in, 101 out, 10 requests a second for 100 s, all done 10 s after the last.

    llama-3.1-8b multiplies 8.03e9 - 0.53e9 weights (embedding read, not multiplied) a token, of
    which 0.53e9 once a sample; attention adds 4 * 32 layers * 4096 * context / 2 a prompt token.
    """
    slo = Slo(ttft_s=1.0, tpot_s=0.09, attainment=1.0)
    n, rate = 1001, 10.0
    r = Requests(np.arange(n) / rate, np.full(n, 1000), np.full(n, 101))
    found = lower_bound(catalog.model("llama-3.1-8b"), Pool(device="l40s"), r, slo, 2.0)
    per_s = n / (100 + 1 + 0.09 * 100)
    flop = 1100 * 2 * 6.98e9 + 101 * 2 * 0.525e9
    attention = 4 * 32 * 4096 * (100 * 1000 + 4950)  # of decoded tokens
    assert found.by_limit["flop"] == pytest.approx(per_s * (flop + attention) / 362.05e12, rel=0.02)
    # cache of 131,072 B a token, held for the time that reading 15 GB of weights takes
    kv = (100 * 1000 + 4950) * 131072 * (15.0e9 / 864e9)
    assert found.by_limit["kv"] == pytest.approx((per_s * kv / (46068 * 2**20)) ** 0.5, rel=0.02)
    assert found.by_limit["weights"] == pytest.approx(16.06e9 / (46068 * 2**20), rel=0.01)
    assert found.usd_per_hour == 2.0 * found.devices


def test_doubling_and_bisection_find_the_least():
    for first in (1, 3):
        for answer in range(first, 40):
            for most in (answer, answer + 1, 100):
                asked = []

                def meets(n, answer=answer, asked=asked):
                    asked.append(n)
                    return n >= answer

                assert least(meets, first, most, linear=False) == answer
                assert max(asked) <= most
    assert least(lambda n: False, 2, 37, linear=False) is None
    assert least(lambda n: n >= 38, 2, 37, linear=False) is None


def test_a_loosened_bound_is_the_smallest_that_does():
    rows = np.zeros(4, dtype=DONE)
    rows["first_token_ps"] = np.array([1, 2, 3, 4]) * 10**12
    rows["done_ps"] = rows["first_token_ps"] + 10**12
    rows["n_out"] = 2
    # three of four: the third ttft is 3 s; every tpot is 1 s
    assert loosened(rows, Slo(ttft_s=1, tpot_s=1, attainment=0.75)) == ({"ttft_s": 3.0}, 3.0)
    assert loosened(rows, Slo(ttft_s=1, tpot_s=0.5, attainment=0.75)) == ({}, 3.0)
