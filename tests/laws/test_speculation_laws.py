"""Laws of speculation: proposals are work, accepted tokens are extra, everything else stays."""

from __future__ import annotations

import numpy as np
import pytest
from fleets import assert_laws, assert_same, pool, serve, sharing, troubles
from serving import PS, served, simulate, table, token_times, workload
from speculating import kinds, speculating, verified

from forerun.errors import PolicyError, SpecError
from forerun.sim.speculation import quantiles
from forerun.spec.speculation import Acceptance


def logged(log):
    """Every byte of a log."""
    return b"".join(rows.tobytes() for rows in (log.requests, log.leaps, log.gaps, log.replicas))


def test_a_leap_equals_stepping_while_tokens_are_proposed():
    accepted = cut = 0
    for seed in range(6):
        requests = sharing(seed, 50, isl=60, ties=seed % 2 == 0)
        for pools in kinds(n_blocks=30).values():
            leapt, stepped = (
                serve(requests, pools, leap=leap, seed=seed) for leap in (True, False)
            )
            log = assert_laws(leapt, requests)
            assert_same(log, stepped.log_so_far())
            accepted += log.replicas["n_extra"].sum()
            cut += log.replicas["n_preempt"].sum()
    assert accepted > 5000
    assert cut > 50  # memory is tight enough to tell something


def test_a_leap_equals_stepping_whatever_happens_to_a_fleet_that_speculates():
    for seed in range(6):
        requests = sharing(seed, 50, isl=60, ties=seed % 2 == 1)
        for name, pools in kinds(n_blocks=30).items():
            commands = troubles(seed, pools)
            leapt, stepped = (
                serve(requests, pools, commands=commands, leap=leap, seed=3)
                for leap in (True, False)
            )
            assert_same(assert_laws(leapt, requests), stepped.log_so_far()), name
