"""Laws of batch policies: what one may read without saying so, a leap leaves as it is."""

from __future__ import annotations

import pytest
from fleets import assert_laws, both_ways, fleets, serve, sharing, troubles
from flows import woven
from serving import workload

from forerun.sim.core.signatures import YES
from forerun.spec.workload import Client


def by_running(replica, engine, params):
    return YES, 8 if replica.n_running > 2 else 20, 0, engine.max_seqs


def by_chunks(replica, engine, params):
    return YES, 8 if replica.n_chunks > 0 else 20, 0, engine.max_seqs


def by_waiting(replica, engine, params):
    return YES, 8 if replica.n_waiting > 2 else 20, 0, 1 + replica.n_running


by_waiting.EVERY_STEP = True


@pytest.mark.parametrize("batch", [by_running, by_chunks, by_waiting])
def test_a_leap_equals_stepping_with_batches_shaped_by_counts(batch):
    for seed in range(6):
        requests = workload(seed, 50, isl=120, rate=80)
        for pools in fleets().values():
            leapt = both_ways(serve, requests, pools, policies={"batch": batch})
            assert_laws(leapt, requests)


@pytest.mark.parametrize("batch", [by_running, by_chunks, by_waiting])
def test_a_leap_equals_stepping_with_batches_shaped_by_counts_whatever_else_happens(batch):
    client = Client(first_token_s=0.06, hedge_s=0.02, retries=2)
    for seed in range(4):
        requests = sharing(seed, 50, isl=120, rate=80)
        requests = woven(requests, seed) if seed % 2 else requests
        for pools in fleets().values():
            leapt = both_ways(
                serve, requests, pools, policies={"batch": batch}, commands=troubles(seed, pools),
                client=client if seed % 2 else None,
            )  # fmt: skip
            assert_laws(leapt, requests, all_sent=False)
