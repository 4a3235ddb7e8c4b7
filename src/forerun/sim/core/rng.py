"""Random numbers for policies: a counter-based stream, the same compiled or not.

A stream is a uint64 array of one element, seeded by the caller from the run's named streams.
Source: splitmix64, Steele, Lea and Flood, OOPSLA 2014 (public-domain reference by S. Vigna).
"""

from __future__ import annotations

import numpy as np

from forerun.sim.core.jit import jit

_STEP = np.uint64(0x9E3779B97F4A7C15)
_MIX1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX2 = np.uint64(0x94D049BB133111EB)
_S30, _S27, _S31 = np.uint64(30), np.uint64(27), np.uint64(31)
_S11, _S1 = np.uint64(11), np.uint64(1)


@jit
def _mixed(z):
    """A uint64 of which every bit depends on every bit of z; products wrap.

    Unsigned, because the compiler takes it that a signed product never wraps.
    """
    z = (z ^ (z >> _S30)) * _MIX1
    z = (z ^ (z >> _S27)) * _MIX2
    return z ^ (z >> _S31)


@jit
def scattered(n):
    """The hash of an int64, in 0..2**63-1: equal for equal numbers, else as if drawn by chance."""
    return np.int64(_mixed(np.uint64(n) + _STEP) >> _S1)


@jit
def uniform(rng):
    """The next float64 in [0, 1) of the stream."""
    rng[0] = rng[0] + _STEP
    return np.float64(_mixed(rng[0]) >> _S11) * (1.0 / 9007199254740992.0)


@jit
def draw(seed, a, b):
    """The float64 in [0, 1) that belongs to a pair of integers >= 0, whoever asks and when."""
    z = seed + (np.uint64(a) + np.uint64(1)) * _STEP
    z = (z ^ (z >> _S30)) * _MIX1
    z = (z ^ (z >> _S27)) * _MIX2
    z = (z ^ (z >> _S31)) + (np.uint64(b) + np.uint64(1)) * _STEP
    z = (z ^ (z >> _S30)) * _MIX1
    z = (z ^ (z >> _S27)) * _MIX2
    z = z ^ (z >> _S31)
    return np.float64(z >> _S11) * (1.0 / 9007199254740992.0)


@jit
def integer(rng, n):
    """The next integer in 0..n-1 of the stream, uniform to within n / 2**53."""
    return np.int64(uniform(rng) * n)
