"""Joules: idle power over the whole time, and what each step's work takes above idle.

Every replica idles all the time it is deployed, also when nothing runs on it.  Host, cooling and
conversion are left out (a site's PUE belongs to `carbon`).
"""

from __future__ import annotations

import numpy as np

from forerun.metrics import work
from forerun.metrics.window import View


def idle_j(part: View) -> float:
    """idle_w * duration, all replicas."""
    return float(work.of_replica(part.log, "idle_w").sum()) * part.duration_s


def dynamic_j(part: View) -> float | None:
    """Energy above idle; None when the log kept no steps."""
    if part.leaps is None:
        return None
    return float(np.sum(work.by_leap(part.leaps, part.log, "energy_j")))


def energy_j(part: View) -> float | None:
    """Idle and dynamic together; None when the log kept no steps."""
    dynamic = dynamic_j(part)
    return None if dynamic is None else idle_j(part) + dynamic
