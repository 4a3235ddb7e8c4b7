"""How a call starts: replayed in a graph, or call by call from the host.

    time = launch + busy
    time = own + max(launch - own, busy),  own = min(launch, graph)      of an engine's calls

A device needs `graph` at most to start what it has been given.  What an empty call takes beyond
that is the host's.  Engines do not wait for a call, nor do tables that time them call after call
(collector/helper.py of AIConfigurator): the host prepares the next while the device is busy, so a
long kernel hides it.  Tools that time operators wait for each.
"""

from __future__ import annotations

import numpy as np

from forerun.cost.sheet import Sheet

ENGINES = ("vllm", "sglang", "trtllm")
PROFILED = ("llmservingsim",)  # tools that time kernels in a profile, without their starts
#: of a call that Python starts, timed from outside: estimate
EAGER_S = 30e-6
#: such calls in a layer of an engine that Python walks through: estimate
LAYER = 2.0


def started(launch_s: np.ndarray | float, busy: np.ndarray, graph_s: float, s: Sheet) -> np.ndarray:
    """Seconds of a call whose kernels take `busy` and that takes `launch_s` empty, [N]."""
    own = np.minimum(launch_s, graph_s)
    return np.where(s.by(*ENGINES), own + np.maximum(launch_s - own, busy), launch_s + busy)


def is_alone(s: Sheet) -> np.ndarray:
    """Rows of tools that time kernels without their starts, bool [N]."""
    return s.by(*PROFILED)


def without_graphs(s: Sheet) -> np.ndarray:
    """Rows of engines on devices where no graph of calls can be captured, bool [N]: Intel GPUs."""
    return s.by(*ENGINES) & s.on("xe2")


def first_s(s: Sheet, graph_s: np.ndarray) -> np.ndarray:
    """Seconds of an empty layer before any measurement, where it takes so many in a graph, [N]."""
    return np.where(without_graphs(s), np.maximum(LAYER * EAGER_S, graph_s), graph_s)
