"""The least number of replicas that keeps an SLO, and the highest rate that they carry."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from forerun.plan.evaluate import Bench, Point, Tails

LINEAR = 64  # so many replica counts are tried one by one, and the least is exact
LONG = 200_000  # requests above which they are not
RATE_STEP = 1.02  # capacity is known to 2 %
MOST_RATE = 64.0  # times the case's rate at which the search for capacity ends


@dataclass(frozen=True)
class Found:
    """What the search knows of one candidate."""

    met_at: int | None  # least replicas that meet the SLO at the estimate
    safe_at: int | None  # and at the pessimistic end too
    point: Point  # at met_at, or at the most the fleet holds
    pessimistic: Tails | None = None
    optimistic: Tails | None = None


def least_replicas(
    meets: Callable[[int], bool], first: int, most: int, *, linear: bool = True
) -> int | None:
    """The least n in first..most that meets; None when none does.

    linear : every n is tried in order (at most LINEAR of them).  Else n grows by doubling steps and
    the last step is bisected; which n are tried does not depend on `most`, but for those above it,
    which are not tried.  Exact where meeting is monotone in n.
    """
    if linear and most - first <= LINEAR:
        return next((n for n in range(first, most + 1) if meets(n)), None)
    low, step = first - 1, 1
    while True:  # low misses (or is not asked), high meets or is beyond the fleet
        high = first - 1 + step
        if high > most or meets(high):
            break
        low, step = high, 2 * step
    while high - low > 1:
        middle = (low + high) // 2
        if middle > most or meets(middle):
            high = middle
        else:
            low = middle
    return high if high <= most else None


def search_one(bench: Bench) -> Found:
    """The least replicas of a candidate, with the figures there."""
    ready, linear = bench.ready, len(bench.requests) <= LONG
    most = ready.candidate.most
    met = least_replicas(lambda n: bench.judge(n).met, ready.least, most, linear=linear)
    if met is None:
        return Found(None, None, bench.measure(most))

    def holds(n: int) -> bool:
        return bench.judge(n, time_factor=bench.high).met and bench.judge(n).met

    safe = least_replicas(holds, met, most, linear=linear)
    ends = [bench.tails(met, time_factor=factor) for factor in (bench.high, bench.low)]
    return Found(met, safe, bench.measure(met), *ends)


def capacity(bench: Bench, replicas: int) -> tuple[float, bool] | None:
    """The highest rate at which the SLO is still met, and whether the search ended before it broke.

    The same requests on a faster clock, to RATE_STEP; from the case's own rate, which is met.
    None for a closed loop, or requests that all come at once.
    """
    r = bench.requests
    if r.meta.get("concurrency") or not r.duration_s:
        return None
    rate = (len(r) - 1) / r.duration_s
    low, high = 1.0, 2.0
    while bench.judge(replicas, rate=high).met:
        low, high = high, 2 * high
        if low >= MOST_RATE:
            return low * rate, True
    while high / low > RATE_STEP:
        middle = (low * high) ** 0.5
        if bench.judge(replicas, rate=middle).met:
            low = middle
        else:
            high = middle
    return low * rate, False
