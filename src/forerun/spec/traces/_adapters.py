"""Which adapter each request names, drawn by Zipf's law."""

from __future__ import annotations

import numpy as np

from forerun.errors import SpecError
from forerun.spec.adapters import AdapterTraffic
from forerun.spec.requests import Requests
from forerun.spec.streams import stream
from forerun.spec.traces._columns import take


def with_adapters(requests: Requests, adapters: AdapterTraffic, *, seed: int) -> Requests:
    """The requests, each with an adapter (stream `adapters`): one for a conversation or workflow.

    Adapter a of n is drawn with weight 1 / (a + 1) ** skew; a request names none with chance
    1 - share.  Raises SpecError where the trace names them already.
    """
    if requests.adapter is not None:
        what = "the trace names an adapter for each request already"
        raise SpecError.one("traffic.adapters", what, "drop it, or the column `adapter`")
    rng, n = stream(seed, "adapters"), len(requests)
    weight = np.arange(1, adapters.n + 1, dtype=float) ** -adapters.skew
    which = np.searchsorted(np.cumsum(weight) / weight.sum(), rng.random(n)).clip(
        max=adapters.n - 1
    )
    which = np.where(rng.random(n) < adapters.share, which, -1).astype(np.int64)
    for together in (requests.session, requests.workflow):
        if together is not None:
            _, first, member = np.unique(together, return_index=True, return_inverse=True)
            which = np.where(together >= 0, which[first][member], which)
    return take(requests, np.arange(n), adapter=which)
