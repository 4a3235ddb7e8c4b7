"""Claim files, the way capacities are found, and how a status is given."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from forerun import claims, techniques
from forerun.claims.capacity import Capacity, Goal, capacity, draw, missed
from forerun.claims.found import Found, How, Point
from forerun.claims.measures import capacity_ratio
from forerun.claims.measures.chunk_overhead import prefill_s
from forerun.claims.run import check, judge
from forerun.claims.schema import FOLDER, Claim, load, measures
from forerun.cost.table import CostTable, Work, grid
from forerun.errors import SpecError
from forerun.sim.serve import Served, run
from forerun.spec.deployment import Engine, Policy, Pool

CLAIM = Claim(
    name="c", says="twice the load.", where="figure 1", measure="capacity_ratio", value=2.0,
    tolerance=0.25, tolerance_why="by decree", technique=Policy(name="chunked_prefill"),
)  # fmt: skip


def points(*values):
    return tuple(Point(f"p{i}", value) for i, value in enumerate(values))


def flat_table(step_s=1.0, tokens=64, seqs=1):
    """Every step takes the same time."""
    zero_d, zero_p = np.zeros((seqs + 1, 2)), np.zeros((len(grid(tokens)), 2))
    time = Work(step_s * (grid(tokens) > 0), np.zeros(len(grid(seqs))), zero_d, zero_p)
    return CostTable(
        max_tokens=tokens, max_seqs=seqs, knots_ctx=np.array([0, 100]),
        knots_past=np.array([0, 100]), time_s=time, flop=time, hbm_bytes=time, link_bytes=time,
        energy_j=time, idle_w=0.0, host_step_s=0.0, host_seq_s=0.0, n_devices=1,
        peak_flop_per_s=1.0, peak_hbm_bytes_per_s=1.0, low=1.0, high=1.0, sources={"test": 1.0},
    )  # fmt: skip


def server(step_s=1.0):
    """One request at a time, one step a request: an M/D/1 queue."""
    engine = Engine(max_num_seqs=1, max_num_batched_tokens=64)
    pool = Pool(device="none", engine=engine)
    return [Served(pool=pool, table=flat_table(step_s), n_blocks=64, max_len=1000)]


def singles(n=4000, seed=0):
    """Requests of one output token, which take one step."""
    return draw(np.array([8]), np.array([1]), n, seed=seed)


# -- status ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("found", "status"),
    [
        (Found(2.4, band=points(2.1, 1.8, 2.3)), "reproduced"),
        (Found(2.4, band=points(2.1, 9.0, 9.0)), "input-dependent"),
        (Found(3.0, parts=points(2.0, 3.0)), "not-reproduced"),
        (Found(3.0, parts=points(2.0, 3.0), band=points(3.0)), "input-dependent"),
        (Found(3.0, parts=points(2.8, 3.0), band=points(3.0, 3.1)), "not-reproduced"),
        (Found(3.0, ratios_hold=True), "ratio-only"),
        (Found(2.0, broken=("it loses somewhere",)), "input-dependent"),
        (Found(2.0, ablation=Point("off", 1.9), ablation_limit=1.1), "not-reproduced"),
        (Found(2.0, ablation=Point("off", None), ablation_limit=1.1), "not-reproduced"),
        (Found(2.0, ablation=Point("off", 1.0), ablation_limit=1.1), "reproduced"),
        (Found(None), "not-reproduced"),
        (Found(2.0, stand_ins=("lengths.csv",)), "not-reproducible-here"),
    ],
)
def test_a_status_follows_from_number_band_and_ablation(found, status):
    given, reasons = judge(CLAIM, found)
    assert given == status
    assert reasons
    assert all(isinstance(reason, str) for reason in reasons)


def test_tolerances_are_relative_or_in_the_claims_unit():
    assert CLAIM.within(2.5)
    assert not CLAIM.within(2.51)
    assert not CLAIM.within(None)
    absolute = CLAIM.model_copy(update={"relative": False, "tolerance": 0.1})
    assert absolute.within(1.9)
    assert not absolute.within(1.89)


def test_what_cannot_be_reproduced_here_is_not_run():
    result = check(CLAIM.model_copy(update={"not_here": "no such machine"}), How())
    assert (result.status, result.found) == ("not-reproducible-here", None)
    assert result.reasons == ("no such machine",)


def test_absent_measurements_are_named(tmp_path):
    claim = CLAIM.model_copy(update={"needs_data": ("a/b.csv",)})
    for data in (None, tmp_path):
        result = check(claim, How(data=data))
        assert result.status == "not-reproducible-here"
        assert "a/b.csv" in result.reasons[0]


# -- capacity ----------------------------------------------------------------------------------


def test_the_capacity_of_a_server_is_just_below_the_rate_that_fails():
    goals = [Goal(of="queue", at=0.5, at_most_s=2.0)]
    pools, load = server(), singles()
    rate = capacity(pools, load, goals).rate_per_s
    assert missed(run(load.at(rate), pools), goals) is None
    assert missed(run(load.at(rate * 1.011), pools), goals) is not None


def test_capacity_agrees_with_the_queue_it_is():
    """M/D/1 with unit service: the median wait is 2 s near utilisation 0.84.

    P(W <= t) = (1 - r) sum_k (r (k - t))^k / k! exp(-r (k - t)), k = 0..floor(t) (Erlang); at t = 2
    it is 1/2 for r = 0.836.
    """
    from math import exp, factorial

    def waits_at_most(t, r):
        return (1 - r) * sum(
            (r * (k - t)) ** k / factorial(k) * exp(-r * (k - t)) for k in range(int(t) + 1)
        )

    exact = max(r for r in np.arange(0.5, 0.99, 0.001) if waits_at_most(2.0, r) >= 0.5)
    goals = [Goal(of="queue", at=0.5, at_most_s=2.0)]
    found = [capacity(server(), singles(20_000, seed), goals).rate_per_s for seed in range(3)]
    assert np.mean(found) == pytest.approx(exact, abs=0.02)


def test_a_server_twice_as_slow_with_goals_twice_as_wide_carries_half():
    fast = capacity(server(1.0), singles(), [Goal(of="queue", at=0.5, at_most_s=2.0)])
    slow = capacity(server(2.0), singles(), [Goal(of="queue", at=0.5, at_most_s=4.0)])
    assert fast.rate_per_s / slow.rate_per_s == pytest.approx(2, rel=0.02)


def test_goals_that_nothing_meets_give_no_capacity_and_say_why():
    found = capacity(server(), singles(200), [Goal(of="ttft", at=0.5, at_most_s=0.5)])
    assert found.rate_per_s == 0
    assert "ttft" in found.binding


def test_draws_share_lengths_and_gaps_between_deployments_and_keep_the_limit():
    isl, osl = np.arange(1, 2001), np.arange(1, 2001)
    a, b = (draw(isl, osl, 500, seed=3, scale=s, most=1500) for s in (1.0, 1.1))
    assert (a.isl + a.osl <= 1500).all()
    assert (a.gaps == b.gaps).all()
    assert (b.osl >= a.osl).all()
    assert draw(isl, osl, 500, seed=4).gaps[0] != a.gaps[0]
    calm = draw(isl, osl, 20_000, seed=3, cv=0.5).gaps
    assert calm.mean() == pytest.approx(1, abs=0.02)
    assert calm.std() == pytest.approx(0.5, abs=0.02)


def test_chunks_of_a_prompt_add_up():
    assert prefill_s(flat_table(0.5), 60, 60) == pytest.approx(0.5)
    assert prefill_s(flat_table(0.5), 60, 25) == pytest.approx(1.5)


# -- files -------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", claims.names())
def test_every_paper_names_its_technique_its_sources_and_its_tolerances(key):
    paper = load(key)
    assert paper.technique in techniques.names()
    assert paper.url.startswith("https://")
    assert len(paper.read_in) > 10
    for claim in paper.claims:
        assert claim.measure in measures()
        assert len(claim.tolerance_why.split()) > 2
        assert claim.not_here or claim.explanation, f"{claim.name} has no explanation"


def test_a_wrong_claim_file_is_told_with_every_line(tmp_path):
    text = (FOLDER / "sarathi-serve.yaml").read_text()
    bad = tmp_path / "sarathi-serve.yaml"
    text = text.replace("    decode_ctx: 1024", "    decode_contxt: 1024", 1)
    text = text.replace("at_most_s: 1 s", "at_most_s: 1 GB", 1)
    bad.write_text(text.replace("measure: chunk_overhead", "measure: chunk_overhed", 1))
    with pytest.raises(SpecError) as caught:
        load(bad)
    told = str(caught.value)
    assert "decode_contxt" in told
    assert "did you mean chunk_overhead" in told
    assert "'GB' is not a unit of time" in told
    assert "sarathi-serve.yaml:" in told


def test_unknown_papers_and_claims_name_the_nearest():
    with pytest.raises(SpecError, match="did you mean sarathi-serve"):
        claims.reproduce("sarathi")
    with pytest.raises(SpecError, match="did you mean mistral-7b-strict"):
        claims.reproduce("sarathi-serve", only=["mistral-7b"])


# -- Sarathi-Serve -----------------------------------------------------------------------------


def test_the_fit_to_figure_2_leaves_the_rows_of_the_other_tables_alone(shared_data):
    paper = load("sarathi-serve")
    scale = paper.claims[0].fit.scale(How(data=shared_data))
    assert scale.n_rows == 15  # 16 rows, the warm-up left out
    assert scale.residual < 0.10
    assert paper.claims[0].fit.rows != paper.claims[0].rows
    assert min(scale.tokens) > 0.5


def test_hybrid_steps_are_predicted_but_for_the_one_its_authors_measured_twice(shared_data):
    (result,) = claims.reproduce("sarathi-serve", only=["hybrid-batch"], data=shared_data).results
    errors = {part.label: part.value for part in result.found.parts}
    assert abs(errors["1021 prompt + 3 decoding"]) < 0.10
    # just outside the tolerance, as the explanation says
    assert errors["1024 prompt + 0 decoding"] == pytest.approx(-0.104, abs=0.002)
    # the claim itself: three decodes beside the prompt cost next to nothing
    hybrid, alone = (1 + errors[f"{n} decoding"] for n in ("1021 prompt + 3", "1024 prompt + 0"))
    assert 1 < hybrid / alone < 1.03
    # 68.1 ms in table 2 and 48.8 ms in figure 2 for the same step: the claim as a whole fails
    assert errors["0 prompt + 4 decoding"] < -0.10
    assert result.status == "not-reproduced"


@pytest.mark.parametrize("name", ["mistral-7b-strict", "yi-34b-strict"])
def test_stall_free_chunks_carry_more_than_whole_prompts_on_the_authors_lengths(name, shared_data):
    (result,) = claims.reproduce(
        "sarathi-serve", only=[name], quick=True, data=shared_data
    ).results  # fmt: skip
    found = result.found
    assert not found.stand_ins
    assert not found.broken, "the technique is never worse than its baseline"
    assert all(part.value > 1.5 for part in found.parts)
    assert found.ablation_holds
    assert len(found.band) == 4


def test_the_same_seed_gives_the_same_report():
    a, b = (
        claims.reproduce("sarathi-serve", only=["mistral-7b-strict"], quick=True).to_dict()
        for _ in range(2)
    )
    for report in (a, b):
        report["claims"][0].pop("seconds")
    assert a == b


def test_a_request_that_is_refused_fails_every_goal():
    long = draw(np.array([8, 2000]), np.array([1, 1]), 50, seed=0)
    assert "did not finish" in missed(run(long.at(0.01), server()), [])


def test_the_band_moves_lengths_and_goals_but_not_a_fixed_goal(monkeypatch):
    seen = []

    def spy(pools, load, goals, **how):
        seen.append((float(load.isl.sum()), [goal.at_most_s for goal in goals]))
        return Capacity(1.0, "")

    monkeypatch.setattr(capacity_ratio, "capacity", spy)
    claim = next(c for c in load("sarathi-serve").claims if c.name == "mistral-7b-strict")
    case, at, how = claim.cases[0], capacity_ratio.Shift(), How(quick=True)
    sizes = np.array([1000]), np.array([10])
    for shift in (at, replace(at, lengths=1.1), replace(at, goals=0.5)):
        capacity_ratio.capacity_of(claim, case, case.deployment, sizes, shift, how)
    n = capacity_ratio.QUICK_REQUESTS
    assert seen == [(1000.0 * n, [0.1, 2.0]), (1100.0 * n, [0.1, 2.0]), (1000.0 * n, [0.05, 2.0])]
