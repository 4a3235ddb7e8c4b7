"""Seconds of one operator from repeats: warm-up, passes apart in time, the quietest of them.

A machine that others use is slowed now and then for a second or a minute.  So an operator is timed
in short passes with other operators between them; a pass gives the median of its repeats, and the
quietest pass is the time.  Repeats in which this process was kept waiting for a core (the share of
processor time fell), or in which the machine ran below its full pace, are counted and left out.
Passes that have none but those are brought to full pace and marked.  What the passes say about each
other is stated, not hidden.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from forerun.measure.pace import EVERY_S, SLOW, Pace, Steady, pace_of

#: a spread above this is marked as noisy
NOISY = 0.1
PASS_S = 0.03  # seconds a pass takes at least
WARM_UP = 2  # repeats that are not counted, one where it takes that long
LEAST = 5  # repeats a pass has at least, KEPT where they take LONG times as long
LONG = 5.0
KEPT = 3  # of them that were not disturbed, if PATIENCE times as long suffices
PATIENCE = 4.0
#: a repeat with less processor time for its time than GIVEN of the best was disturbed; the best is
#: a quantile, as the two clocks disagree by chance over a short repeat
GIVEN, BEST = 0.95, 0.9
STEADY = Steady()


@dataclass(frozen=True)
class Pass:
    """Repeats without a break."""

    time_s: float  # median
    spread: float  # (third quartile - first) / median
    repeats: int  # that count
    disturbed: int = 0  # that were left out
    probe_s: float = 0.0  # of the machine's pace meanwhile, 0 where it was not asked


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


@dataclass(frozen=True)
class Repeats:
    """The repeats of a pass one by one."""

    took: list[float]  # seconds
    kept: list[bool]  # those that were not disturbed; one at least
    probe_s: float  # of those
    warm_up: int  # repeats before them

    def a_pass(self) -> Pass:
        """What they say together."""
        took = list(itertools.compress(self.took, self.kept))
        return of_repeats(took, disturbed=len(self.took) - len(took), probe_s=self.probe_s)


def one_pass(repeat: Callable[[], float], **settings: Any) -> Pass:
    """Times an operator: `repeat` runs it and returns seconds; settings of `repeats`."""
    return repeats(repeat, **settings).a_pass()


def repeats(
    repeat: Callable[[], float], *, pass_s: float = PASS_S, least: int = LEAST,
    pace: Pace | Steady = STEADY, clock: Callable[[], float] = time.perf_counter,
    used: Callable[[], float] = time.process_time,
) -> Repeats:  # fmt: skip
    """A pass: begun at full pace where that is to be had, with a probe every EVERY_S.

    clock, used : seconds that passed, and of processor time that this process got.
    """
    before = pace.wait()
    warm_up = 0
    begin = clock()
    while warm_up < WARM_UP and clock() - begin <= pass_s:
        repeat()
        warm_up += 1
    took: list[float] = []
    share: list[float] = []
    probes: list[float] = []  # the slower one of before and after
    spent, probed = 0.0, clock()
    while True:
        start, work = clock(), used()
        took.append(repeat())
        lasted = clock() - start
        share.append((used() - work) / max(lasted, 1e-9))
        spent += lasted
        fewest = least if spent < LONG * pass_s else KEPT
        enough = len(took) >= fewest and spent >= pass_s
        if not enough and start + lasted < probed + EVERY_S:
            continue
        after = pace.probe()
        probes += [max(before, after)] * (len(took) - len(probes))
        if enough:
            kept = undisturbed(share, probes, pace.full_s)
            if sum(kept) >= KEPT or spent >= PATIENCE * pass_s:
                probe_s = statistics.median(itertools.compress(probes, kept))
                return Repeats(took, kept, probe_s, warm_up)
        before = after if pace_of(after, pace.full_s) <= SLOW else pace.wait()
        probed = clock()


def undisturbed(
    share: Sequence[float], probes: Sequence[float] = (), full_s: float = 0.0
) -> list[bool]:
    """Which repeats got about as much processor time for their time as the best one, at full pace.

    Where no repeat was at full pace, those of the best pace there was.
    """
    best = sorted(share)[int(BEST * len(share))]
    given = [s >= GIVEN * best for s in share]
    if not probes:
        return given
    least = max(full_s, min(itertools.compress(probes, given)))
    return [ok and probe <= SLOW * least for ok, probe in zip(given, probes, strict=True)]


def of_repeats(took: Sequence[float], *, disturbed: int = 0, probe_s: float = 0.0) -> Pass:
    """Median and spread of repeats, one at least."""
    if len(took) == 1:
        return Pass(took[0], 0.0, 1, disturbed, probe_s)
    first, middle, third = statistics.quantiles(took, n=4, method="inclusive")
    spread = (third - first) / middle if middle > 0 else 0.0
    return Pass(middle, spread, len(took), disturbed, probe_s)


def quietest(passes: Sequence[Pass], full_s: float = 0.0) -> Timed:
    """The pass of the least median, and by how much what was seen disagrees with it.

        spread = max(spread of that pass, second quietest / quietest - 1)

    One pass has nothing to be compared with: its own spread is all that is known.  Passes below
    full pace (of `full_s` seconds a probe) count where there is no other, those of the best pace:
    their times are divided by it, and the spread is what it was off by at least.
    """
    paces = [pace_of(p.probe_s, full_s) for p in passes]
    limit = SLOW if min(paces) <= SLOW else SLOW * min(paces)
    chosen = [
        p if pace <= SLOW else replace(p, time_s=p.time_s / pace, spread=max(p.spread, pace - 1))
        for p, pace in zip(passes, paces, strict=True) if pace <= limit
    ]  # fmt: skip
    order = sorted(chosen, key=lambda p: p.time_s)
    spread = order[0].spread
    if len(order) > 1 and order[0].time_s > 0:
        spread = max(spread, order[1].time_s / order[0].time_s - 1)
    repeats, disturbed = (sum(getattr(p, n) for p in passes) for n in ("repeats", "disturbed"))
    return Timed(order[0].time_s, spread, repeats, len(passes), disturbed)
