"""How fast this machine runs now, beside how fast it runs when it is let.

A core whose neighbour on the same silicon is busy, or whose clock was lowered, gets all of its
processor time and does less with it: by a third and more, for seconds on end.  No count of the
system tells.  So a piece of work that never changes is timed again and again between what is
measured (a probe), and what was measured while it took longer is known to be slow.

    full pace = a fast one of all probes        pace = probe / full pace, 1 or more

Not the fastest: what lasted for a few probes (LASTING) is a pace, of few probes the FULL quantile.
"""

from __future__ import annotations

import bisect
import statistics
import time
from collections.abc import Callable, Iterable, Sequence

import numpy as np

FULL, LASTING = 0.05, 12
#: a probe above this times full pace is slow: on a shared server probes were within 1.1 times the
#: best or 1.3 to 1.6 times (22 November 2026); this and what follows are choices, not measurements
SLOW = 1.18
#: rows of the product that is timed, and how often: the median is the probe, about a millisecond
SIDE, TIMES = 256, 3
EVERY_S = 0.01  # between two probes
LONGEST_S = 10.0  # of one wait
SHARE = 2 / 3  # of all time that may be spent waiting
NAP_S = 0.05  # between two looks of one who waits


def full(ordered: Sequence[float]) -> float:
    """Full pace in seconds a probe, of probes in ascending order; 0 where there are none."""
    return ordered[min(int(FULL * len(ordered)), LASTING)] if ordered else 0.0


def pace_of(probe_s: float, full_s: float) -> float:
    """Pace: 1 at full pace, 1.4 where all takes 1.4 times as long; 1 where nothing is known."""
    return max(probe_s / full_s, 1.0) if probe_s > 0 and full_s > 0 else 1.0


class Pace:
    """Probes of this machine, and patience until it runs at full pace.

    known : probes of an earlier hour; work : takes the seconds of one probe.
    """

    def __init__(
        self, known: Iterable[float] = (), *, work: Callable[[], float] | None = None,
        clock: Callable[[], float] = time.monotonic, sleep: Callable[[float], None] = time.sleep,
    ) -> None:  # fmt: skip
        self.probes = sorted(known)
        self.work, self.clock, self.sleep = work or product(), clock, sleep
        self.begin, self.waited_s = clock(), 0.0

    @property
    def full_s(self) -> float:
        """Seconds of a probe at full pace."""
        return full(self.probes)

    def probe(self) -> float:
        """Seconds of the work now."""
        took = self.work()
        bisect.insort(self.probes, took)
        return took

    def wait(self) -> float:
        """The probe with which full pace is back, or the one with which patience ended."""
        took, end = self.probe(), self.clock() + LONGEST_S
        while pace_of(took, self.full_s) > SLOW and self.clock() < end:
            if self.waited_s >= SHARE * (self.clock() - self.begin):
                break
            start = self.clock()
            self.sleep(NAP_S)
            took = self.probe()
            self.waited_s += self.clock() - start
        return took


class Steady:
    """The pace of a device that is not this processor: always full, no time is spent on it."""

    full_s = 0.0

    def probe(self) -> float:
        return 0.0

    wait = probe


def product() -> Callable[[], float]:
    """The work of a probe: a product of numpy, on as many threads as it was given."""
    a, b, c = (np.ones((SIDE, SIDE), np.float32) for _ in range(3))

    def once() -> float:
        start = time.perf_counter()
        np.matmul(a, b, out=c)
        return time.perf_counter() - start

    return lambda: statistics.median(once() for _ in range(TIMES))
