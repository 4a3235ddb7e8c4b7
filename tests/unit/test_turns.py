"""Conversations of a trace that go on after the simulated answer."""

from __future__ import annotations

import numpy as np
import pytest

from forerun import api
from forerun.errors import SpecError
from forerun.spec.traces.draw import requests_of
from forerun.spec.workload import Traffic

ROWS = (
    "arrival_s,isl,osl,session,took_s\n"
    "0,100,50,a,2\n"  # answer ends at 2, the next comes at 5: three seconds to think
    "1,100,50,b,nan\n"  # no end recorded: 50 tokens at 0.1 s, so it ends at 6
    "5,150,50,a,9\n"  # the next comes before its end, at 14: no time to think
    "8,120,40,b,3\n"
    "9,100,10,,1\n"  # of no conversation
    "11,200,20,a,1\n"
)


def traffic(tmp_path, **more):
    path = tmp_path / "trace.csv"
    path.write_text(ROWS)
    return Traffic(trace=str(path), token_s=0.1, **{"turns": "after_answer", **more})


def test_the_time_to_think_is_from_the_recorded_end_of_the_answer_to_the_next_request(tmp_path):
    requests = requests_of(traffic(tmp_path), seed=0)
    before = np.repeat(np.arange(6), np.diff(requests.successor_starts))
    assert (before.tolist(), requests.successors.tolist()) == ([0, 1, 2], [2, 3, 5])
    assert requests.delay_s.tolist() == [3.0, 2.0, 0.0]
    told = requests.meta["turns"]
    assert (told["n"], told["n_recorded"], told["n_early"]) == (3, 2, 1)


def test_a_stretched_clock_leaves_the_time_to_think_as_it_was(tmp_path):
    plain, fast = (requests_of(traffic(tmp_path, rate_per_s=r), seed=0) for r in (None, 50.0))
    assert fast.arrival_s[-1] < 1
    np.testing.assert_array_equal(plain.delay_s, fast.delay_s)


def test_a_conversation_waits_for_the_simulated_answer_however_late_it_is(tmp_path):
    case = {
        "model": "llama-3.1-8b", "fleet": {"l4": 1}, "deployment": {"device": "l4"},
        "traffic": traffic(tmp_path).model_dump(exclude_unset=True) | {"token_s": "100 ms"},
    }  # fmt: skip
    result = api.simulate(api.load(case), bootstrap=False)
    rows = result.log.requests
    for before, after, think_s in ((0, 2, 3.0), (1, 3, 2.0), (2, 5, 0.0)):
        assert rows["arrival_ps"][after] == rows["done_ps"][before] + round(think_s * 1e12)
    assert rows["arrival_ps"][4] == 9 * 10**12
    assert any("recorded time to think" in reason for reason in result.reasons)
    assert any("is an estimate" in said for said in result.provenance["assumed"])


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"arrivals": "poisson", "rate_per_s": 1.0}, "these arrivals have another"),
        ({"concurrency": 2, "n_requests": 5}, "these arrivals have another"),
        ({"turns": "recorded"}, "only turns: after_answer reads it"),
        ({"n_requests": 2}, "turns wait for nothing"),
    ],
)
def test_turns_that_cannot_be_are_refused_with_a_sentence(tmp_path, more, said):
    with pytest.raises(SpecError, match=said):
        requests_of(traffic(tmp_path, **more), seed=0)
