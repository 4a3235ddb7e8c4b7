"""Laws of prompts and answers on the same devices, each with a share of them."""

from __future__ import annotations

import numpy as np
import pytest
from fleets import assert_laws, assert_same, pool, serve, sharing
from serving import served, workload
from sharing_devices import lanes


def fleets(**how):
    return {
        "one": lanes(**how),
        "two": lanes(replicas=2, **how),
        "beside others": [*lanes(**how), pool(n_blocks=26, name="other")],
    }


@pytest.mark.parametrize("reserve", ["chunk", "full"])
def test_a_leap_equals_stepping_when_lanes_slow_each_other_down(reserve):
    preempted = turned = 0
    for seed in range(10):
        requests = sharing(seed, 60, isl=60, ties=seed % 2 == 0)
        for pools in fleets(reserve=reserve, n_blocks=30).values():
            leapt, stepped = (serve(requests, pools, leap=leap, seed=3) for leap in (True, False))
            log = assert_laws(leapt, requests)
            assert log.n_unfinished == 0
            assert_same(log, stepped.log_so_far())
            np.testing.assert_array_equal(leapt._state.lanes.alone_ps, stepped._state.lanes.alone_ps)
            preempted += log.requests["n_preempt"].sum()
            turned += (log.leaps["pool"] == 1).sum() + (log.leaps["pool"] == 3).sum()
    assert preempted > 20 or reserve == "full"
    assert turned > 500
