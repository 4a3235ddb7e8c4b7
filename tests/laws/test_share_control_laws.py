"""Laws of shares of SMs that a policy changes beside pools that come and go or change otherwise."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from control import cold, drifting, drive, scaled
from fleets import assert_laws, assert_same, pool, sharing
from flows import woven
from sharing_devices import lanes

from forerun.sim.control.dials import SHARES, keys
from forerun.sim.control.drive import Control
from forerun.sim.serve import Server
from forerun.spec.sm_share import SmShare

LEVELS = ((2.0, 1.5), (1.3, 3.0), (4.0, 1.1))
RULE = {
    "prefill": 0.5, "decode": 0.5, "levels": [0.3, 0.7], "policy": "slo_driven", "every_s": 0.05,
    "ttft_s": 0.05, "tpot_s": 0.006,
}  # fmt: skip


def shared(replicas=1, *, name="g", bytes_per_s=0.0, **rule):
    """Lanes whose shares a policy chooses."""
    said = SmShare(**{**RULE, **rule})
    how = {"name": name, "switch_s": 0.002, "bytes_per_s": bytes_per_s}
    rows = lanes(replicas=replicas, levels=LEVELS, **how)
    return [
        replace(one, pool=one.pool.model_copy(update={"sm_share": said}), switch_s=0.002)
        for one in rows
    ]


def beside(other):
    """Lanes before a pool that changes by itself."""
    own = [pool(replicas=3, n_blocks=30, name="own")]
    if other == "scaled":
        return [*shared(2), *scaled(own, min_replicas=0)]
    if other == "kept":
        rule = {"policy": "keep_alive", "keep_alive_s": 0.1, "min_replicas": 0}
        return [*shared(1), *scaled(own, **rule), *shared(1, name="h", every_s=0.03)]
    own = [pool(n_blocks=30, name="own")]
    return [*drifting(own, 0.07, [0, 2, 1, 2, 0]), *shared(1, ttft_s=0.02)]


@pytest.mark.parametrize("other", ["scaled", "kept", "drifting"])
def test_a_leap_equals_stepping_with_a_policy_of_shares_beside_what_changes(other):
    switched = 0
    for seed in range(4):
        requests = sharing(seed, 60, isl=60, ties=seed % 2 == 0, rate=60)
        if seed % 2:
            requests = woven(requests, seed)
        leapt, stepped = (
            drive(requests, beside(other), cold_s=0.04, leap=leap, seed=seed)
            for leap in (True, False)
        )
        log = assert_laws(leapt.server, requests, all_sent=False)
        assert_same(log, stepped.log())
        assert leapt.log().meta == stepped.log().meta
        assert (log.requests["status"] == 0).all()
        switched += len(leapt.shares.switches)
    assert switched > 8


def test_shares_are_a_dial_of_both_lanes():
    pools = beside("scaled")
    control = drive(sharing(1, 60, isl=60, rate=60), pools)
    last = control.shares.switches[-1]
    level = RULE["levels"].index(last["decode"]) + 1 if last["decode"] != 0.5 else 0
    state = control.server._state
    home = keys(pools)
    for k in range(4):
        assert dict(home[int(state.replicas.pool[k])][1]).get(SHARES, 0) == level
    assert state.replicas.partner[:4].tolist() == [2, 3, 0, 1]


def test_a_policy_that_stays_writes_the_log_of_shares_that_are_fixed():
    requests = sharing(2, 60, isl=60, rate=60)
    lax = shared(2, ttft_s=1e3, tpot_s=1e3)
    control = drive(requests, lax)
    plain = Server(lax, n_requests=60, hash_tokens=requests.hash_tokens)
    plain.inject(requests)
    plain.advance()
    assert not control.shares.switches
    log, other = control.log(), plain.log_so_far()
    assert log.requests.tobytes() == other.requests.tobytes()
    assert log.leaps.tobytes() == other.leaps.tobytes()
    assert log.spans is None


def test_a_scaled_pool_shares_what_comes_with_lanes():
    """Its rule does not see all requests as its own while lanes take some of them."""
    rule = {"policy": "target_tracking", "metric": "requests_per_s", "target": 10.0}
    pools = [*shared(3), *scaled([pool(replicas=4, n_blocks=60)], min_replicas=1, **rule)]
    server = Server(pools, n_requests=60, hash_tokens=8)
    control = Control(server, colds=[cold(0)] * len(pools))
    view = control.scalers[0]
    now = view._look()
    np.testing.assert_allclose(view._shares(now), [1 / 4])
