"""Flop, bytes and joule of leaps, from the batch each row describes and the replica's CostTable.

A leap's amount is n_steps times the amount of its middle step, which is exact where the table is
affine over the leap (leaps end at knots, so it is).  A row keeps the sums over a step's chunks, so
several chunks are priced as equal ones.
"""

from __future__ import annotations

import numpy as np

from forerun.cost.table import CostTable, Work, grid
from forerun.metrics import drafts as verify
from forerun.sim.log import Log
from forerun.sim.tables import slope


def of_replica(log: Log, name: str) -> np.ndarray:
    """What one replica of the log has of a table's device figure: float64 [replicas].

    name : peak_flop_per_s, peak_hbm_bytes_per_s, idle_w or n_devices, which a table states for all
    pipeline stages together; a log has a row of replicas for each of the batches in flight, so
    each of them has the stages' part of it.
    """
    each = np.array([getattr(t, name) / t.stages for t in log.tables], dtype=float)
    return each[log.pool_of_replica] if len(each) else np.zeros(len(log.pool_of_replica))


def amount(leaps: np.ndarray, table: CostTable, work: Work) -> np.ndarray:
    """The quantity all steps of each leap take together: float64 [L], in the unit of `work`."""
    n = leaps["n_steps"].astype(float)
    middle = (n - 1) / 2
    batch, chunks = leaps["n_decode"], leaps["n_chunks"]
    ctx = leaps["ctx"] + (batch - leaps["n_still"]) * middle
    past = leaps["past"] + leaps["chunk"] * middle
    step = np.interp(leaps["n_tokens"], grid(table.max_tokens), work.tokens)
    step += np.interp(leaps["n_seqs"], grid(table.max_seqs), work.seqs)
    decoding = batch > 0
    step[decoding] += _line(
        work.decode, batch[decoding], table.knots_ctx, ctx[decoding] / batch[decoding],
        table.between,
    )  # fmt: skip
    filling = chunks > 0
    k = chunks[filling]
    step[filling] += k * _surface(
        work.prefill, grid(table.max_tokens), leaps["chunk"][filling] / k,
        table.knots_past, past[filling] / k, table.between,
    )  # fmt: skip
    return n * step


def picked(leaps: np.ndarray, table: CostTable, part: str) -> np.ndarray:
    """What picking the tokens that decoding reads takes of a part, for each leap: float64 [L]."""
    assert table.pick is not None
    if part == "link_bytes":
        return np.zeros(len(leaps))
    share = table.pick.flop_share if part == "flop" else table.pick.bytes_share
    a_token = slope(table, getattr(table, part).decode)[leaps["n_picking"]]
    n = leaps["n_steps"].astype(float)
    return n * (leaps["scored"] + leaps["n_scored"] * (n - 1) / 2) * a_token * share


def host_s(leaps: np.ndarray, table: CostTable) -> np.ndarray:
    """Host time of each leap's steps: float64 [L]."""
    return leaps["n_steps"] * (table.host_step_s + table.host_seq_s * leaps["n_seqs"])


def by_replica(leaps: np.ndarray, log: Log, part: str) -> np.ndarray:
    """Sums of one part ("flop", "hbm_bytes", "link_bytes", "energy_j") by replica: [replicas]."""
    out = np.zeros(len(log.pool_of_replica))
    np.add.at(out, leaps["replica"], by_leap(leaps, log, part))
    return out


def by_leap(leaps: np.ndarray, log: Log, part: str, *, drafts: bool = True) -> np.ndarray:
    """One part's amount for each leap, priced by the table of its replica: float64 [L].

    drafts : with that of the draft, where it runs on the replica's devices; energy of all drafts.
    """
    out = np.zeros(len(leaps))
    pool = leaps["pool"] if len(log.tables) > 1 else np.zeros(len(leaps), dtype=int)
    for p, table in enumerate(log.tables):
        mine = pool == p
        if not mine.any():
            continue
        rows = leaps[mine]
        out[mine] = amount(rows, table, getattr(table, part))
        if table.pick is not None:
            out[mine] += picked(rows, table, part)
        if table.verify is None:
            continue
        out[mine] += verify.verified(rows, table, part, _line)
        draft = table.draft
        if drafts and draft is not None and (part == "energy_j" or not table.draft_apart):
            out[mine] += verify.drafted(rows, draft, part, _line)
    return out


def _line(
    values: np.ndarray, row: np.ndarray, knots: np.ndarray, x: np.ndarray, between: str
) -> np.ndarray:
    """values[row] read at x, linear between knots and beyond the last, or constant: [L]."""
    if between == "constant":
        return values[row, np.searchsorted(knots, x, side="right") - 1]
    if len(knots) == 1:
        return values[row, 0]
    i = np.clip(np.searchsorted(knots, x, side="right") - 1, 0, len(knots) - 2)
    share = (x - knots[i]) / (knots[i + 1] - knots[i])
    return values[row, i] + (values[row, i + 1] - values[row, i]) * share


def _surface(
    values: np.ndarray,
    points: np.ndarray,
    y: np.ndarray,
    knots: np.ndarray,
    x: np.ndarray,
    between: str,
) -> np.ndarray:
    """values read at fractional (y on points, x on knots), linear both ways: [L]."""
    if len(points) == 1:
        return _line(values, np.zeros(len(y), int), knots, x, between)
    j = np.clip(np.searchsorted(points, y, side="right") - 1, 0, len(points) - 2)
    share = (y - points[j]) / (points[j + 1] - points[j])
    low = _line(values, j, knots, x, between)
    high = _line(values, j + 1, knots, x, between)
    return low + (high - low) * share
