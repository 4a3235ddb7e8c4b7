"""Scale rules, cold starts and faults that cannot be are refused in sentences; costs by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from handmade_logs import S, rows, three_requests

from forerun import api, catalog
from forerun.errors import PolicyError, SpecError
from forerun.metrics.score import score
from forerun.sim.control.cold import cold
from forerun.sim.control.find import find
from forerun.sim.log import COLD, DOWN, GONE, SPAN, UP, WANTED
from forerun.spec.control import ColdStart, Fault
from forerun.spec.deployment import Policy, Pool

CASE = {
    "model": "llama-3.1-8b",
    "fleet": {"l4": 4},
    "traffic": {"arrivals": "poisson", "rate_per_s": "1 req/s", "n_requests": 10,
                "isl": 50, "osl": 5},
    "deployment": {"device": "l4", "replicas": 4},
}  # fmt: skip


def problems(*, rule=None, start=None, faults=()):
    """What is told of a case with these settings."""
    pool = dict(CASE["deployment"])
    if rule is not None:
        pool["autoscale"] = rule
    if start is not None:
        pool["cold_start"] = start
    with pytest.raises(SpecError) as refused:
        api.read(CASE | {"deployment": pool, "faults": list(faults)}, env={}, project=False)
    return str(refused.value)


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ({"target": 8, "min_replicas": 5}, "min_replicas: 5 is more than the most, 4"),
        ({"target": 8, "max_replicas": 9}, "9 is more than the 4 replicas that the pool has room"),
        ({"target": 8, "min_replicas": 2, "initial_replicas": 1}, "1 is not between 2 and 4"),
        ({"metric": "outstandig", "target": 8}, "did you mean outstanding"),
        ({"policy": "target_traking", "target": 8}, "did you mean target_tracking"),
        ({}, "target: is missing (of the metric, a replica)"),
        ({"metric": "kv", "target": 1.2}, "1.2 can never be passed"),
        ({"metric": "running", "target": 256}, "(max_num_seqs), so the rule never fires"),
        ({"metric": "ttft_s", "target": 0.5, "min_replicas": 0}, "says nothing at zero"),
        ({"policy": "scheduled"}, "schedule: is empty, so the rule never fires"),
        (
            {
                "policy": "scheduled",
                "repeat_s": "1 h",
                "schedule": [{"at_s": "2 h", "replicas": 1}],
            },
            "7200 s lies beyond the 3600 s",
        ),
        (
            {"policy": "scheduled", "schedule": [{"at_s": "2 h", "replicas": 0}]},
            "0 is outside the bounds 1 to all",
        ),
        ({"policy": "forecast", "target": 5, "repeat_s": "30 s"}, "fewer than four looks"),
    ],
)
def test_a_rule_that_cannot_work_is_refused_with_what_would(rule, said):
    assert said in problems(rule=rule)


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ({}, "mtbf_s: is missing (exponential times need their mean)"),
        ({"mtbf_s": "1 h", "process": "exponental"}, "did you mean exponential"),
        ({"mtbf_s": "1 h", "notice_s": "1 min"}, "a crash comes without notice"),
        ({"effect": "loss", "mtbf_s": "1 h", "notice_s": "2 h"}, "not shorter than a life of 3600"),
        ({"effect": "slow", "mtbf_s": "1 h"}, "1 changes nothing"),
        ({"mtbf_s": "1 h", "factor": 2}, "factor: has no meaning for a crash"),
        ({"mtbf_s": "1 h", "shape": 2}, "shape: has no meaning for exponential times"),
        ({"mtbf_s": "1 h", "pool": "mian"}, "no pool is called 'mian'"),
        ({"mtbf_s": "1 h", "replicas": [7]}, "there is no replica 7, the pool has 4"),
        ({"mtbf_s": "1 h", "group_replicas": 2}, "group_replicas: has no meaning per replica"),
        ({"effect": "upgrade"}, "an upgrade begins at a time"),
        ({"effect": "link", "mtbf_s": "1 h", "factor": 2}, "no KV moves between replicas"),
    ],
)
def test_a_fault_that_cannot_be_is_refused_with_what_would(fault, said):
    assert said in problems(faults=[fault])


def test_all_mistakes_are_told_at_once():
    told = problems(
        rule={"min_replicas": 9}, start={"image_bytes": "8 GB"}, faults=[{"effect": "upgrade"}]
    )
    assert all(word in told for word in ("min_replicas", "image_bytes_per_s", "at_s", "target"))


def test_a_plan_with_failures_is_refused():
    case = api.load(CASE | {"faults": [{"mtbf_s": "1 h"}]}, env={}, project=False)
    with pytest.raises(SpecError, match="a plan does not simulate failures"):
        api.plan(case)


@pytest.mark.parametrize("name", ["tidal", "scheduled.py:nothing"])
def test_an_unknown_rule_is_named(name):
    with pytest.raises(PolicyError, match=name.partition(":")[0]):
        find("scale", Policy(name=name))
    with pytest.raises(PolicyError, match="has no knob 'tolerence'"):
        find("scale", Policy(name="target_tracking", params={"tolerence": 1.0}))


# -- cold starts -----------------------------------------------------------------------------------


def stages(start, *, device="h100-sxm", tp=2, weights_bytes=8e9):
    pool = Pool(device=device, tp=tp, cold_start=ColdStart(**start))
    return cold(pool, catalog.device(device), weights_bytes)


def test_each_stage_of_a_cold_start_takes_its_bytes_over_its_rate():
    found = stages({"allocate_s": 30, "image_bytes": 10e9, "image_bytes_per_s": 2e8,
                    "weights_from": "nvme", "compile_s": 40, "warm_s": 5})  # fmt: skip
    # both devices' 8 GB over one drive's 7 GB/s
    expected = {"allocate": 30, "pull image": 50, "load weights": 16 / 7, "compile": 40,
                "warm up": 5}  # fmt: skip
    assert dict(found.stages) == pytest.approx(expected)
    assert found.time_s == pytest.approx(125 + 16 / 7)
    assert found.assumed == ("weights load from nvme at 7 GB/s a replica (a usual rate)",)
    given = stages({"weights_from": "nvme", "weights_bytes_per_s": 4e9})
    assert (given.time_s, given.assumed) == (4.0, ())


def test_from_host_memory_each_device_loads_its_part_over_its_own_link():
    rate = catalog.link("pcie5-x16").bandwidth_bytes_per_s
    assert stages({"weights_from": "dram"}).time_s == pytest.approx(8e9 / rate)
    assert stages({"weights_from": "dram"}, tp=8).time_s == pytest.approx(8e9 / rate)


def test_a_tier_without_a_link_is_refused():
    no_link = catalog.device("h100-sxm").model_copy(update={"network": None})
    pool = Pool(device="h100-sxm", cold_start=ColdStart(weights_from="network"))
    with pytest.raises(SpecError, match="knows no network link of h100-sxm"):
        cold(pool, no_link, 1e9)


# -- what it costs, by hand ------------------------------------------------------------------------


def changing():
    """The log of three requests (8 s, busy throughout on replica 0 of two devices, 10 W idle) and a
    second replica: cold 1-2 s, up 2-4, failed and paid for 4-5, taken away 5-7."""
    log = three_requests()
    spans = rows(
        SPAN,
        dict(replica=0, state=UP, from_ps=0, to_ps=8 * S),
        dict(replica=0, state=WANTED, from_ps=0, to_ps=8 * S),
        dict(replica=1, state=COLD, from_ps=S, to_ps=2 * S),
        dict(replica=1, state=UP, from_ps=2 * S, to_ps=4 * S),
        dict(replica=1, state=DOWN, from_ps=4 * S, to_ps=5 * S),
        dict(replica=1, state=GONE, from_ps=5 * S, to_ps=7 * S),
        dict(replica=1, state=WANTED, from_ps=S, to_ps=7 * S),
    )  # fmt: skip
    totals = np.concatenate([log.replicas, np.zeros(1, log.replicas.dtype)])
    return replace(log, spans=spans, replicas=totals, pool_of_replica=np.zeros(2, dtype=np.int64))


def test_money_is_by_the_second_from_allocation_to_release():
    m = score(changing(), price_usd_per_hour=[3600.0])  # 0.5 USD a second and replica
    assert m.usd.value == pytest.approx(0.5 * (8 + 4))  # of the second: cold, up and failed
    assert m.usd_per_hour.value == pytest.approx(3600 * 6 / 8)
    assert score(changing(), price_usd_per_hour=3600.0).usd.value == m.usd.value
    assert m.device_hours.value == pytest.approx(2 * 12 / 3600)
    assert (m.replicas_mean.value, m.replicas_peak.value) == (1.5, 2)
    assert m.cold_share.value == pytest.approx(1 / 12)
    assert m.availability.value == pytest.approx((8 + 2) / (8 + 6))


def test_idle_power_is_drawn_while_a_replica_is_powered():
    always, changed = score(three_requests()), score(changing())
    assert changed.energy_j.value - always.energy_j.value == pytest.approx(10 * 3)  # cold and up


def test_shares_are_of_the_time_a_replica_was_there():
    m = score(changing())
    assert m.by_replica.busy.tolist() == pytest.approx([1.0, 0.0])
    assert m.busy.value == pytest.approx(8 / 11)


def test_a_window_counts_what_lies_in_it():
    m = score(changing(), price_usd_per_hour=[3600.0], window=(2.0, 6.0))
    assert m.usd.value == pytest.approx(0.5 * (4 + 3))
    assert m.availability.value == pytest.approx((4 + 2) / 8)


def test_a_fleet_that_does_not_change_has_no_such_figures():
    m = score(three_requests(), price_usd_per_hour=3600.0)
    assert m.usd.value == pytest.approx(8.0)
    assert m.replicas_mean.value is None
    assert m.availability.value is None


def test_a_description_may_be_written_short():
    fault = Fault.model_validate({"at_s": "10 min"})
    assert (fault.at_s, fault.process.name) == ((600.0,), "listed")
