"""Random numbers of the core, against the published generator in whole numbers of Python."""

from __future__ import annotations

import types

import numpy as np
import pytest

from forerun.sim.core import rng

GOLDEN, MASK = 0x9E3779B97F4A7C15, (1 << 64) - 1


def mixed(z):
    """splitmix64's output function (Vigna's reference in C)."""
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & MASK
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB & MASK
    return z ^ (z >> 31)


def as_plain(name):
    """A function of the room as plain Python, compiled or not."""
    inner = {n: getattr(f, "py_func", f) for n, f in vars(rng).items()}
    return types.FunctionType(inner[name].__code__, inner)


@pytest.fixture(autouse=True)
def products_wrap():
    with np.errstate(over="ignore"):
        yield


def test_a_stream_gives_the_published_numbers():
    """The first five of splitmix64 for the seed 1234567, as implementations are checked with."""
    stream = np.array([1234567], dtype=np.uint64)
    known = [
        6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431,
        16408922859458223821,
    ]  # fmt: skip
    uniform = as_plain("uniform")
    assert [uniform(stream) for _ in known] == [(z >> 11) / 2**53 for z in known]
    integer = types.FunctionType(
        getattr(rng.integer, "py_func", rng.integer).__code__,
        {"np": np, "uniform": uniform},
    )
    stream[0] = 1234567
    assert [integer(stream, 10) for _ in known] == [int(z / 2**64 * 10) for z in known]


@pytest.mark.parametrize("n", [0, 1, -1, 77, 2**62, -(2**63)])
def test_a_hash_is_the_first_number_of_a_stream_that_begins_there(n):
    hashed = types.FunctionType(
        getattr(rng.scattered, "py_func", rng.scattered).__code__,
        {**vars(rng), "_mixed": as_plain("_mixed")},
    )
    assert hashed(np.int64(n)) == mixed((n + GOLDEN) & MASK) >> 1


@pytest.mark.parametrize(("a", "b"), [(0, 0), (0, 1), (1, 0), (12345, 678), (2**40, 3)])
def test_the_number_of_a_pair_is_that_of_the_second_in_the_stream_of_the_first(a, b):
    seed = 987654321
    z = mixed((mixed((seed + (a + 1) * GOLDEN) & MASK) + (b + 1) * GOLDEN) & MASK)
    assert as_plain("draw")(np.uint64(seed), a, b) == (z >> 11) / 2**53
