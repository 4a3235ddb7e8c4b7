"""Seconds of one operator from repeats: warm-up, passes apart in time, the quietest of them.

A machine that others use is slowed now and then for a second or a minute.  So an operator is timed
in short passes with other operators between them; a pass gives the median of its repeats, and the
quietest pass is the time.  Repeats in which this process was kept waiting for a core (the share of
processor time fell) are counted and left out.  What the passes say about each other is stated, not
hidden.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

#: a spread above this is marked as noisy
NOISY = 0.1
WARM_UP = 2  # repeats that are not counted
LEAST = 5  # repeats a pass has at least
KEPT = 3  # of them that were not disturbed, if PATIENCE times as long suffices
PATIENCE = 4.0
PASS_S = 0.03  # seconds a pass takes at least
#: a repeat with less processor time for its time than this share of the best one's was disturbed
GIVEN = 0.95


@dataclass(frozen=True)
class Pass:
    """Repeats without a break."""

    time_s: float  # median
    spread: float  # (third quartile - first) / median
    repeats: int  # that count
    disturbed: int = 0  # that were left out


@dataclass(frozen=True)
class Timed:
    """What the passes of one operator say together."""

    time_s: float  # median of the repeats of the quietest pass
    spread: float
    repeats: int  # of all passes
    passes: int
    disturbed: int = 0

    @property
    def is_noisy(self) -> bool:
        return self.spread > NOISY


def one_pass(
    repeat: Callable[[], float], *, pass_s: float = PASS_S, least: int = LEAST,
    clock: Callable[[], float] = time.perf_counter, used: Callable[[], float] = time.process_time,
) -> Pass:  # fmt: skip
    """Times an operator: `repeat` runs it and returns seconds.

    clock, used : seconds that passed, and of processor time that this process got.
    """
    for _ in range(WARM_UP):
        repeat()
    took: list[float] = []
    share: list[float] = []
    begin = clock()
    while True:
        start, work = clock(), used()
        took.append(repeat())
        share.append((used() - work) / max(clock() - start, 1e-9))
        spent = clock() - begin
        if len(took) >= least and spent >= pass_s:
            kept = [t for t, ok in zip(took, undisturbed(share), strict=True) if ok]
            if len(kept) >= KEPT or spent >= PATIENCE * pass_s:
                return of_repeats(kept, disturbed=len(took) - len(kept))


def undisturbed(share: Sequence[float]) -> list[bool]:
    """Which repeats got about as much processor time for their time as the best one."""
    best = max(share)
    return [s >= GIVEN * best for s in share]


def of_repeats(took: Sequence[float], *, disturbed: int = 0) -> Pass:
    """Median and spread of repeats, one at least."""
    if len(took) == 1:
        return Pass(took[0], 0.0, 1, disturbed)
    first, middle, third = statistics.quantiles(took, n=4, method="inclusive")
    return Pass(middle, (third - first) / middle if middle > 0 else 0.0, len(took), disturbed)


def quietest(passes: Sequence[Pass]) -> Timed:
    """The pass of the least median, and by how much what was seen disagrees with it.

        spread = max(spread of that pass, second quietest / quietest - 1)

    One pass has nothing to be compared with: its own spread is all that is known.
    """
    order = sorted(passes, key=lambda p: p.time_s)
    spread = order[0].spread
    if len(order) > 1 and order[0].time_s > 0:
        spread = max(spread, order[1].time_s / order[0].time_s - 1)
    repeats, disturbed = (sum(getattr(p, n) for p in passes) for n in ("repeats", "disturbed"))
    return Timed(order[0].time_s, spread, repeats, len(passes), disturbed)
