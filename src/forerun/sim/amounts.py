"""Flop, bytes and joule of leaps, from the batch each row describes and its row's CostTable.

A leap's amount is n_steps times the amount of its middle step, which is exact where the table is
affine over the leap (leaps end at knots, so it is).  A row keeps the sums over a step's chunks, so
several chunks are priced as equal ones.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from forerun.cost.table import CostTable, Work, grid
from forerun.sim import leaps as leap_rows
from forerun.sim import verified as verify
from forerun.sim.tables import slope
from forerun.spec.tuning import Tuning


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


def tuned(leaps: np.ndarray, table: CostTable, work: Work, how: Tuning) -> np.ndarray:
    """What tuning tokens add to all steps of each leap (as `sim.tables.tuning`): float64 [L]."""
    q, grid_of, n = leaps["n_tuned"], grid(table.max_tokens), leaps["n_tokens"]
    step = np.interp(n + q, grid_of, work.tokens) - np.interp(n, grid_of, work.tokens)
    step += how.backward * np.interp(q, grid_of, work.tokens)
    past = np.full(len(q), how.sequence / 2)
    attention = _surface(work.prefill, grid_of, q, table.knots_past, past, table.between)
    return leaps["n_steps"] * (step + (1 + how.backward) * attention)


def branched(leaps: np.ndarray, table: CostTable, part: str) -> np.ndarray:
    """What ControlNets take of a part in each leap, all passes of them alike: float64 [L].

        passes * (products(tokens of a pass) + sampling) + requests of all * attention(own tokens)

    table : of one of them.  Its requests have the step's mean size.
    """
    out = np.zeros(len(leaps))
    at = (leaps["draft_tokens"] > 0) & (leaps["n_seqs"] > 0)
    rows, work, tokens = leaps[at], getattr(table, part), grid(table.max_tokens)
    size = rows["n_tokens"] / np.maximum(rows["n_seqs"], 1)
    using = rows["draft_tokens"] / size  # requests, once for each ControlNet that they use
    step = using * np.interp(size, tokens, work.prefill[:, 0])
    passes = np.maximum(rows["depth"], 1)
    step += passes * np.interp(rows["draft_tokens"] / passes, tokens, work.tokens)
    step += passes * np.interp(using / passes, grid(table.max_seqs), work.seqs)
    out[at] = rows["n_steps"] * step
    return out


def by_leap(
    leaps: np.ndarray,
    tables: Sequence[CostTable],
    part: str,
    *,
    drafts: bool = True,
    tuning: Sequence[Tuning | None] = (),
) -> np.ndarray:
    """One part's amount for each leap, priced by the table of its row: float64 [L].

    part : "flop", "hbm_bytes", "link_bytes", "energy_j".
    drafts : with that of the draft, where it runs on the replica's devices; energy of all drafts.
    tuning : how each row trains beside serving, where some do.
    """
    out = np.zeros(len(leaps))
    pool = leaps["pool"] if len(tables) > 1 else np.zeros(len(leaps), dtype=int)
    for p, table in enumerate(tables):
        mine = pool == p
        if not mine.any():
            continue
        rows = leaps[mine]
        out[mine] = amount(rows, table, getattr(table, part))
        how = tuning[p] if tuning else None
        if how is not None:
            out[mine] += tuned(rows, table, getattr(table, part), how)
        if table.pick is not None:
            out[mine] += picked(rows, table, part)
        if table.branch is not None and (part == "energy_j" or not table.branch_apart):
            out[mine] += branched(rows, table.branch, part)
        if table.verify is None:
            continue
        out[mine] += verify.verified(rows, table, part, _line)
        draft = table.draft
        if drafts and draft is not None and (part == "energy_j" or not table.draft_apart):
            out[mine] += verify.drafted(rows, draft, part, _line)
    return out


def energy_by(
    leaps: np.ndarray,
    tables: Sequence[CostTable],
    t_ps: np.ndarray | int,
    tuning: Sequence[Tuning | None] = (),
) -> np.ndarray:
    """Joule above idle that each leap has taken by a time: float64 [L].

    t_ps : one time, or one for each leap.  Within a step power is even, so that the sum is the same
    whether steps were leapt over or taken one by one.
    """
    t = np.broadcast_to(np.asarray(t_ps, dtype=np.int64), len(leaps))
    k = leap_rows.steps_ended_by(leaps, t)
    whole, step = leaps.copy(), leap_rows.step_of(leaps, k)
    whole["n_steps"] = k
    length = np.maximum(leap_rows.span_ps(step), 1)
    share = np.clip((t - step["start_ps"]) / length, 0.0, 1.0)
    share[k == leaps["n_steps"]] = 0.0
    ended, under_way = (by_leap(rows, tables, "energy_j", tuning=tuning) for rows in (whole, step))
    return ended + share * under_way


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
