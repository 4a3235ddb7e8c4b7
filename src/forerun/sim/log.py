"""`Log`: what a run leaves behind.  Metrics are pure functions of it.

Times are int64 picoseconds from the start of the run.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from forerun.cost.table import CostTable
from forerun.sim.core.rows_log import DONE, GAP, LEAP, STATUS  # noqa: F401  (the row types of a log)
from forerun.sim.responses import Answered
from forerun.sim.tiers import TierUse

#: where a replica can be: not rented; rented and starting; taking requests; ending its last ones;
#: failed, and paid for; taken away or failed, and not paid for.  And how many ought to be up, said
#: of the first ones of a pool.
OFF, COLD, UP, DRAINING, DOWN, GONE, WANTED = range(7)
PAID = (COLD, UP, DRAINING, DOWN)  # a replica that was taken away costs nothing
POWERED = (COLD, UP, DRAINING)  # one that failed draws nothing
STATE_WORDS = ("off", "cold", "up", "draining", "down", "gone", "wanted")

#: a stretch of time in one of these states (but `OFF`)
SPAN = np.dtype(
    [("replica", "i4"), ("state", "i4"), ("from_ps", "i8"), ("to_ps", "i8")], align=True
)


@dataclass(frozen=True, eq=False)
class Graph:
    """Workflows of a run; all arrays by request number, or by pair of requests.

    workflow : int64 [N], -1 when none.
    before, after : int64 [E], request `after` waited for `before` and delay_ps (int64 [E]) more.
    start_ps, deadline_ps : int64 [W], when each workflow began (-1 never) and when its last answer
        was due (NEVER when not said).
    """

    workflow: np.ndarray
    before: np.ndarray
    after: np.ndarray
    delay_ps: np.ndarray
    start_ps: np.ndarray
    deadline_ps: np.ndarray


@dataclass(frozen=True)
class Tenant:
    """Who sends requests: its weight where tenants share, and what it is promised."""

    name: str = ""
    weight: float = 1.0
    slo_class: str | None = None
    ttft_s: float = math.inf  # when its first tokens are due, for orders that look at it


@dataclass(frozen=True, eq=False)
class Streams:
    """Which stream each request is a chunk of, and the pace of all."""

    session: np.ndarray  # int64 [N], by request
    fps: float
    frames: int  # of a chunk


@dataclass(frozen=True, eq=False)
class Log:
    """One row a request, one row a leap, one row an unusual gap.

    requests : structured array of dtype DONE, sorted by request id.
    leaps    : structured array of dtype LEAP in the order written; None when not kept.
    gaps     : structured array of dtype GAP; None when not kept.
    pool_of_replica : int64 [replicas], index into `tables` and `pools`.
    """

    requests: np.ndarray
    leaps: np.ndarray | None
    gaps: np.ndarray | None
    start_ps: int
    end_ps: int  # when the last event happened
    n_unfinished: int
    replicas: np.ndarray  # structured array of dtype TOTALS, one row a replica
    pool_of_replica: np.ndarray
    tables: tuple[CostTable, ...]
    pools: tuple[str, ...]
    kv_blocks: np.ndarray  # int64 [pools], capacity of one replica
    seed: int
    tiers: tuple[TierUse, ...] = ()  # below the replicas' memory, the nearest first
    fetch_s: float = 0.0  # time that requests waited for KV from them, all together
    n_fetched: int = 0  # times that one did
    graph: Graph | None = None  # which requests belong together, and which waited for which
    spans: np.ndarray | None = None  # of dtype SPAN; None when all replicas were there all the time
    meta: Mapping[str, Any] = field(default_factory=dict)  # provenance: version, hashes, policies
    loads: np.ndarray | None = None  # structured array of dtype LOADS, one row a replica
    encodes: np.ndarray | None = None  # of dtype ENCODES, one row a replica; None without items
    branched: np.ndarray | None = None  # of dtype BRANCHED, one row a replica; None: no ControlNets
    tuned: np.ndarray | None = None  # structured array of dtype TUNED, one row a replica
    fitted: np.ndarray | None = None  # structured array of dtype FITTED, one row a replica
    netted: np.ndarray | None = None  # the same of ControlNets; None where none comes and goes
    frames: np.ndarray | None = None  # int64 [N], of each answer that a diffusion model makes
    streams: Streams | None = None  # of video
    answered: Answered | None = None  # what the response cache did, where there is one
