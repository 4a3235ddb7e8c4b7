"""What requests waited for before they were first scheduled.

A request that comes during a step waits for the step to end, whatever the load.  Any further leap
that passes without it had no room, and the leap's row shows which limit was reached.
"""

from __future__ import annotations

import numpy as np

from forerun.metrics.encoders import encodes
from forerun.metrics.latency import PS
from forerun.metrics.window import View
from forerun.sim.leaps import end_ps

KV_FULL = 0.95  # share of blocks in use from which the KV cache is what turns requests away
STEP, KV, SEATS, TOKENS, POLICY, OUTSIDE = (
    "step in progress", "KV blocks", "max_num_seqs", "max_num_batched_tokens", "policy", "outside",
)  # fmt: skip


def waited_s(part: View) -> dict[str, float] | None:
    """Seconds that all scheduled requests waited, by what for; None when the log kept no steps.

    STEP      the end of the step during which they came
    KV        leaps with KV_FULL of the blocks or more in use
    SEATS     leaps with max_num_seqs requests running
    TOKENS    leaps whose steps used the whole max_num_batched_tokens
    POLICY    leaps below these limits: the batch policy or the order held them back, or their
              prompt was too long for the blocks left
    OUTSIDE   no step ran: the API server and tokenizer, or an idle replica
    """
    if part.log.leaps is None or encodes(part.log).any():
        return None  # who waited for an encoder is listed where its prompt was computed
    rows = part.arrived[part.arrived["scheduled_ps"] >= 0]
    leaps = part.log.leaps[np.lexsort((part.log.leaps["start_ps"], part.log.leaps["replica"]))]
    # a prompt waits where it is computed, wherever its answer goes on
    where = np.where(rows["prefill_replica"] >= 0, rows["prefill_replica"], rows["replica"])
    order = np.argsort(where, kind="stable")
    rows, where = rows[order], where[order]
    reached = _limits(leaps, part)
    replicas = np.arange(len(part.log.pool_of_replica) + 1)
    of_leap = np.searchsorted(leaps["replica"], replicas)
    of_row = np.searchsorted(where, replicas)
    total = dict.fromkeys((STEP, *reached, OUTSIDE), 0.0)
    for i in replicas[:-1]:
        mine, these = slice(of_leap[i], of_leap[i + 1]), rows[of_row[i] : of_row[i + 1]]
        if len(these) and mine.stop > mine.start:
            masks = {name: mask[mine] for name, mask in reached.items()}
            for name, seconds in _of_replica(leaps[mine], these, masks).items():
                total[name] += seconds
    return total


def _limits(leaps: np.ndarray, part: View) -> dict[str, np.ndarray]:
    """The limit that each leap is at: bool [L] each, exactly one true for every leap."""
    log = part.log
    pool = leaps["pool"]
    seats = np.array([t.max_seqs for t in log.tables])[pool]
    tokens = np.array([t.max_tokens for t in log.tables])[pool]
    capacity = log.kv_blocks[pool]
    full = (leaps["n_blocks"] >= KV_FULL * capacity) & (capacity > 0)
    seated = ~full & (leaps["n_running"] >= seats) & (capacity > 0)  # encoders have neither
    spent = ~full & ~seated & (leaps["n_tokens"] >= tokens)
    return {KV: full, SEATS: seated, TOKENS: spent, POLICY: ~full & ~seated & ~spent}


def _of_replica(
    leaps: np.ndarray, rows: np.ndarray, reached: dict[str, np.ndarray]
) -> dict[str, float]:
    """Seconds by reason for the requests of one replica, whose leaps are in order of time."""
    start, stop = leaps["start_ps"], end_ps(leaps)
    came, left = rows["arrival_ps"], rows["scheduled_ps"]
    at = np.searchsorted(start, came, side="left") - 1  # the leap that began before it came
    running = (at >= 0) & (stop[at] > came)
    boundary = np.where(running, np.minimum(stop[at], left), came)
    out = {STEP: float(np.sum(boundary - came)) * PS}
    times = np.stack([start, stop], axis=1).ravel().astype(float)
    for name, mask in reached.items():
        spent = np.where(mask, stop - start, 0)
        sums = np.cumsum(spent)
        by = np.stack([sums - spent, sums], axis=1).ravel().astype(float)
        out[name] = float(np.sum(np.interp(left, times, by) - np.interp(boundary, times, by))) * PS
    rest = float(np.sum(left - came)) * PS - sum(out.values())
    return out | {OUTSIDE: max(rest, 0.0)}
