"""Laws of the request core, on random small cases."""

from __future__ import annotations

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from naive import Item, Naive
from serving import PS, served, simulate, table, token_times, workload

from forerun.sim import tables as table_arrays
from forerun.spec.deployment import Policy

BATCHES = ("chunked", "decode_first", "prefill_first", "whole", "static")
ORDERS = ("fcfs", "priority", "shortest_prompt", "earliest_deadline")
ROUTES = ("round_robin", "random", "least_outstanding", "power_of_two", "session_sticky")

cases = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 10_000),
        "n": st.integers(1, 60),
        "rate": st.sampled_from([3.0, 20.0, 60.0, 400.0]),
        "ties": st.booleans(),
        "batch": st.sampled_from(BATCHES),
        "order": st.sampled_from(ORDERS),
        "preempt": st.sampled_from(["last_admitted", "lowest_priority"]),
        "route": st.sampled_from(ROUTES),
        "replicas": st.integers(1, 3),
        "n_blocks": st.sampled_from([19, 24, 40, 200]),
        "max_num_seqs": st.sampled_from([1, 2, 5, 16]),
        "reserve": st.sampled_from(["chunk", "prompt", "full"]),
        "watermark": st.sampled_from([0.0, 0.05]),
        "concurrency": st.sampled_from([None, None, 1, 4]),
        "eager": st.sampled_from([0.0, 0.0, 4e-3, 20e-3]),
        "tokens": st.sampled_from([16, 23, 64]),
    }
)
quick = settings(
    max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True
)


def budget(case):
    """Tokens of a step: few, so that prompts are cut, unless they must be whole."""
    return case["tokens"] if case["batch"] in ("chunked", "decode_first") else 64


def pool_of(case):
    keys = ("batch", "order", "preempt", "max_num_seqs", "reserve", "watermark")
    return served(
        table(eager=case["eager"]),
        replicas=case["replicas"],
        n_blocks=case["n_blocks"],
        max_num_batched_tokens=budget(case),
        **{k: case[k] for k in keys},
    )


def log_of(case, **more):
    requests = workload(case["seed"], case["n"], rate=case["rate"], ties=case["ties"])
    return simulate(
        requests,
        pool_of(case),
        route=Policy(name=case["route"]),
        concurrency=case["concurrency"],
        seed=case["seed"],
        **more,
    )


@given(cases)
@quick
def test_a_leap_equals_its_steps_bit_for_bit(case):
    leapt, stepped = log_of(case), log_of(case, leap=False)
    np.testing.assert_array_equal(leapt.requests, stepped.requests)
    np.testing.assert_array_equal(leapt.replicas, stepped.replicas)
    assert leapt.end_ps == stepped.end_ps
    assert token_times(leapt) == token_times(stepped)
    assert stepped.leaps["n_steps"].max() == 1


@given(cases)
@quick
def test_requests_tokens_and_time_are_conserved(case):
    log = log_of(case)
    rows = log.requests
    assert len(rows) == case["n"]
    assert log.n_unfinished == 0
    done = rows[rows["status"] == 0]
    refused = rows[rows["status"] == 1]
    assert len(done) + len(refused) == case["n"]
    np.testing.assert_array_equal(done["n_out"], done["osl"])
    assert log.replicas["n_out"].sum() == done["osl"].sum()
    computed = (done["isl"] + done["osl"] - 1 + done["recomputed"]).sum()
    assert log.replicas["n_tokens"].sum() == computed
    assert (log.leaps["n_tokens"].astype(int) * log.leaps["n_steps"]).sum() == computed
    # each request's gaps add up to the time from its first to its last token
    gaps = sum(sum(g) for g in token_times(log).values())
    assert gaps == (done["done_ps"] - done["first_token_ps"]).sum()
    count = sum(len(g) for g in token_times(log).values())
    assert count == (done["osl"] - 1).sum()


@given(cases)
@quick
def test_causes_come_before_effects_and_memory_is_never_exceeded(case):
    log = log_of(case)
    done = log.requests[log.requests["status"] == 0]
    assert (done["arrival_ps"] <= done["scheduled_ps"]).all()
    assert (done["scheduled_ps"] < done["first_token_ps"]).all()
    assert (done["first_token_ps"] <= done["done_ps"]).all()
    assert (done["max_itl_ps"] <= done["done_ps"] - done["first_token_ps"]).all()
    assert (log.replicas["peak_blocks"] <= log.kv_blocks[log.pool_of_replica]).all()
    assert (log.leaps["n_blocks"] <= case["n_blocks"]).all()
    assert (log.leaps["n_running"] <= case["max_num_seqs"]).all()
    for replica in range(case["replicas"]):
        leaps = log.leaps[log.leaps["replica"] == replica]
        k = leaps["n_steps"].astype(np.int64)
        ends = leaps["start_ps"] + k * leaps["first_ps"] + leaps["slope_ps"] * (k * (k - 1) // 2)
        assert (leaps["start_ps"][1:] >= ends[:-1]).all()  # one step at a time
        assert (ends - leaps["start_ps"]).sum() == log.replicas["busy_ps"][replica]


@given(cases)
@quick
def test_the_same_seed_gives_the_same_bytes(case):
    one, two = log_of(case), log_of(case)
    assert one.requests.tobytes() == two.requests.tobytes()
    assert one.leaps.tobytes() == two.leaps.tobytes()
    assert one.gaps.tobytes() == two.gaps.tobytes()


def cost_of(costs, pool):
    """The step's time from the integer tables, evaluated the plain way."""
    arrays = table_arrays.arrays([costs])
    knots = [int(k) for k in costs.knots_ctx]
    host, a_seq = round(costs.host_step_s * PS), round(costs.host_seq_s * PS)

    def piece(values, slopes, argument, width):
        k = max(j for j in range(len(knots)) if knots[j] * width <= argument)
        return int(values[k]) + (argument - knots[k] * width) * int(slopes[k])

    def cost(n_tokens, n_seqs, contexts, chunks):
        time = 0
        time += int(arrays["tokens_ps"][0, n_tokens]) + int(arrays["seqs_ps"][0, n_seqs])
        if contexts:
            n = len(contexts)
            time += piece(arrays["decode_ps"][0, n], arrays["decode_slope"][0, n], sum(contexts), n)
        for q, past in chunks:
            time += piece(arrays["prefill_ps"][0, q], arrays["prefill_slope"][0, q], past, 1)
        if chunks:
            time = max(time, round(costs.eager_s * PS))
        return time + host + a_seq * n_seqs

    return cost


naive_cases = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 100_000),
        "n": st.integers(1, 40),
        "rate": st.sampled_from([5.0, 40.0, 300.0]),
        "ties": st.booleans(),
        "batch": st.sampled_from(["chunked", "prefill_first", "whole", "static"]),
        "order": st.sampled_from(["fcfs", "priority", "shortest_prompt"]),
        "n_blocks": st.sampled_from([19, 23, 31, 60]),
        "max_num_seqs": st.sampled_from([1, 3, 16]),
        "reserve": st.sampled_from(["chunk", "prompt", "full"]),
        "watermark": st.sampled_from([0.0, 0.05]),
        "tokens": st.sampled_from([16, 23, 64]),
        "eager": st.sampled_from([0.0, 4e-3, 20e-3]),
    }
)


@given(naive_cases)
@settings(
    max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
def test_the_core_agrees_with_a_naive_simulator(case):
    costs = table(eager=case["eager"])
    pool = pool_of({**case, "preempt": "last_admitted", "replicas": 1})
    requests = workload(case["seed"], case["n"], rate=case["rate"], ties=case["ties"])
    log = simulate(requests, pool)
    watermark = int(case["watermark"] * case["n_blocks"])
    arrival = table_arrays.picoseconds(requests.arrival_s)
    items = [
        Item(n, int(arrival[n]), int(requests.isl[n]), int(requests.osl[n]),
             int(requests.priority[n]))
        for n in range(case["n"])
    ]  # fmt: skip
    possible = [r for r in items if -(-(r.isl + r.osl - 1) // 4) <= case["n_blocks"] - watermark]
    naive = Naive(
        possible,
        cost_of(costs, pool),
        batch=case["batch"],
        order=case["order"],
        max_seqs=case["max_num_seqs"],
        max_tokens=budget(case),
        n_blocks=case["n_blocks"],
        b=4,
        watermark=watermark,
        reserve=case["reserve"],
    )
    for r in naive.run():
        row = log.requests[r.n]
        assert row["request"] == r.n
        told = {
            "scheduled_ps": r.scheduled,
            "first_token_ps": r.first,
            "done_ps": r.done,
            "n_preempt": r.preemptions,
            "recomputed": r.recomputed,
            "max_itl_ps": r.longest,
        }
        assert {k: int(row[k]) for k in told} == told, f"request {r.n}"
    assert int(log.replicas["peak_blocks"][0]) == case["n_blocks"] - naive.least_free
    gaps = sorted(gap for r in possible for gap in r.gaps)
    assert token_times(log).get(0, []) == gaps
    rejected = {int(n) for n in log.requests["request"][log.requests["status"] == 1]}
    assert rejected == {r.n for r in items} - {r.n for r in possible}
