"""What every technique must hold to; a new file in `techniques/` is tested here without a line."""

from __future__ import annotations

import ast
import inspect
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from forerun import catalog, claims, techniques
from forerun.claims.measures import capacity_ratio
from forerun.errors import SpecError
from forerun.ops.graph import Graph
from forerun.ops.lower import lower
from forerun.sim import prepare as sim_prepare
from forerun.sim.core.rows_log import STATUS
from forerun.sim.serve import run
from forerun.spec.case import Case
from forerun.spec.deployment import Deployment, Policy, Pool
from forerun.spec.requests import Requests
from forerun.techniques import Edit, Extra

NAMES = techniques.names()
FOLDER = Path(techniques.__file__).parent
every_technique = pytest.mark.parametrize("name", NAMES)


def papers(name):
    return [claims.load(key) for key in techniques.find(name).papers]


def setup(name):
    """The first case that a claim of the technique describes."""
    for paper in papers(name):
        for claim in paper.claims:
            if getattr(claim, "cases", ()):
                return claim, claim.cases[0]
    pytest.fail(f"no claim of {name} describes a case to run")


def base(name) -> Deployment:
    """The baseline of that case, with room for few requests, so that some are preempted."""
    _, case = setup(name)
    return techniques.find(name).baseline(case.deployment)


def requests(seed=1, n=80, rate=30.0):
    draw = np.random.default_rng(seed)
    return Requests(
        arrival_s=np.cumsum(draw.exponential(1 / rate, n)),
        isl=draw.integers(1, 3000, n),
        osl=draw.integers(1, 300, n),
    )


def simulate(name, deployment, *, blocks=800, **settings):
    _, case = setup(name)
    pools = techniques.prepare(capacity_ratio.model_of(case), deployment)
    return run(requests(), [replace(pool, n_blocks=blocks) for pool in pools], **settings)


def plain(name, deployment, *, blocks=800):
    """The same without the room of techniques."""
    _, case = setup(name)
    pools = sim_prepare.prepare(capacity_ratio.model_of(case), deployment)
    return run(requests(), [replace(pool, n_blocks=blocks) for pool in pools])


def as_bytes(log):
    return b"".join(rows.tobytes() for rows in (log.requests, log.leaps, log.gaps, log.replicas))


def used(name):
    """The technique as its claims use it, on its baseline."""
    claim, _ = setup(name)
    return techniques.compose(base(name), [claim.technique])


def test_there_are_techniques():
    assert NAMES


@every_technique
def test_its_file_says_what_it_does_where_it_is_from_and_what_it_costs(name):
    doc = inspect.cleandoc(techniques.find(name).doc)
    assert doc.partition("\n")[0].endswith("."), "the first line is a sentence"
    for heading in ("Source", "Helps", "Costs", "Assumes", "Ignores"):
        assert any(line.startswith(heading) for line in doc.splitlines()), heading


@every_technique
def test_its_claims_are_there_and_use_it_within_its_bounds(name):
    technique = techniques.find(name)
    assert technique.papers
    for paper in papers(name):
        assert paper.technique == name
        for claim in paper.claims:
            if claim.technique.name == name:
                _, case = setup(name)
                technique.apply(technique.baseline(case.deployment), **claim.technique.params)


@every_technique
def test_neutral_knobs_leave_the_log_as_it_is_byte_for_byte(name):
    deployment = base(name)
    neutral = techniques.compose(deployment, [(name, techniques.find(name).neutral)])
    assert as_bytes(simulate(name, neutral)) == as_bytes(plain(name, deployment))


@every_technique
def test_it_changes_something(name):
    assert as_bytes(simulate(name, used(name))) != as_bytes(plain(name, base(name)))


@every_technique
def test_the_same_run_gives_the_same_bytes(name):
    assert as_bytes(simulate(name, used(name))) == as_bytes(simulate(name, used(name)))


@every_technique
def test_requests_and_tokens_are_conserved_and_time_goes_forward(name):
    log = simulate(name, used(name))
    rows = log.requests
    assert len(rows) == len(requests())
    assert log.n_unfinished == 0
    done = rows[rows["status"] == STATUS["finished"]]
    assert len(done) + (rows["status"] == STATUS["rejected"]).sum() == len(rows)
    assert (done["n_out"] == done["osl"]).all()
    order = ("arrival_ps", "scheduled_ps", "first_token_ps", "done_ps")
    for earlier, later in pairwise(order):
        assert (done[earlier] <= done[later]).all(), (earlier, later)
    steps = log.leaps["n_steps"].astype(np.int64)
    assert (steps * log.leaps["n_seqs"]).sum() == rows["n_out"].sum()
    # every token of a prompt is computed, and every produced one but the last, some twice
    known = done["isl"].astype(np.int64) + done["osl"] - 1 + done["recomputed"]
    assert (steps * log.leaps["n_tokens"]).sum() == known.sum()


@every_technique
def test_no_replica_holds_more_blocks_than_it_has(name):
    log = simulate(name, used(name))
    assert log.leaps["n_blocks"].max() <= log.kv_blocks.max()
    assert (log.replicas["peak_blocks"] <= log.kv_blocks[log.pool_of_replica]).all()
    assert log.leaps["n_blocks"].max() > 0.9 * log.kv_blocks.max(), "the case fills the cache"


@every_technique
def test_a_leap_equals_its_steps_with_it(name):
    leapt, stepped = simulate(name, used(name)), simulate(name, used(name), leap=False)
    np.testing.assert_array_equal(leapt.requests, stepped.requests)
    np.testing.assert_array_equal(leapt.replicas, stepped.replicas)
    assert leapt.end_ps == stepped.end_ps


@every_technique
def test_needs_and_conflicts_are_sentences(name):
    technique = techniques.find(name)
    claim, case = setup(name)
    question = capacity_ratio.case_of(claim, case)
    bare = Case(model=case.model, fleet={"h100-sxm": 1}, traffic={"trace": "chat"})
    for asked in (question, bare):
        reasons = technique.needs(asked)
        assert isinstance(reasons, list)
        assert all(isinstance(r, str) and len(r.split()) > 3 for r in reasons)
    assert technique.needs(question) == [], "the paper's own case is in its regime"
    for other, why in technique.conflicts.items():
        assert other in NAMES
        assert len(why.split()) > 3


@every_technique
def test_a_knob_out_of_bounds_or_unknown_is_refused_with_a_sentence(name):
    technique = techniques.find(name)
    deployment = base(name)
    with pytest.raises(SpecError, match="no such knob"):
        technique.apply(deployment, nonsense=1)
    for knob_name, knob in technique.knobs.items():
        assert knob.meaning
        assert knob.problem("x", knob.default) is None
        assert knob.problem("x", knob.neutral) is None
        wrong = [float("nan"), "no such word", True]
        wrong += [knob.high + 1] if np.isfinite(knob.high) else []
        wrong += [knob.low - 1] if np.isfinite(knob.low) else []
        for value in wrong:
            with pytest.raises(SpecError, match=knob_name):
                technique.apply(deployment, **{knob_name: value})


@every_technique
def test_its_edit_holds_decisions_and_work_only(name):
    claim, case = setup(name)
    technique = techniques.find(name)
    deployment = base(name)
    before = deployment.content_hash()
    edit = technique.apply(deployment, **claim.technique.params)
    assert isinstance(edit, Edit)
    assert deployment.content_hash() == before
    hosts = ("host_step_s", "host_seq_s", "host_request_s", "host_prompt_token_s")
    for old, new in zip(deployment.pools, edit.deployment.pools, strict=False):
        for host in hosts:
            assert getattr(new.engine, host) >= getattr(old.engine, host), "time is not given back"
    model = capacity_ratio.model_of(case)
    for pool in edit.deployment.pools:
        assert isinstance(pool, Pool)
        graph = lower(model, pool)
        if edit.rewrite is not None:
            assert isinstance(edit.rewrite(graph, pool), Graph)
        if edit.price is not None:
            served = sim_prepare.prepare(model, deployment)[0]
            assert all(isinstance(e, Extra) for e in edit.price(served.table, graph, pool))


@every_technique
def test_its_file_knows_no_times_and_no_speedups(name):
    """Neither the arrays of a cost table, nor a constant in seconds, nor a factor on one."""
    tree = ast.parse((FOLDER / f"{name}.py").read_text())
    words = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name)}
    words |= {n.attr for n in ast.walk(tree) if isinstance(n, ast.Attribute)}
    words |= {n.arg for n in ast.walk(tree) if isinstance(n, ast.keyword) and n.arg}
    assert not {w for w in words if w in ("time_s", "Work", "CostTable") or "speedup" in w.lower()}
    imported = {
        n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.module is not None
    }
    forbidden = ("forerun.cost.scale", "forerun.cost.step", "forerun.sim.core", "forerun.metrics")
    assert not {m for m in imported if m.startswith(forbidden)}


@every_technique
def test_its_baseline_runs_on_the_same_devices(name):
    _, case = setup(name)
    baseline = techniques.find(name).baseline(case.deployment)
    assert isinstance(baseline, Deployment)
    assert baseline.n_devices == case.deployment.n_devices
    assert {p.device for p in baseline.pools} <= set(catalog.devices())


@every_technique
def test_without_the_mechanism_most_of_the_gain_is_gone(name):
    """A quick run of its first claim that has an ablation; the full one is stricter."""
    for paper in papers(name):
        for claim in paper.claims:
            if claim.not_here is None and getattr(claim, "ablation", None) is not None:
                (result,) = claims.reproduce(paper, only=[claim.name], quick=True).results
                found = result.found
                assert found is not None
                assert found.value > 1.1, "there is a gain to lose"
                assert found.ablation.value - 1 < 0.5 * (found.value - 1)
                return
    pytest.fail(f"no claim of {name} has an ablation")


def test_a_technique_is_used_by_name_in_a_deployment():
    name = NAMES[0]
    written = base(name).model_copy(update={"techniques": (Policy(name=name),)})
    assert techniques.compose(written).applied == (name,)
