"""Leap arithmetic: step i of a leap lasts first + i * slope picoseconds, i = 0, 1, ...

All in integers, so that a leap of k steps ends exactly where k single steps would.
"""

from __future__ import annotations

from forerun.sim.core.jit import jit

LONG = 1 << 40  # more steps than any leap has


@jit
def span(first, slope, k):
    """Duration of the first k steps:  k * first + slope * k * (k - 1) / 2."""
    return k * first + slope * (k * (k - 1) // 2)


@jit
def steps_to_reach(first, slope, n, elapsed):
    """The fewest steps k in 1..n whose span is at least `elapsed`; n if even n fall short.

    Bisection: exact, and at most 31 rounds.
    """
    low = 1
    high = n
    while low < high:
        middle = (low + high) // 2
        if span(first, slope, middle) >= elapsed:
            high = middle
        else:
            low = middle + 1
    return low
