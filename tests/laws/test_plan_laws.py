"""What holds of every plan: bounds are bounds, and more never costs more."""

import numpy as np
import pytest
from fleets import sharing
from hypothesis import given, settings
from hypothesis import strategies as st
from serving import served, table, workload

from forerun import catalog
from forerun.plan import bounds
from forerun.plan.evaluate import Bench
from forerun.plan.provenance import price_of
from forerun.plan.screen import Pruned, Ready, least_replicas, screen
from forerun.plan.search import plan
from forerun.plan.space import ROUTE, Candidate, candidates
from forerun.plan.store import Store
from forerun.sim.serve import run
from forerun.spec.case import Case
from forerun.spec.requests import Requests
from forerun.spec.slo import Slo
from forerun.spec.traces.draw import requests_of

STORE = Store()  # points of all plans here: the same runs are asked for again and again


def case(fleet, slo, *, rate=12, n=250, model="llama-3.1-8b", **changes):
    values = {
        "model": model,
        "fleet": fleet,
        "traffic": {
            "rate_per_s": rate, "n_requests": n,
            "isl": {"kind": "lognormal", "mean": 700, "cv": 1, "high": 8000},
            "osl": {"kind": "lognormal", "mean": 120, "cv": 0.8, "high": 1500},
        },
        "slo": slo,
    }  # fmt: skip
    return Case.model_validate(values | changes)


GOOD = {"ttft_s": 0.6, "tpot_s": 0.05, "attainment": 0.95}


def cost(answer):
    return answer.best.usd_per_hour if answer.best else float("inf")


def test_more_devices_never_make_a_plan_dearer():
    fleets = [{"l40s": n} for n in range(1, 7)]
    fleets += [{"l40s": 6, "l4": n} for n in (2, 8)]
    fleets += [{"l40s": 6, "l4": 8, "h100-sxm": n} for n in (1, 2)]
    costs = [cost(plan(case(fleet, GOOD), store=STORE, top=1)) for fleet in fleets]
    assert costs[0] == float("inf")
    assert costs[-1] < float("inf")
    assert costs == sorted(costs, reverse=True)


@pytest.mark.parametrize("term", ["ttft_s", "tpot_s", "attainment"])
def test_a_looser_slo_never_makes_a_plan_dearer(term):
    steps = {
        "ttft_s": [0.05, 0.1, 0.2, 0.4, 0.8, 3.0],
        "tpot_s": [0.005, 0.01, 0.02, 0.04, 0.08, 0.3],
        "attainment": [1.0, 0.99, 0.95, 0.8, 0.5],
    }[term]
    fleet = {"l40s": 8, "h100-sxm": 4, "l4": 8}
    costs = [
        cost(plan(case(fleet, GOOD | {term: step}), store=STORE, top=1)) for step in steps
    ]  # fmt: skip
    assert costs == sorted(costs, reverse=True)
    assert len(set(costs)) > 1


SLOS = [
    GOOD,
    {"ttft_s": 0.06, "attainment": 0.9},
    {"ttft_s": 0.3, "tpot_s": 0.012, "attainment": 0.9},
    {"e2el_s": 2.0, "attainment": 0.8},
    {"ttft_s": 2.0, "itl_s": 0.03, "attainment": 0.6},
]


@pytest.mark.parametrize("slo", SLOS)
@pytest.mark.parametrize("model", ["llama-3.1-8b", "qwen3-30b-a3b", "gemma-3-12b"])
def test_nothing_that_was_pruned_meets_the_slo(slo, model):
    asked = case({"l40s": 3, "h100-sxm": 2, "l4": 8, "t4": 4}, slo, rate=25, model=model)
    requests = requests_of(asked.traffic, seed=0)
    pruned = 0
    for candidate in candidates(asked):
        found = screen(candidate, catalog.model(model), requests, asked.slo, asked.budget, 1.0)
        ready = found if isinstance(found, Ready) else found.ready
        if ready is None or candidate.most < 1:
            continue
        bench = Bench(ready, requests, asked.slo, 0, STORE)
        if isinstance(found, Pruned):
            assert not bench.judge(candidate.most).met, found.sentence
            pruned += 1
        for n in range(1, min(ready.least, candidate.most + 1)):
            assert not bench.judge(n).met, f"{candidate.name}: {n} of at least {ready.least}"
    if slo is not GOOD and model != "qwen3-30b-a3b":  # few active parameters: all may do
        assert pruned


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    rate=st.floats(20, 2000),
    ttft=st.floats(0.004, 0.5),
    tpot=st.one_of(st.none(), st.floats(0.002, 0.02)),
    attainment=st.floats(0.3, 1.0),
    policy=st.sampled_from(["chunked", "prefill_first", "decode_first"]),
    n_blocks=st.sampled_from([24, 64, 400]),
    kept=st.booleans(),
)
def test_bounds_hold_for_any_table_and_traffic(
    seed, rate, ttft, tpot, attainment, policy, n_blocks, kept
):
    draw = np.random.default_rng(seed)
    costs = table(flat=draw.uniform(1e-4, 4e-3), token=draw.uniform(1e-6, 2e-4),
                  ctx=draw.uniform(0, 5e-6))  # fmt: skip
    r = sharing(seed, 120, rate=rate) if kept else workload(seed, 120, rate=rate)
    slo = Slo(ttft_s=ttft, tpot_s=tpot, attainment=attainment)
    one = served(costs, n_blocks=n_blocks, batch=policy)
    least = least_replicas(one, r, slo)
    bench = Bench(Ready(Candidate(one.pool, ROUTE, 64), one, 1), r, slo, 0, Store())
    new = bounds.computed(r, kept)
    possible = bounds.reachable(slo, bounds.alone(costs, new).latencies(r)).sum()
    for n in {1, max(1, least - 1), least, 2 * least}:
        verdict = bench.judge(n)
        if verdict.met:
            assert n >= least
            assert possible >= bounds.needed(slo, len(r))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), n_blocks=st.sampled_from([24, 64, 400]), kept=st.booleans())
def test_the_least_work_is_less_than_what_the_core_spends(seed, n_blocks, kept):
    draw = np.random.default_rng(seed)
    costs = table(flat=draw.uniform(1e-4, 4e-3), token=draw.uniform(1e-6, 2e-4),
                  ctx=draw.uniform(0, 5e-6))  # fmt: skip
    r = sharing(seed, 80, rate=300) if kept else workload(seed, 80, rate=300)
    log = run(r, [served(costs, n_blocks=n_blocks)], hash_tokens=r.hash_tokens)
    done = np.isin(np.arange(len(r)), log.requests["request"][log.requests["n_out"] > 0])
    new = bounds.computed(r, kept)
    least = bounds.least(costs, costs.time_s, kept=kept).whole(r, new)[done].sum()
    assert least <= log.replicas["busy_ps"].sum() * 1e-12


def test_tokens_that_nobody_else_has_are_computed_whatever_is_kept():
    """Blocks of 4 tokens; the second request begins as the first does, the third with a block of
    its own."""
    r = Requests(
        np.arange(3.0), np.array([10, 9, 8]), np.ones(3, dtype=int),
        block_hashes=np.array([1, 2, 3, 1, 2, 4, 5, 2]), block_starts=np.array([0, 3, 6, 8]),
        hash_tokens=4,
    )  # fmt: skip
    assert bounds.computed(r, True).tolist() == [2, 1, 8]
    assert bounds.computed(r, False).tolist() == [10, 9, 8]


def test_a_plan_keeps_prefixes_and_needs_less_for_it():
    slo = {"ttft_s": 8.0, "tpot_s": 0.1, "attainment": 0.9}
    drawn = {"trace": "long_context", "rate_per_s": 6, "n_requests": 300}
    costs = {}
    for kept in (True, False):
        wishes = {"pools": [{"device": "h100-sxm", "engine": {"prefix_caching": kept}}]}
        asked = case({"h100-sxm": 24}, slo, traffic=drawn, deployment=wishes)
        costs[kept] = plan(asked, store=STORE, top=1).best.n_devices
    assert costs[True] < costs[False]


@pytest.mark.parametrize("slo", SLOS)
@pytest.mark.parametrize("rate", [2, 30])
def test_a_perfect_system_never_takes_more_than_a_plan(slo, rate):
    fleet = {"l40s": 32, "h100-sxm": 16, "a100-sxm-80gb": 16}
    answer = plan(case(fleet, slo, rate=rate), store=STORE, top=1)
    by_device = {one.device: one for one in answer.lower}
    assert answer.choices
    for choice in answer.choices:
        assert by_device[choice.candidate.device].devices <= choice.n_devices
    assert answer.lower_bound.usd_per_hour <= answer.best.usd_per_hour
    assert answer.gap >= 1


def test_a_run_stopped_as_hopeless_is_hopeless():
    """The verdict of a run that is watched is that of the whole run."""
    # tens are in flight at any time, seven may miss
    asked = case({"l40s": 2}, {"ttft_s": 2.0, "attainment": 0.9989}, rate=40, n=6000)
    requests = requests_of(asked.traffic, seed=0)
    candidate = candidates(asked)[0]
    ready = screen(candidate, catalog.model(asked.model), requests, asked.slo, asked.budget, None)
    ready = ready if isinstance(ready, Ready) else ready.ready
    stopped = 0
    for n in range(1, 8):
        verdict = Bench(ready, requests, asked.slo, 0, Store()).judge(n)
        whole = Bench(ready, requests, asked.slo, 0, Store()).tails(n)
        assert verdict.met == whole.met
        assert verdict.attainment == whole.attainment or not verdict.whole
        assert verdict.attainment >= whole.attainment
        stopped += not verdict.whole
    assert 0 < stopped < 7


def test_a_price_of_zero_is_a_price():
    free = case({"l40s": {"count": 4, "price_usd_per_hour": 0.0}, "h100-sxm": 2}, GOOD)
    assert price_of(free, "l40s") == 0.0
    assert plan(free, store=STORE, top=1).best.candidate.device == "l40s"
