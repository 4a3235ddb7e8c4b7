"""What requests ask, from traces and descriptions; what an answer says of a response cache."""

from __future__ import annotations

import numpy as np
import pytest

import forerun
from forerun.errors import SpecError, TraceError
from forerun.plan.limits import check_plannable
from forerun.report.jsonout import to_json
from forerun.spec import traces
from forerun.spec.caches import ResponseCache
from forerun.spec.traces._columns import take
from forerun.spec.traces.draw import iter_requests, requests_of
from forerun.spec.workload import Traffic

ROWS = """arrival_s,isl,osl,query_id,question_id,category
0,100,20,how,A,help
1,100,20,what,A,help
2,100,20,up?,B,status
3,100,20,how,A,help
4,100,20,,,
"""
CASE = """
name: asked
model: llama-3.1-8b
fleet: {h100-sxm: 1}
traffic:
  rate_per_s: 6 req/s
  n_requests: 300
  isl: 200
  osl: 40
  questions: [{category: a, topics: 10}, {category: b, topics: 500, skew: 0}]
deployment: {device: h100-sxm, response_cache: {threshold: 0.8}}
"""


def case(tmp_path, *changes):
    path = tmp_path / "case.yaml"
    path.write_text(CASE)
    return forerun.load(path, list(changes))


def test_a_plain_trace_names_texts_questions_and_categories(tmp_path):
    path = tmp_path / "asked.csv"
    path.write_text(ROWS)
    requests = traces.read(path)
    table = requests.wordings
    assert requests.wording[[0, 3]].tolist() == [requests.wording[0]] * 2
    assert requests.wording[4] == -1
    of = table.question[requests.wording[:4]]
    assert of[0] == of[1] != of[2]
    assert [table.names[c] for c in table.category[requests.wording[:3]]] == [
        "help", "help", "status",
    ]  # fmt: skip
    assert not len(table.near)  # texts that differ are not known to be alike
    part = take(requests, np.array([3, 1]))
    assert part.wordings is table
    assert part.wording.tolist() == requests.wording[[3, 1]].tolist()


def test_a_text_with_two_questions_is_refused(tmp_path):
    path = tmp_path / "asked.csv"
    path.write_text(ROWS + "5,100,20,how,B,help\n")
    with pytest.raises(TraceError, match="'how' has more than one question"):
        traces.read(path)
    path.write_text("arrival_s,isl,osl,question_id\n0,5,5,A\n")
    with pytest.raises(TraceError, match="no query_id"):
        traces.read(path)


def test_texts_of_a_trace_get_places_around_their_question(tmp_path):
    path = tmp_path / "asked.csv"
    path.write_text(ROWS)
    told = {"trace": str(path), "questions": [{"paraphrase": 0.9}]}
    requests = requests_of(Traffic.model_validate(told), seed=1)
    table, w = requests.wordings, requests.wording
    other = slice(table.near_starts[w[0]], table.near_starts[w[0] + 1])
    assert table.near[other].tolist() == [w[1]]
    assert 0.6 < table.similarity[other][0] < 1


def test_questions_leave_lengths_and_arrivals_as_they_were():
    plain = {"rate_per_s": 5, "n_requests": 500, "isl": 30, "osl": 10}
    without = requests_of(Traffic.model_validate(plain), seed=3)
    traffic = Traffic.model_validate(plain | {"questions": [{"topics": 20}]})
    asked = requests_of(traffic, seed=3)
    assert asked.arrival_s.tobytes() == without.arrival_s.tobytes()
    assert asked.isl.tobytes() == without.isl.tobytes()
    again = requests_of(traffic, seed=3)
    assert again.wording.tobytes() == asked.wording.tobytes()
    pieces = list(iter_requests(traffic, seed=3, chunk=200))
    assert np.concatenate([p.wording for p in pieces]).tobytes() == asked.wording.tobytes()


def test_shares_of_categories_are_those_asked_for():
    told = {"rate_per_s": 5, "n_requests": 5000, "isl": 30, "osl": 10,
            "questions": [{"category": "a", "share": 3}, {"category": "b"}]}  # fmt: skip
    requests = requests_of(Traffic.model_validate(told), seed=3)
    category = requests.wordings.category[requests.wording]
    assert (category == 0).mean() == pytest.approx(0.75, abs=0.02)


def test_questions_that_cannot_be_are_refused():
    told = {"rate_per_s": 5, "n_requests": 50, "isl": 30, "osl": 10}
    with pytest.raises(ValueError, match=r"related 0\.95 is above paraphrase"):
        Traffic.model_validate(told | {"questions": [{"related": 0.95}]})
    twice = Traffic.model_validate(told | {"questions": [{"topics": 3}, {"topics": 4}]})
    with pytest.raises(SpecError, match="described twice"):
        requests_of(twice, seed=0)
    wide = Traffic.model_validate(told | {"questions": [{"topics": 1, "questions": 9000}]})
    with pytest.raises(SpecError, match="more topics"):
        requests_of(wide, seed=0)


def test_what_a_category_does_not_say_is_as_the_cache_says():
    cache = ResponseCache.model_validate(
        {"threshold": 0.9, "quota": 7, "categories": {"a": {"ttl_s": "2 min"}}}
    )
    assert (cache.shelf("a").ttl_s, cache.shelf("a").threshold) == (120, 0.9)
    assert (cache.shelf("b").ttl_s, cache.shelf("b").quota) == (None, 7)
    assert cache.lookup_s == pytest.approx(7e-3)


def test_the_answer_counts_hits_and_those_that_were_another_questions(tmp_path):
    result = forerun.simulate(case(tmp_path, "deployment.response_cache.threshold=0.6"))
    m, found = result.metrics, result.log.answered
    hit = found.asks["got"] >= 0
    wrong = found.question[found.asks["got"][hit]] != found.question[hit]
    assert wrong.sum() > 5
    assert m.response_hit.value == pytest.approx(hit.mean())
    assert m.response_wrong.value == pytest.approx(wrong.mean())
    assert [row.category for row in m.by_category] == ["a", "b"]
    assert sum(row.wrong for row in m.by_category) == wrong.sum()
    assert any("another question's" in note for note in m.notes)
    assert sum("The response cache for" in reason for reason in result.reasons) == 2
    out = to_json(result.report)
    assert out["responses"]["response_wrong"]["value"] == m.response_wrong.value
    assert out["by_category"][0]["hits"] == m.by_category[0].hits
    assert "of them another question's" in str(result)
    assert any("response cache" in one for one in result.provenance["assumed"])
    # rows that no replica served are in all figures but those of queueing and steps
    assert m.counts.finished == 300
    assert m.ttft_s.n == 300
    assert m.queue_s.n == 300 - hit.sum()
    assert result.log.end_ps >= result.log.requests["done_ps"].max()


def test_a_run_without_a_cache_says_nothing_of_it(tmp_path):
    result = forerun.simulate(case(tmp_path, "deployment.response_cache=null"))
    out = to_json(result.report)
    assert "by_category" not in out
    assert "responses" not in out
    assert "given again" not in str(result)


def test_a_plan_refuses_what_it_would_leave_out(tmp_path):
    asked = case(tmp_path, "slo={ttft_s: 1 s}")
    with pytest.raises(SpecError, match=r"deployment\.response_cache"):
        check_plannable(asked, "cost", asked.deployment)
    capped = case(tmp_path, "slo={ttft_s: 1 s}", "deployment.response_cache=null",
                  "deployment.engine.attended_tokens=100", "traffic.kept_tokens=50")  # fmt: skip
    with pytest.raises(SpecError, match="kept and read") as caught:
        check_plannable(capped, "cost", capped.deployment)
    assert len(caught.value.problems) == 2


BAD = [
    ("max_error=0", "max_error 0 is no share of requests that may get a wrong answer"),
    ("max_error=1.0", "more than 0 and less than 1, as in max_error: 0.02"),
    ("categories={a: {max_error: -0.1}}", "max_error -0.1 is no share"),
    ("max_error=0.02", "threshold and max_error are two ways to say who gets an answer"),
    ("categories={a: {max_error: 0.1, threshold: 0.9}}", "drop one of them"),
]


@pytest.mark.parametrize(("change", "said"), BAD)
def test_an_error_that_cannot_be_held_is_refused_with_a_sentence(tmp_path, change, said):
    with pytest.raises(SpecError, match=said) as found:
        case(tmp_path, f"deployment.response_cache.{change}")
    assert "deployment.response_cache" in str(found.value)


LEARNS = "deployment.response_cache={max_error: 0.3, categories: {b: {threshold: 0.9}}}"


def test_an_answer_says_how_many_were_computed_to_learn(tmp_path):
    learns = case(tmp_path, LEARNS)
    a, b = (learns.deployment.response_cache.shelf(name) for name in "ab")
    assert (a.max_error, b.max_error, b.threshold) == (0.3, None, 0.9)
    answer = forerun.simulate(learns, bootstrap=False)
    of_a, of_b = answer.metrics.by_category
    assert of_a.explored > 0 == of_b.explored
    share = (of_a.explored + of_b.explored) / (of_a.asked + of_b.asked)
    assert answer.metrics.response_explored.value == pytest.approx(share)
    assert f"{of_a.explored:,} were computed to learn" in " ".join(answer.reasons)
    assert any("learnt" in line for line in answer.provenance["assumed"])
    fixed = forerun.simulate(case(tmp_path), bootstrap=False)
    assert fixed.metrics.response_explored.value is None
    assert not any("learnt" in line for line in fixed.provenance["assumed"])


def test_a_case_reads_as_it_was_said(tmp_path):
    for change in ([LEARNS], []):
        one = case(tmp_path, *change)
        said = one.model_dump(mode="json")
        assert type(one).model_validate(said) == one
        cache = said["deployment"]["response_cache"]
        assert ("max_error" in cache) is bool(change)
        assert ("threshold" in cache) is not bool(change)
