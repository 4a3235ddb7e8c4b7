"""Joules: idle power over the whole time, and what each step's work takes above idle.

Every replica idles all the time it is rented and powered, also when nothing runs on it and while it
starts; one that is off, failed or taken away draws nothing.  Host, cooling and conversion are left
out (a site's PUE belongs to `carbon`).
"""

from __future__ import annotations

import numpy as np

from forerun.metrics import rental, work
from forerun.metrics.window import View


def idle_j(part: View) -> float:
    """idle_w * time powered, all replicas."""
    idle_w = work.of_replica(part.log, "idle_w")
    return float((idle_w * rental.share(part, rental.POWERED)).sum()) * part.duration_s


def dynamic_j(part: View) -> float | None:
    """Energy above idle; None when the log kept no steps."""
    if part.leaps is None:
        return None
    return float(np.sum(work.by_leap(part.leaps, part.log, "energy_j")))


def by_replica_j(part: View) -> np.ndarray | None:
    """Idle and dynamic energy of each replica: float64 [replicas]; None as `dynamic_j`."""
    if part.leaps is None:
        return None
    idle_w = work.of_replica(part.log, "idle_w")
    idle = idle_w * rental.share(part, rental.POWERED) * part.duration_s
    return idle + work.by_replica(part.leaps, part.log, "energy_j")


def energy_j(part: View) -> float | None:
    """Idle and dynamic together; None when the log kept no steps."""
    dynamic = dynamic_j(part)
    return None if dynamic is None else idle_j(part) + dynamic
