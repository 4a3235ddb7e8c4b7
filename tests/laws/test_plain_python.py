"""What plain Python sees to, as compiled code cannot: every index counts from an array's start."""

import numpy as np
import pytest
from fleets import pool, sharing

from forerun.sim.core.plain import Guarded, guarded
from forerun.sim.serve import Server


@pytest.fixture
def state():
    server = Server([pool(replicas=2)])
    server.inject(sharing(1, 5, isl=20))
    return guarded(server._state)


def test_a_negative_index_is_refused_wherever_it_stands(state):
    for array in (state.live, state.load, state.last_step):
        with pytest.raises(IndexError, match="-1"):
            array[-1]
    with pytest.raises(IndexError, match="-2"):
        state.load[0, -2] = 1
    with pytest.raises(IndexError, match="-1"):
        state.last_step[0][np.int64(-1)]


def test_guarded_arrays_are_the_same_memory(state):
    seen = guarded(state)
    seen.live[0].isl = 77
    seen.load[0, 1] = 5
    assert (state.live[0].isl, state.load[0, 1]) == (77, 5)
    assert "77" in str(seen.live[:1])


def test_a_policy_may_count_from_the_end(state):
    def last(request, load, params, memory, rng):
        assert not isinstance(load, Guarded)
        return load[0, -1]

    seen = guarded(state._replace(route=last))
    seen.load[0, -1 + len(state.replicas)] = 3
    assert seen.route(seen.live[0], seen.load, seen.route_params, seen.route_memory, None) == 3
