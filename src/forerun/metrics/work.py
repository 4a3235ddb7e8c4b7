"""What steps and replicas of a log took and have: sums of `sim.amounts`, figures of devices."""

from __future__ import annotations

import numpy as np

from forerun.cost.table import CostTable
from forerun.sim import amounts
from forerun.sim.log import Log


def of_replica(log: Log, name: str) -> np.ndarray:
    """What one replica of the log has of a table's device figure: float64 [replicas].

    name : peak_flop_per_s, peak_hbm_bytes_per_s, idle_w or n_devices, which a table states for all
    pipeline stages together; a log has a row of replicas for each of the batches in flight, so
    each of them has the stages' part of it.
    """
    each = np.array([getattr(t, name) / t.stages for t in log.tables], dtype=float)
    return each[log.pool_of_replica] if len(each) else np.zeros(len(log.pool_of_replica))


def time_s(leaps: np.ndarray, table: CostTable) -> np.ndarray:
    """What a table says that each leap's steps take on the device: float64 [L]."""
    return amounts.amount(leaps, table, table.time_s)


def host_s(leaps: np.ndarray, table: CostTable) -> np.ndarray:
    """Host time of each leap's steps: float64 [L]."""
    return leaps["n_steps"] * (table.host_step_s + table.host_seq_s * leaps["n_seqs"])


def by_replica(leaps: np.ndarray, log: Log, part: str) -> np.ndarray:
    """Sums of one part ("flop", "hbm_bytes", "link_bytes", "energy_j") by replica: [replicas]."""
    out = np.zeros(len(log.pool_of_replica))
    np.add.at(out, leaps["replica"], by_leap(leaps, log, part))
    return out


def by_leap(leaps: np.ndarray, log: Log, part: str, *, drafts: bool = True) -> np.ndarray:
    """One part's amount for each leap, priced by the table of its replica: float64 [L]."""
    tuning = log.meta.get("tuning", ())
    return amounts.by_leap(leaps, log.tables, part, drafts=drafts, tuning=tuning)
