"""Seams, knobs and composition of techniques, on techniques made up for it."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest

from forerun import catalog, techniques
from forerun.errors import SpecError
from forerun.spec.case import Case
from forerun.spec.deployment import Deployment, Policy, Pool
from forerun.techniques import Edit, Extra, Knob, compose, find, prepare

MODEL = catalog.model("llama-3.1-8b")
DEPLOYMENT = Deployment(pools=(Pool(device="h100-sxm"),))


def made_up(name, *, edit=None, conflicts=None, knobs=None) -> ModuleType:
    """A technique in a module of its own."""
    module = ModuleType(name)
    module.__doc__ = "Does something for a test."
    module.PAPERS, module.CONFLICTS = (), conflicts or {}
    module.KNOBS = knobs or {}
    module.needs = lambda case: []
    module.baseline = lambda deployment: deployment
    module.edit = edit or (lambda deployment: Edit(deployment))
    return module


def table(*uses):
    return prepare(MODEL, compose(DEPLOYMENT, list(uses)))[0].table


def seats(n):
    def edit(deployment):
        pool = deployment.pools[0]
        engine = pool.engine.model_copy(update={"max_num_seqs": pool.engine.max_num_seqs + n})
        changed = pool.model_copy(update={"engine": engine})
        return Edit(deployment.model_copy(update={"pools": (changed,)}))

    return edit


def test_techniques_are_applied_in_order():
    first, second = made_up("first", edit=seats(10)), made_up("second", edit=seats(5))
    edited = compose(DEPLOYMENT, [(first, {}), (second, {})])
    assert edited.deployment.pools[0].engine.max_num_seqs == 256 + 15
    assert edited.applied == ("first", "second")
    assert DEPLOYMENT.pools[0].engine.max_num_seqs == 256


def test_no_technique_changes_nothing():
    assert compose(DEPLOYMENT).deployment == DEPLOYMENT
    assert compose(DEPLOYMENT).applied == ()


@pytest.mark.parametrize("order", [("a", "b"), ("b", "a")])
def test_a_conflict_is_told_with_its_reason_whichever_comes_first(order):
    both = {"a": made_up("a", conflicts={"b": "both want the same blocks"}), "b": made_up("b")}
    with pytest.raises(SpecError, match="both want the same blocks"):
        compose(DEPLOYMENT, [(both[name], {}) for name in order])


def test_a_technique_used_twice_is_refused():
    with pytest.raises(SpecError, match="used twice"):
        compose(DEPLOYMENT, ["chunked_prefill", "chunked_prefill"])


def test_all_mistakes_come_at_once():
    knobs = {"width": Knob(1, 0, "how wide", low=0, high=2)}
    one = made_up("one", knobs=knobs, conflicts={"two": "they fight"})
    two = made_up("two", knobs=knobs)
    with pytest.raises(SpecError) as caught:
        compose(DEPLOYMENT, [(one, {"width": 3}), (two, {"widht": 1})])
    told = str(caught.value)
    assert len(caught.value.problems) == 3
    assert "they fight" in told
    assert "is not from 0 to 2" in told
    assert "did you mean width?" in told


def test_unknown_techniques_name_the_nearest():
    with pytest.raises(SpecError, match="did you mean chunked_prefill"):
        find("chunked_prefil")


def test_a_file_that_lacks_a_part_says_which():
    module = made_up("half")
    del module.needs
    with pytest.raises(SpecError, match="does not define needs"):
        find(module)


def test_a_rewritten_graph_costs_what_it_says():
    """A graph without its feed-forward takes the share of the time that it had."""

    def rewrite(graph, pool):
        from dataclasses import replace

        return replace(graph, ops=tuple(op for op in graph.ops if not op.name.startswith("ffn")))

    whole = table()
    less = table((made_up("no_ffn", edit=lambda d: Edit(d, rewrite=rewrite)), {}))
    assert less.time_s.tokens[64] < 0.6 * whole.time_s.tokens[64]
    np.testing.assert_array_equal(less.time_s.decode, whole.time_s.decode)


def test_further_work_is_timed_by_the_roofline_and_counted():
    """3.35e9 bytes a step on an H100 (3.35e12 bytes/s) take 1 ms at full rate and some more."""

    def price(costs, graph, pool):
        some = (np.arange(len(costs.time_s.tokens)) > 0) * 3.35e9
        return [Extra("tokens", hbm_bytes=some, kernels=2)]

    whole = table()
    more = table((made_up("reads_more", edit=lambda d: Edit(d, price=price)), {}))
    added = more.time_s.tokens - whole.time_s.tokens
    assert added[0] == 0
    assert 1.0e-3 < added[1] < 1.4e-3
    assert np.ptp(added[1:]) < 1e-12
    assert (more.hbm_bytes.tokens - whole.hbm_bytes.tokens)[1:] == pytest.approx(3.35e9)
    assert (more.energy_j.tokens > whole.energy_j.tokens)[1:].all()
    np.testing.assert_array_equal(more.time_s.prefill, whole.time_s.prefill)


def test_work_cannot_be_negative():
    def price(costs, graph, pool):
        return [Extra("tokens", flop=-1.0)]

    with pytest.raises(SpecError, match="negative work"):
        table((made_up("magic", edit=lambda d: Edit(d, price=price)), {}))


def test_extra_work_has_no_field_for_a_time():
    assert set(Extra.__dataclass_fields__) == {"part", "flop", "hbm_bytes", "kernels"}
    assert set(Edit.__dataclass_fields__) == {"deployment", "rewrite", "price"}


def test_knobs_may_be_words():
    knob = Knob("fp8", "bf16", "format of the cache", choices=("bf16", "fp8"))
    assert knob.problem("x", "fp8") is None
    assert "one of: bf16, fp8" in str(knob.problem("x", "fp9"))


def test_chunks_larger_than_a_step_may_be_are_refused():
    with pytest.raises(SpecError, match="computes 8192 tokens a step at most"):
        compose(DEPLOYMENT, [Policy(name="chunked_prefill", params={"chunk_tokens": 9000})])


def test_chunked_prefill_says_where_it_has_nothing_to_give():
    case = Case(
        model="llama-3.1-8b",
        fleet={"h100-sxm": 1},
        traffic={"isl": 100, "osl": 1, "rate_per_s": 1},
        deployment=DEPLOYMENT,
    )
    told = " ".join(find("chunked_prefill").needs(case))
    assert "already puts chunks beside decodes" in told
    assert "no bound on the time between tokens" in told
    assert "answers have one token" in told


def test_names_are_the_files_of_the_folder():
    assert "chunked_prefill" in techniques.names()
    assert not [name for name in techniques.names() if name.startswith("_")]


CASE = {
    "model": "llama-3.1-8b",
    "fleet": {"a100-sxm-80gb": 1},
    "traffic": {"trace": "chat", "duration_s": "60 s"},
    "slo": {"ttft_s": "2 s", "tpot_s": "200 ms"},
    "deployment": {
        "device": "a100-sxm-80gb",
        "engine": {"batch": "prefill_first", "max_num_batched_tokens": 8192},
        "techniques": ["chunked_prefill"],
    },
}


def test_a_case_that_names_a_technique_is_simulated_with_it():
    import forerun

    plain = {**CASE, "deployment": {**CASE["deployment"], "techniques": []}}
    with_it, without = (forerun.simulate(forerun.load(case)) for case in (CASE, plain))
    assert with_it.log.leaps["n_tokens"].max() <= 512 < without.log.leaps["n_tokens"].max()
    assert with_it.report.setup["techniques"] == "chunked_prefill"


def test_a_plan_refuses_what_it_would_leave_out():
    import forerun
    from forerun import api

    with pytest.raises(SpecError, match="techniques: a plan would leave it out"):
        api.plan(forerun.load(CASE))
