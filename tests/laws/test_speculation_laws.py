"""Laws of speculation: proposals are work, accepted tokens are extra, everything else stays."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from fleets import assert_laws, both_ways, pool, serve, sharing, troubles
from serving import PS, table, workload
from speculating import kinds, speculating, verified

from forerun.errors import PolicyError, SpecError
from forerun.metrics.gaps import itl
from forerun.sim.core.speculate import RECENT
from forerun.sim.speculation import quantiles
from forerun.sim.tiers import Tier
from forerun.spec.requests import Requests
from forerun.spec.speculation import Acceptance


def requests_of(n=1, isl=8, osl=41, at=0.0, acceptance=None):
    """n equal requests that come together."""
    return Requests(np.full(n, at), np.full(n, isl), np.full(n, osl), acceptance=acceptance)


def answer(requests, one, **settings):
    return serve(requests, [one], **settings).log_so_far()


def logged(log):
    """Every byte of a log."""
    return b"".join(rows.tobytes() for rows in (log.requests, log.leaps, log.gaps, log.replicas))


def test_a_leap_equals_stepping_while_tokens_are_proposed():
    accepted = lost = 0
    for seed in range(6):
        requests = sharing(seed, 50, isl=60, ties=seed % 2 == 0)
        for pools in kinds(n_blocks=30).values():
            leapt = both_ways(serve, requests, pools, seed=seed)
            log = assert_laws(leapt, requests)
            accepted += log.replicas["n_extra"].sum()
            lost += log.replicas["n_preempt"].sum()
    assert accepted > 5000
    assert lost > 50  # memory is tight enough to tell something


def test_a_leap_equals_stepping_whatever_happens_to_a_fleet_that_speculates():
    for seed in range(6):
        requests = sharing(seed, 50, isl=60, ties=seed % 2 == 1)
        for pools in kinds(n_blocks=30).values():
            orders = troubles(seed, pools)
            leapt = both_ways(serve, requests, pools, commands=orders, seed=3)
            assert_laws(leapt, requests)


def test_a_leap_equals_stepping_with_proposals_and_tiers_of_kv():
    tiers = (
        Tier("dram", 160e3, 4e6, 1e-4),
        Tier("pool", 400e3, 1e6, 1e-3, shared_by="fleet", total_bytes_per_s=2e6),
    )
    swapped = 0
    for seed in range(4):
        requests = sharing(seed, 50, isl=60, rate=80)
        for name, pools in kinds(n_blocks=30, preemption="swap").items():
            if name == "static":
                continue  # stuck with swap, proposals or not
            orders = troubles(seed, pools) if seed % 2 else ()
            leapt = both_ways(serve, requests, pools, commands=orders, tiers=tiers)
            assert_laws(leapt, requests)
            swapped += leapt._state.stores.swap_tokens.sum()
    assert swapped > 0


def test_nothing_proposed_writes_the_log_of_an_engine_that_does_not_speculate():
    requests = sharing(4, 60, isl=60)
    plain = logged(answer(requests, pool(replicas=2, n_blocks=26)))
    never = speculating(k=0, replicas=2, n_blocks=26)
    asked = speculating(kind="ngram", params={"k": 0}, replicas=2, n_blocks=26)
    assert logged(answer(requests, never)) == plain
    assert logged(answer(requests, asked)) == plain


def test_the_same_seed_writes_the_same_bytes_and_another_one_does_not():
    requests = sharing(4, 60, isl=60)
    one, again, other = (
        logged(answer(requests, speculating(replicas=2), seed=seed)) for seed in (1, 1, 2)
    )
    assert one == again
    assert one != other


@pytest.mark.parametrize("k", [1, 2, 3, 7])
def test_certain_acceptance_takes_a_step_for_every_k_plus_one_tokens(k):
    for osl in (1, 2, 9, 40, 41):
        log = answer(requests_of(osl=osl), speculating(k=k, acceptance=1.0))
        steps = log.replicas["n_steps"][0] - 1  # the prompt's
        assert steps == -(-(osl - 1) // (k + 1))
        assert log.requests["n_extra"][0] == osl - 1 - steps


def test_acceptance_that_never_comes_gives_a_token_a_step():
    log = answer(requests_of(osl=41), speculating(acceptance=0.0))
    assert log.requests["n_extra"][0] == 0
    assert log.replicas["n_steps"][0] == 41
    # the last step wants one token, the one before two, the one before that three
    assert log.requests["n_drafted"][0] == 37 * 3 + 2 + 1


@pytest.mark.parametrize(("alpha", "k"), [(0.3, 2), (0.7, 4), (0.9, 7)])
def test_accepted_tokens_of_a_round_follow_the_geometric_law(alpha, k):
    """A round gives 1 + a tokens, on average (1 - alpha**(k + 1)) / (1 - alpha)."""
    one = speculating(k=k, acceptance=alpha, n_blocks=4000)
    log = answer(requests_of(16, osl=600), one)
    rounds = log.leaps[(log.leaps["n_draft"] == k * log.leaps["n_decode"])]
    n = rounds["n_decode"].sum()
    mean = rounds["n_extra"].sum() / n
    p = np.array([alpha**a * (1 - alpha if a < k else 1) for a in range(k + 1)])
    expected, square = (p * np.arange(k + 1)).sum(), (p * np.arange(k + 1) ** 2).sum()
    assert expected == pytest.approx((1 - alpha ** (k + 1)) / (1 - alpha) - 1)
    assert abs(mean - expected) < 3.5 * ((square - expected**2) / n) ** 0.5


def test_a_tree_is_right_where_any_of_its_branches_is():
    one = speculating(k=None, tree=(3, 2), acceptance=0.5, n_blocks=4000)
    log = answer(requests_of(16, osl=600), one)
    whole = log.leaps[log.leaps["depth"] == 2]
    whole = whole[whole["n_draft"] == 9 * whole["n_decode"]]  # 3 tokens, 2 below each
    first, second = 1 - 0.5**3, 1 - 0.5**2
    mean = whole["n_extra"].sum() / whole["n_decode"].sum()
    assert mean == pytest.approx(first + first * second, rel=0.03)


def test_what_is_right_belongs_to_the_request_and_not_to_its_batch():
    requests = workload(3, 40, isl=40, osl=30)
    for limit in ({"max_num_seqs": 1}, {"batch": "prefill_first"}, {"replicas": 3}):
        a = answer(requests, speculating(n_blocks=400)).requests
        b = answer(requests, speculating(n_blocks=400, **limit)).requests
        np.testing.assert_array_equal(a["n_extra"], b["n_extra"])
        np.testing.assert_array_equal(a["n_drafted"], b["n_drafted"])


def test_requests_bring_their_own_chances_before_those_of_the_engine():
    log = answer(
        requests_of(3, osl=41, acceptance=np.array([1.0, 0.0, -1.0])),
        speculating(acceptance=1.0, n_blocks=400),
    )
    assert log.requests["n_extra"].tolist() == [30, 0, 30]


def test_chances_by_position_and_their_decay_are_those_that_were_given():
    for given in ([1.0, 0.0], {"alpha": 1.0, "decay": 1e-12}):
        log = answer(requests_of(osl=41), speculating(k=3, acceptance=given))
        full = log.leaps[log.leaps["n_draft"] == 3]
        assert (full["n_extra"] == 1).all()
        assert len(full)


def test_quantiles_are_those_of_the_distribution():
    beta = quantiles(Acceptance(beta=(6, 2)))
    middle = (beta[1:] + beta[:-1]) / 2
    assert middle.mean() == pytest.approx(6 / 8, abs=1e-3)
    assert middle.var() == pytest.approx(6 * 2 / (8**2 * 9), rel=0.02)
    assert (np.diff(beta) >= 0).all()
    assert quantiles(Acceptance(requests=(0.2, 0.8)))[[0, 2048, 4096]].tolist() == [0.2, 0.5, 0.8]
    assert (quantiles(Acceptance(alpha=0.6)) == 0.6).all()


def flat(time_s, *, draft_s, growth=0.0):
    """A pool whose steps take time_s whatever is in them, and its draft's passes draft_s."""

    def plain(seconds):
        costs = table(flat=seconds, token=0.0, ctx=0.0)
        work = replace(costs.time_s, seqs=0 * costs.time_s.seqs)
        return replace(costs, time_s=work, host_step_s=0.0, host_seq_s=0.0)

    one = speculating(k=4, acceptance=0.8, costs=plain(time_s), growth=growth, n_blocks=4000)
    draft = verified(plain(draft_s), growth=growth)
    return replace(one, table=replace(one.table, draft=draft))


def test_the_speedup_is_leviathans_where_verifying_is_free():
    """(1 - alpha**(k + 1)) / ((1 - alpha)(c k + 1)), for a draft that takes c of a step.

    Source: Leviathan, Kalman and Matias, Fast Inference from Transformers via Speculative Decoding,
    ICML 2023, theorem 3.8.
    """
    requests = requests_of(osl=8001)
    alpha, k = 0.8, 4
    for c in (0.0, 0.05, 0.3):
        row = answer(requests, flat(1e-3, draft_s=c * 1e-3)).requests[0]
        speedup = 8000e-3 / ((row["done_ps"] - row["first_token_ps"]) / PS)
        assert speedup == pytest.approx(
            (1 - alpha ** (k + 1)) / ((1 - alpha) * (c * k + 1)), rel=0.03
        )


def test_a_step_that_verifies_takes_what_its_parts_take():
    log = answer(requests_of(2, isl=8, osl=9), speculating(k=2, acceptance=0.0))
    step = log.leaps[1]
    assert (step["n_decode"], step["n_draft"], step["depth"], step["n_tokens"]) == (2, 4, 2, 6)
    t, d = table(), table(flat=2e-4, token=1e-5, ctx=3e-7)
    # 6 tokens computed and sampled at; attention of 3 queries is 1 + 0.2 x 2 that of one
    own = t.time_s.tokens[6] + t.time_s.seqs[6] + 1.4 * 2 * 8 * 3e-6 + 1e-4 + 2 * 1e-6
    passes = 2 * (d.time_s.tokens[2] + d.time_s.seqs[2]) + 2 * (8 + 9) * 3e-7
    assert step["first_ps"] == pytest.approx((own + passes) * PS, abs=5)


def test_a_draft_takes_in_what_it_has_missed():
    """After a proposal that was right throughout, its last token; after steps without, theirs."""
    log = answer(requests_of(osl=13), speculating(k=2, acceptance=1.0))
    own = log.leaps[log.leaps["n_draft"] > 0]
    assert own["draft_tokens"].tolist() == [2, 3, 3, 3]
    late = speculating(policy="small_batch", params={"most_seqs": 1}, acceptance=0.0, k=1)
    requests = Requests(np.zeros(2), np.array([8, 8]), np.array([6, 12]))
    log = answer(requests, late)
    own = log.leaps[log.leaps["n_draft"] > 0]
    # five steps together, then one token, and the five that the draft has not seen
    assert own["draft_tokens"].tolist() == [6, 1, 1, 1, 1]


def test_a_draft_on_its_own_devices_adds_a_trip_and_computes_prompts_meanwhile():
    requests = requests_of(osl=30, isl=40)
    beside, apart, far = (
        answer(requests, speculating(acceptance=0.0, **how))
        for how in ({}, {"apart": True}, {"apart": True, "trip_s": 3e-3})
    )
    first = [log.leaps[log.leaps["n_chunks"] > 0]["first_ps"].sum() for log in (beside, apart)]
    assert first[1] < first[0]
    rounds = (far.leaps["n_draft"] > 0).sum()
    longer = far.requests["done_ps"][0] - apart.requests["done_ps"][0]
    assert longer == rounds * 3 * PS // 1000


def test_proposals_never_take_memory_that_others_need():
    """Cut to what is free: the same requests are preempted no sooner than without."""
    requests = requests_of(4, isl=12, osl=24)
    log = answer(requests, speculating(n_blocks=36, k=7, acceptance=0.0))
    assert log.replicas["n_preempt"][0] == 0  # 4 x 35 tokens are exactly 36 blocks of 4
    assert log.replicas["peak_blocks"][0] == 36
    assert log.requests["n_drafted"].min() > 0


def test_the_budget_of_a_step_holds_with_proposals():
    tight = speculating(k=7, acceptance=0.3, n_blocks=400, max_num_batched_tokens=40)
    log = answer(workload(3, 60, rate=400, isl=60), tight)
    assert log.leaps["n_tokens"].max() == 40
    assert (
        log.leaps["n_tokens"] == log.leaps["n_decode"] + log.leaps["chunk"] + log.leaps["n_draft"]
    ).all()


def test_gaps_between_tokens_are_all_there_with_those_of_no_length():
    requests = workload(7, 60, osl=30)
    log = answer(requests, speculating(n_blocks=30, replicas=2))
    gaps = itl(log.leaps, log.gaps)
    assert gaps.count == (log.requests["n_out"] - 1).sum()
    whole = (log.requests["done_ps"] - log.requests["first_token_ps"]).sum()
    assert gaps.mean_s() * gaps.count == pytest.approx(whole / PS)
    assert gaps.quantiles_s([0.0])[0] == 0.0
    assert gaps.quantiles_s([1.0])[0] == pytest.approx(log.requests["max_itl_ps"].max() / PS)


def test_few_requests_gain_and_many_lose():
    """Where a step is the same for a few tokens more, and where it grows with each."""
    costs = table(max_tokens=256, max_seqs=64, flat=2e-3, token=5e-5)
    speeds = {}
    for n in (1, 64):
        plain = answer(requests_of(n, osl=60), pool(costs=costs, n_blocks=4000)).end_ps
        more = speculating(costs=costs, n_blocks=4000, k=3, acceptance=0.6)
        chosen = speculating(costs=costs, n_blocks=4000, k=3, acceptance=0.6, policy="goodput")
        speeds[n] = [plain / answer(requests_of(n, osl=60), p).end_ps for p in (more, chosen)]
    assert speeds[1][0] > 1.4
    assert speeds[64][0] < 0.9
    assert speeds[1][1] > 1.4
    assert speeds[64][1] > 0.9  # a policy that knows what steps take proposes less


def test_goodput_takes_the_length_that_gives_most_tokens_a_second():
    """By brute force over all k, from the same table, for a request whose chance is known."""
    known = {"prior": 0.8, "weight": 1e9}
    for n in (1, 4, 16):
        ends = {}
        for k in range(6):
            one = speculating(k=5, params={"k": k}, acceptance=0.8, n_blocks=4000)
            ends[k] = answer(requests_of(n, osl=400), one).end_ps
        one = speculating(k=5, policy="goodput", params=known, acceptance=0.8, n_blocks=4000)
        assert answer(requests_of(n, osl=400), one).end_ps < 1.03 * min(ends.values())


def test_policies_read_what_was_right_of_late():
    """As a policy sees it: tokens found right, of those looked at, older ones weighing less."""
    seen = []

    def spy(request, replica, engine, step_ps, params):
        if len(seen) < 3:
            seen.append((float(request.recent_right), float(request.recent_tried)))
        return 2

    from forerun.sim.core.jit import JIT

    if JIT:
        pytest.skip("a compiled policy cannot append")
    answer(requests_of(osl=20), speculating(acceptance=[1.0, 0.0]), policies={"speculate": spy})
    assert seen == [(0.0, 0.0), (1.0, 2.0), (RECENT + 1, 2 * RECENT + 2)]


def test_a_policy_that_proposes_too_many_is_named():
    def greedy(request, replica, engine, step_ps, params):
        return 99

    with pytest.raises(PolicyError, match="greedy: proposes 99 tokens for request 0 on replica 0"):
        answer(requests_of(), speculating(), policies={"speculate": greedy})


def test_proposals_that_no_step_has_room_for_are_refused_before_the_run():
    with pytest.raises(
        SpecError, match="8 proposed tokens and the next one do not fit a step of 8"
    ):
        answer(requests_of(), speculating(k=8, max_num_seqs=4, max_num_batched_tokens=8))
    one = speculating()
    unpriced = replace(one, table=replace(one.table, verify=None))
    with pytest.raises(SpecError, match="does not say what a step takes that verifies"):
        answer(requests_of(), unpriced)
