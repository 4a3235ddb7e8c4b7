"""What adapters cost a run: how often one was there, what had to come, who waited for it."""

from __future__ import annotations

from typing import Any

import numpy as np

from forerun.metrics.figure import Figure, plural, ratio, text
from forerun.metrics.latency import PS
from forerun.metrics.window import View


def figures(part: View) -> dict[str, Any]:
    """adapter_hit, adapter_loads, adapter_bytes, adapter_wait_s, adapters_mean; None without."""
    fitted, hit, loads, loaded, wait = part.log.fitted, None, None, None, None
    if part.whole and fitted is not None and fitted["n_asked"].any():
        asked = float(fitted["n_asked"].sum())
        hit = float(fitted["n_there"].sum()) / asked
        loads, loaded = int(fitted["n_loads"].sum()), float(fitted["bytes"].sum())
        wait = float(fitted["wait_ps"].sum()) * PS / asked
    return {
        "adapter_hit": Figure(hit, "share", "requests"),
        "adapter_loads": Figure(loads, "count", "replicas"),
        "adapter_bytes": Figure(loaded, "bytes", "replicas"),
        "adapter_wait_s": Figure(wait, "s", "requests"),
        "adapters_mean": Figure(_in_a_step(part), "count", "steps"),
    }


def _in_a_step(part: View) -> float | None:
    """Different adapters in a step, mean over the steps that have any."""
    if part.leaps is None or not part.leaps["n_adapters"].any():
        return None
    steps = np.where(part.leaps["n_adapters"] > 0, part.leaps["n_steps"], 0).astype(float)
    return ratio(float((part.leaps["n_adapters"] * steps).sum()), float(steps.sum()))


def told(part: View, hit: Figure, wait: Figure) -> list[str]:
    """A sentence for `explain`."""
    fitted = part.log.fitted
    if fitted is None or hit.value is None:
        return []
    n, far = int(fitted["n_loads"].sum()), int(fitted["n_far"].sum())
    took = f", which took {text(float(fitted['load_ps'].sum()) * PS / n, 's')} each" if n else ""
    beyond = f", {far:,} of them from beyond the host" if far else ""
    out = int(fitted["n_evicted"].sum())
    return [
        f"{text(hit.value, 'share')} of the requests with an adapter came to a replica that had "
        f"it; {plural(n, 'adapter')} had to come{beyond}{took}, {out:,} made room, and requests "
        f"stood apart {text(wait.value, 's')} on average for theirs, or for room in the batch."
    ]
