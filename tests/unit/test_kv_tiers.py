"""Tiers of KV in a case: from the words of a file to what the answer says."""

from __future__ import annotations

import pytest

import forerun
from forerun.errors import SpecError

CASE = {
    "name": "tiers",
    "model": "llama-3.1-8b",
    "fleet": {"l40s": 1},
    "traffic": {"trace": "long_context", "rate_per_s": "0.3 req/s", "n_requests": 120},
    "deployment": {"device": "l40s"},
}
DRAM = {"tier": "dram", "capacity_bytes": "100 GB", "link": "pcie4-x16"}


def case(*tiers, **engine):
    own = {**CASE["deployment"], "kv_tiers": list(tiers), "engine": engine}
    return forerun.Case.model_validate({**CASE, "deployment": own})


def test_a_tier_is_found_in_the_answer_and_raises_the_hit_rate():
    plain, kept = (forerun.simulate(one, bootstrap=False) for one in (case(), case(DRAM)))
    assert plain.metrics.kv_hit_below.value is None
    assert kept.metrics.kv_hit.value > plain.metrics.kv_hit.value
    assert kept.metrics.kv_hit_below.value > 0
    assert kept.metrics.kv_written_bytes_per_s.value > kept.metrics.kv_read_bytes_per_s.value > 0
    assert any("dram gave" in reason for reason in kept.reasons)
    assert "100 GB" in str(kept)
    assert any("KV tiers" in line for line in kept.provenance["assumed"])
    (tier,) = kept.log.tiers
    # an 8B Llama has 128 KiB of KV a token
    assert tier.read_bytes == tier.hit_tokens * 131072
    assert tier.written_bytes == tier.n_written * 512 * 131072


def test_a_cap_is_said_in_the_answer():
    result = forerun.simulate(case(attended_tokens=1024), bootstrap=False)
    assert "at most 1,024 tokens attended" in str(result)
    assert any("caps" in line for line in result.provenance["assumed"])


@pytest.mark.parametrize(
    ("tier", "what"),
    [
        ({**DRAM, "capacity_bytes": "1 MB"}, "hold no block"),
        ({"tier": "dram", "capacity_bytes": "1 TB"}, "no bandwidth"),
    ],
)
def test_a_tier_that_cannot_work_is_a_sentence(tier, what):
    with pytest.raises(SpecError, match=what):
        forerun.simulate(case(tier))


def test_a_plan_refuses_tiers_that_it_would_not_look_at():
    with pytest.raises(SpecError, match="kv_tiers: a plan would leave it out"):
        forerun.api.plan(case(DRAM))


def test_a_capacity_of_nothing_is_refused_as_the_case_is_read():
    with pytest.raises(ValueError, match="greater than 0"):
        case({**DRAM, "capacity_bytes": 0})


def test_a_link_that_is_not_in_the_catalog_is_a_sentence():
    with pytest.raises(forerun.ForerunError, match="pcie9"):
        forerun.simulate(case({**DRAM, "link": "pcie9"}))
