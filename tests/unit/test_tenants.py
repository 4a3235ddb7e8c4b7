"""Cases with tenants and SLO classes: how they are written, who sends what, what is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest

import forerun
from forerun.errors import SpecError
from forerun.metrics.tenants import served_until, waiting_throughout
from forerun.plan.limits import check_plannable
from forerun.sim.log import DONE
from forerun.spec.case import Case

BASE = """\
model: llama-3.1-8b
fleet: {l4: 1}
traffic: {rate_per_s: 4 req/s, n_requests: 300, isl: 300, osl: 60}
deployment: {device: l4, dtype: fp8, engine: {order: vtc, max_num_seqs: 8}}
"""
TWO = """\
slo:
  ttft_s: 4 s
  attainment: 0.9
  classes: {chat: {ttft_s: 1 s, priority: -1}, batch: {e2el_s: 60 s}}
tenants:
  shop: {share: 1, slo: chat, weight: 2}
  crawler: {share: 3, slo: batch}
  other: 1
"""


def case(tmp_path, text, *overrides):
    path = tmp_path / "case.yaml"
    path.write_text(text)
    return forerun.load(path, list(overrides))


def test_tenants_divide_the_traffic_and_bring_the_goals_of_their_class(tmp_path):
    read = case(tmp_path, BASE + TWO)
    requests = forerun.api.requests(read)
    assert Case.model_validate_json(read.model_dump_json()) == read
    shares = np.bincount(requests.tenant) / len(requests)
    np.testing.assert_allclose(shares, [0.2, 0.6, 0.2], atol=0.08)
    assert requests.priority[requests.tenant == 0].tolist() == [-1] * int(
        (requests.tenant == 0).sum()
    )
    assert (requests.deadline_s[requests.tenant == 1] == 60).all()
    assert np.isinf(requests.deadline_s[requests.tenant != 1]).all()
    alone = forerun.api.requests(read.model_copy(update={"tenants": {}}))
    np.testing.assert_array_equal(requests.arrival_s, alone.arrival_s)
    np.testing.assert_array_equal(requests.isl, alone.isl)


def test_a_case_without_tenants_hashes_as_it_did(tmp_path):
    dumped = case(tmp_path, BASE).model_dump(mode="json")
    assert "tenants" not in dumped
    assert "classes" not in dumped["slo"]


def test_own_traffic_comes_beside_the_case_s(tmp_path):
    own = TWO.replace("share: 3", "traffic: {rate_per_s: 1 req/s, n_requests: 50, isl: 9, osl: 9}")
    requests = forerun.api.requests(case(tmp_path, BASE + own))
    assert len(requests) == 350
    assert (requests.isl[requests.tenant == 1] == 9).all()
    assert (requests.tenant == 1).sum() == 50
    assert (np.diff(requests.arrival_s) >= 0).all()


def test_a_trace_says_who_sends_what(tmp_path):
    rows = ["arrival_s,isl,osl,tenant", "0,10,5,bulk", "1,20,5,shop", "2,30,5,bulk"]
    (tmp_path / "trace.csv").write_text("\n".join(rows) + "\n")
    text = BASE.replace("rate_per_s: 4 req/s, n_requests: 300, isl: 300, osl: 60",
                        f"trace: {tmp_path / 'trace.csv'}")  # fmt: skip
    requests = forerun.api.requests(
        case(tmp_path, text + "tenants: {shop: {}, bulk: {weight: 2}}\n")
    )
    assert requests.tenant.tolist() == [1, 0, 1]
    with pytest.raises(SpecError, match=r"no request of .* is of a tenant 'shopp'"):
        forerun.api.requests(case(tmp_path, text + "tenants: {shopp: {weight: 3}, bulk: {}}\n"))
    with pytest.raises(SpecError, match="has requests of 'shop', which is no tenant"):
        forerun.api.requests(case(tmp_path, text + "tenants: {bulk: {}}\n"))


def test_the_answer_holds_each_tenant_to_its_own_class(tmp_path):
    answer = forerun.simulate(case(tmp_path, BASE + TWO))
    found = json.loads(json.dumps(answer.to_dict()))
    by_tenant = {row["name"]: row for row in found["by_tenant"]}
    rows, ps = answer.log.requests, 1e-12
    ttft = (rows["first_token_ps"] - rows["arrival_ps"]) * ps
    late = (rows["done_ps"] - rows["arrival_ps"]) * ps
    for u, (name, good) in enumerate(
        (("shop", ttft <= 1), ("crawler", late <= 60), ("other", ttft <= 4))
    ):
        own = rows["tag"] == u
        assert by_tenant[name]["attainment"] == pytest.approx(good[own].mean())
        assert by_tenant[name]["n"] == own.sum()
    classes = {row["name"]: row for row in found["by_class"]}
    assert set(classes) == {"chat", "batch", "none"}
    met = all(row["attainment"] >= row["asked"] for row in classes.values())
    assert found["slo"]["met"] == met
    assert "by tenant" in str(answer)
    assert "by class" in str(answer)
    assert sum(row["n"] for row in by_tenant.values()) == len(rows)


def test_weights_give_who_waits_more_of_what_there_is(tmp_path):
    text = BASE.replace("rate_per_s: 4", "rate_per_s: 40").replace("300,", "1200,")
    tenants = "tenants: {a: {weight: 3}, b: {}}\n"
    fair = forerun.simulate(case(tmp_path, text + tenants)).metrics
    assert fair.jain.value > 0.97
    plain = forerun.simulate(case(tmp_path, text + tenants.replace("weight: 3", ""),
                                  "deployment.engine.order=fcfs")).metrics  # fmt: skip
    done = {row.name: row.ttft_p50_s for row in fair.by_tenant}
    assert done["a"] < 0.7 * done["b"]
    even = {row.name: row.ttft_p50_s for row in plain.by_tenant}
    assert even["a"] == pytest.approx(even["b"], rel=0.1)


def test_mistakes_are_sentences(tmp_path):
    for wrong, said in (
        ("tenants: {a: {slo: chatt}}\nslo: {classes: {chat: {ttft_s: 1 s}}}\n",
         r"(?s)'chatt' is not one of the classes.*no tenant is of this class"),
        ("tenants: {a: {slo: chat}}\nslo: {classes: {chat: {priority: 1}}}\n",
         "is a class without a goal"),
        ("tenants: {a: {traffic: {rate_per_s: 1 /s, n_requests: 5, isl: 5, osl: 5}}}\n",
         "nobody sends the case's"),
        ("tenants: {a: {}, b: {traffic: {concurrency: 2, n_requests: 5, isl: 5, osl: 5}}}\n",
         "a closed loop is of one traffic"),
    ):  # fmt: skip
        with pytest.raises(SpecError, match=said):
            case(tmp_path, BASE + wrong)
    read = case(
        tmp_path, BASE + "tenants: {a: {weight: 2}, b: {}}\n", "deployment.engine.order=fcfs"
    )
    with pytest.raises(SpecError, match="no engine's order looks at"):
        forerun.simulate(read)


def test_a_plan_does_not_leave_tenants_out_silently(tmp_path):
    with pytest.raises(SpecError, match="tenants"):
        check_plannable(case(tmp_path, BASE + TWO), "cost", None)


def rows_of(*spans):
    """Rows of (arrival, start, first token, end)."""
    rows = np.zeros(len(spans), dtype=DONE)
    for name, column in zip(
        ("arrival_ps", "scheduled_ps", "first_token_ps", "done_ps"), zip(*spans, strict=True),
        strict=True,
    ):  # fmt: skip
        rows[name] = column
    rows["isl"], rows["n_out"] = 10, 5
    return rows


def test_service_comes_evenly_and_windows_count_where_somebody_always_waits():
    rows = rows_of((0, 10, 20, 40), (5, 30, 40, 50))
    edges = np.array([0.0, 10, 15, 20, 30, 50])
    served = served_until(rows, edges, 1.0, 2.0)
    np.testing.assert_allclose(served, [0, 0, 5, 10, 15, 40])
    assert waiting_throughout(rows, edges).tolist() == [True, True, True, True, False]
    apart = rows_of((0, 10, 20, 40), (15, 30, 40, 50))
    assert waiting_throughout(apart, edges).tolist() == [True, False, True, True, False]


FAR = """\
regions: {near: {share: 3}, far: {share: 1, rtt_s: {near: 60 ms}, ahead_s: 12 h}}
deployment:
  pools: [{device: l4, dtype: fp8, region: near, engine: {max_num_seqs: 8}}]
"""
OWN = "{rate_per_s: 2 req/s, n_requests: 400, isl: 90, osl: 5, arrivals: diurnal}"


def test_tenants_and_models_with_traffic_of_their_own_come_from_the_regions_too(tmp_path):
    plain = "\n".join(BASE.splitlines()[:-1]) + "\n" + FAR
    read = case(tmp_path, plain + f"tenants: {{shared: {{}}, own: {{traffic: {OWN}}}}}\n")
    requests = forerun.api.requests(read)
    for tenant, n in ((0, 300), (1, 400)):
        mine = requests.region[requests.tenant == tenant]
        assert len(mine) == n
        assert np.mean(mine == 1) == pytest.approx(0.25, abs=0.1)
    alone = forerun.api.requests(read.model_copy(update={"tenants": {}}))
    np.testing.assert_array_equal(requests.region[requests.tenant == 0], alone.region)
    assert (forerun.simulate(read).log.requests["status"] == 0).all()
    models = f"models: {{llama-3.1-8b: {{}}, qwen3-8b: {{traffic: {OWN}}}}}\n"
    served = plain.partition("\n")[2].replace(
        "{device", "{models: [llama-3.1-8b, qwen3-8b], device"
    )
    asked = forerun.api.requests(case(tmp_path, models + served))
    for model in (0, 1):
        assert np.mean(asked.region[asked.model == model] == 1) == pytest.approx(0.25, abs=0.1)
