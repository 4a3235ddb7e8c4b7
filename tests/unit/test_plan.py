"""Plans of small cases: what wins, what is said of the rest, how a search stops and goes on."""

import json
from dataclasses import fields, replace

import numpy as np
import pytest
from click.testing import CliRunner
from small_plans import case, one_at_a_time

from forerun import api
from forerun.cli.plan import command
from forerun.cost.table import CostTable, Work
from forerun.errors import SpecError
from forerun.plan import evaluate
from forerun.plan.evaluate import content
from forerun.plan.search import plan
from forerun.plan.space import candidates
from forerun.plan.store import Store, digest
from forerun.plan.write import as_yaml
from forerun.spec.deployment import Deployment, Pool

# -- whole plans ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def answer():
    return plan(case())


def test_the_winner_simulated_by_the_api_meets_the_slo_with_the_same_numbers(answer):
    for choice in answer.choices[:3]:
        result = api.simulate(
            answer.case.model_copy(update={"deployment": choice.deployment}), bootstrap=False
        )
        m, p = result.metrics, choice.point
        assert m.slo_met is True
        assert m.attainment.value == p.attainment
        assert (m.ttft_s.p99, m.tpot_s.p99, m.e2el_s.p99) == (
            p.ttft_p99_s, p.tpot_p99_s, p.e2el_p99_s,
        )  # fmt: skip
        assert m.power_w.value == p.power_w
        assert m.usd_per_hour.value == pytest.approx(choice.usd_per_hour)
        assert m.usd_per_million_output_tokens.value == pytest.approx(
            choice.usd_per_million_output_tokens
        )


def test_one_replica_fewer_than_the_winner_misses(answer):
    for choice in answer.choices:
        if choice.replicas > 1:
            fewer = answer.case.model_copy(
                update={"deployment": choice.candidate.deployment(choice.replicas - 1)}
            )
            assert api.simulate(fewer, bootstrap=False).metrics.slo_met is False


def test_choices_are_ranked_by_what_they_cost(answer):
    costs = [c.usd_per_hour for c in answer.choices]
    assert costs == sorted(costs)
    assert len(costs) >= 3


def test_a_plan_says_why_in_sentences(answer):
    said = "\n".join(answer.explanation)
    assert "of requests are good (95 % asked)" in said
    assert "Next is" in said
    assert "One replica more" in said
    assert all(one.sentence for one in answer.left_out)


def test_prices_and_seed_are_in_the_provenance(answer):
    price = answer.provenance["prices"]["l40s"]
    assert price["date"]
    assert price["source"]
    assert answer.provenance["seed"] == 0
    assert len(answer.provenance["catalog_version"]) == 16


def test_a_price_of_the_fleet_decides_who_wins(answer):
    dear = case({"l40s": {"count": 4, "price_usd_per_hour": 50.0}, "h100-sxm": 2})
    assert plan(dear).best.candidate.device == "h100-sxm"
    cheap = case({"l40s": {"count": 4, "price_usd_per_hour": 0.01}, "h100-sxm": 2})
    assert plan(cheap).best.candidate.device == "l40s"


def test_other_objectives_rank_by_their_own_figure():
    grids = {"l40s": {"count": 4, "region": "de"}, "h100-sxm": {"count": 2, "region": "se"}}
    for objective, figure in (
        ("energy", lambda c: c.point.energy_j_per_output_token),
        ("carbon", lambda c: c.gco2e_per_hour),
        ("latency", lambda c: c.point.e2el_p99_s),
    ):
        values = [figure(c) for c in plan(case(grids), objective=objective, top=1).choices]
        assert values == sorted(values)
    with pytest.raises(SpecError, match="no device has a region"):
        plan(case(), objective="carbon")


def test_latency_takes_the_replicas_that_the_budget_allows():
    rich = plan(case({"h100-sxm": 4}), objective="latency", keep=["tp"], top=1)
    assert rich.best.replicas == 4
    poor = case({"h100-sxm": 4}, budget={"usd_per_hour": 8.5})
    assert plan(poor, objective="latency", keep=["tp"], top=1).best.replicas == 2


def test_sizes_that_are_kept_are_kept():
    wished = Deployment(pools=(Pool(device="l40s", tp=2),))
    assert {c.pool.tp for c in candidates(case(), wished)} == {2}
    fixed = case(deployment=Deployment(pools=(Pool(device="l40s", tp=4),)))
    assert {c.pool.tp for c in candidates(fixed, keep=["tp"])} == {4}
    assert {c.pool.tp for c in candidates(fixed)} == {1, 2, 4, 8}
    with pytest.raises(SpecError, match="the number of replicas is the answer"):
        candidates(case(), Deployment(pools=(Pool(device="l40s", replicas=2),)))


def test_formats_are_tried_beside_each_other():
    found = plan(case({"l40s": 4}), dtypes=["bf16", "fp8"], top=1)
    assert {c.candidate.pool.dtype for c in found.choices} == {"bf16", "fp8"}
    assert found.best.candidate.pool.dtype == "fp8"


def test_stages_are_tried_where_a_node_is_too_small():
    big = case({"l4": 64}, model="llama-3.1-405b")
    layouts = {(c.pool.tp, c.pool.pp) for c in candidates(big)}
    assert (8, 8) in layouts
    assert all(pp == 1 for _, pp in ((c.pool.tp, c.pool.pp) for c in candidates(case())))


def test_a_saved_plan_reads_back(answer, tmp_path):
    file = tmp_path / "won.yaml"
    file.write_text(as_yaml(answer.answered))
    assert api.load(file) == answer.answered


# -- nothing does --------------------------------------------------------------------------------


def test_too_small_a_fleet_is_told_what_to_add():
    found = plan(case({"l40s": 1}))
    assert not found.is_feasible
    assert "only" in found.explanation[0]
    more = next(r for r in found.remedies if r.startswith("add "))
    n = int(more.split()[1])
    assert plan(case({"l40s": 1 + n})).is_feasible
    assert not plan(case({"l40s": n}), keep=["tp"]).is_feasible


def test_a_bound_loosened_as_told_is_met():
    tight = {"ttft_s": 0.02, "tpot_s": 0.05, "attainment": 0.95}
    found = plan(case({"l40s": 4}, slo=tight))
    assert not found.is_feasible
    advice = next(r for r in found.remedies if r.startswith("loosen ttft_s"))
    bound = advice.split(" to ")[1].split(" (")[0]
    assert plan(case({"l40s": 4}, slo=tight | {"ttft_s": bound})).is_feasible


def test_a_budget_that_binds_is_told_apart_from_the_slo():
    found = plan(case(budget={"usd_per_hour": 1.0}))
    assert not found.is_feasible
    assert "The budget binds" in found.explanation[0]
    asked = next(r for r in found.remedies if "budget.usd_per_hour" in r)
    usd = float(asked.split(" to ")[1].split()[0])
    assert plan(case(budget={"usd_per_hour": usd})).is_feasible


def test_a_model_too_large_is_told_what_it_needs():
    found = plan(case({"l4": 1}, model="llama-3.1-70b"))
    assert not found.is_feasible
    assert "141 GB weights" in found.explanation[0]


def test_a_case_without_goals_is_refused():
    with pytest.raises(SpecError, match="bounds nothing"):
        plan(case(slo={}))


# -- stopping, going on, repeating ---------------------------------------------------------------


def same(a, b):
    return json.dumps(a.to_dict(), sort_keys=True) == json.dumps(b.to_dict(), sort_keys=True)


def test_the_same_case_gives_the_same_plan(answer):
    assert same(plan(case()), answer)


def test_workers_do_not_change_the_plan(answer, tmp_path):
    assert same(plan(case(), workers=2, store=Store(tmp_path / "p.sqlite")), answer)


def test_a_stopped_search_goes_on_to_the_same_plan(answer, tmp_path, monkeypatch):
    file, real, left = tmp_path / "p.sqlite", evaluate.Bench._judge, [5]

    def stops(self, *arguments):
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return real(self, *arguments)

    first = Store(file)
    monkeypatch.setattr(evaluate.Bench, "_judge", stops)
    with pytest.raises(KeyboardInterrupt):
        plan(case(), store=first)
    kept = first.n_written
    first.close()
    assert kept >= 5
    monkeypatch.setattr(evaluate.Bench, "_judge", real)
    whole, second = Store(), Store(file)
    plan(case(), store=whole)
    assert same(plan(case(), store=second), answer)
    assert second.n_written == whole.n_written - kept
    third = Store(file)
    assert same(plan(case(), store=third), answer)
    assert third.n_written == 0


def test_a_store_that_cannot_be_written_is_no_error(tmp_path):
    (tmp_path / "file").write_text("")
    store = Store(tmp_path / "file" / "plan.sqlite")
    store.put("a", {"b": 1})
    assert store.path is None
    assert store.get("a") == {"b": 1}


@pytest.mark.parametrize("name", [f.name for f in fields(CostTable)])
def test_a_change_of_any_part_of_the_costs_is_another_point(name):
    bench = one_at_a_time(0.010, device="slow")
    table = bench.ready.served.table
    served = replace(bench.ready.served, table=replace(table, **{name: changed(table, name)}))
    other = replace(bench, ready=replace(bench.ready, served=served))
    same = replace(bench, ready=replace(bench.ready, served=replace(served, table=replace(table))))
    assert key(other) != key(bench) == key(same)


def key(bench):
    return bench._key("verdict", 1, 1.0, 1.0)


def changed(table, name):
    """Another value of a field; of work, in its last part alone."""
    value = getattr(table, name)
    if isinstance(value, Work):
        return replace(value, prefill=value.prefill + 1.0)
    if isinstance(value, str):
        return value + "?"
    if isinstance(value, tuple):
        return (*value, "?")
    if isinstance(value, dict):
        return {**value, "?": 1.0}
    return np.ones((2, 1)) if value is None else value + 1


@pytest.mark.parametrize("name", [f.name for f in fields(Work)])
def test_a_change_of_any_part_of_the_work_is_another_point(name):
    work = one_at_a_time(0.010, device="slow").ready.served.table.time_s
    other = replace(work, **{name: getattr(work, name) + 1.0})
    assert digest(*content(other)) != digest(*content(work))
    turned = replace(work, **{name: np.ravel(getattr(work, name))[None, :]})
    assert digest(*content(turned)) != digest(*content(work))


def test_another_slo_or_seed_is_another_point(tmp_path):
    file = tmp_path / "p.sqlite"
    plan(case({"l40s": 4}), store=Store(file), top=1)
    for changed in (case({"l40s": 4}, seed=1), case({"l40s": 4}, slo={"ttft_s": 0.4})):
        store = Store(file)
        plan(changed, store=store, top=1)
        assert store.n_read < store.n_written


# -- the command ---------------------------------------------------------------------------------

ARGS = ["llama-3.1-8b", "--rate", "10", "--n-requests", "300", "--isl", "800", "--osl", "150",
        "--ttft", "500 ms", "--tpot", "50 ms", "--fresh"]  # fmt: skip


def call(*args):
    done = CliRunner().invoke(command, [*ARGS, *args], standalone_mode=False)
    if done.exception is not None:
        raise done.exception
    return done


def test_the_command_prints_the_ranking_and_exits_0():
    done = call("--gpu", "l40s:4,h100:1")
    assert done.return_value == 0
    assert "replicas of" in done.stdout
    assert "Lower bound: a perfect system needs" in done.stdout


def test_the_command_exits_3_when_nothing_does_and_says_why():
    done = call("--gpu", "l40s:4", "--ttft", "1 ms", "--json")
    assert done.return_value == 3
    data = json.loads(done.stdout)
    assert data["schema_version"] == 1
    assert data["feasible"] is False
    assert any("ttft_s" in sentence for sentence in data["explanation"])
    assert any(one.startswith("loosen ttft_s") for one in data["remedies"])


def test_a_device_without_a_number_may_be_taken_many_times():
    done = call("--gpu", "l40s", "--rate", "60", "--json", "--tp", "1")
    assert json.loads(done.stdout)["choices"][0]["replicas"] > 1


def test_csv_has_a_row_a_choice():
    done = call("--gpu", "l40s:4,h100:1", "--csv", "--top", "2")
    head, *rows = done.stdout.splitlines()
    assert head.startswith("device,tp,")
    assert len(rows) == 2


def test_an_interrupt_names_the_command_that_goes_on(monkeypatch):
    def stops(self, *arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(evaluate.Bench, "_judge", stops)
    done = call("--gpu", "l40s:4")
    assert done.return_value == 130
    assert "go on with" in done.stderr
