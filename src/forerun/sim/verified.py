"""Flop, bytes and joule of speculation: what steps verify, and what drafts compute for them.

Steps that verify are priced as the core times them (`cost.verify`).  A row keeps the tokens of all
passes of a draft together, so its passes are priced as equal ones; its prompts are the step's.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from forerun.cost.table import CostTable, grid

#: (values [row, K], row [L], knots [K], x [L], between) -> [L]
Line = Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray, str], np.ndarray]


def verified(leaps: np.ndarray, table: CostTable, part: str, line: Line) -> np.ndarray:
    """What each leap takes more because it verifies proposals: float64 [L]."""
    out = np.zeros(len(leaps))
    at = leaps["n_draft"] > 0
    if table.verify is None or not at.any():
        return out
    rows, work = leaps[at], getattr(table, part)
    n, more = rows["n_decode"].astype(float), rows["n_draft"].astype(float)
    if part in table.verify.seqs:
        seqs = table.verify.seqs_of(part, work.seqs)
        points = grid(table.verify.max_sampled)
        sampled = rows["n_seqs"].astype(float)
        out[at] += np.interp(sampled + more, points, seqs) - np.interp(sampled, points, seqs)
    if part in table.verify.decode:
        ratio = table.verify.decode[part]
        at_q = [
            line(work.decode * r, rows["n_decode"], table.knots_ctx, rows["ctx"] / n, table.between)
            for r in ratio
        ]
        out[at] += _between(table.verify.queries, np.stack(at_q), 1 + more / n) - at_q[0]
    return out


def _between(queries: np.ndarray, values: np.ndarray, q: np.ndarray) -> np.ndarray:
    """values [Q, L] read at q [L] queries, linear between and beyond."""
    j = np.clip(np.searchsorted(queries, q, side="right") - 1, 0, len(queries) - 2)
    each = np.arange(len(q))
    share = (q - queries[j]) / (queries[j + 1] - queries[j])
    return values[j, each] + (values[j + 1, each] - values[j, each]) * share


def drafted(leaps: np.ndarray, table: CostTable, part: str, line: Line) -> np.ndarray:
    """What the draft takes for each leap, passes and prompts; table : the draft's."""
    work = getattr(table, part)
    out = np.zeros(len(leaps))
    tokens, sampled = grid(table.max_tokens), grid(table.max_seqs)
    at = leaps["draft_tokens"] > 0
    rows = leaps[at]
    depth = np.maximum(rows["depth"], 1).astype(float)
    each = rows["draft_tokens"] / depth
    n = np.minimum(np.maximum(np.rint(each).astype(int), 1), rows["n_decode"])
    ctx = rows["ctx"] / np.maximum(rows["n_decode"], 1)
    out[at] += depth * (
        np.interp(each, tokens, work.tokens)
        + np.interp(each, sampled, work.seqs)
        + line(work.decode, n, table.knots_ctx, ctx, table.between)
    )
    at = leaps["n_chunks"] > 0
    rows = leaps[at]
    k = rows["n_chunks"].astype(float)
    chunk, past = rows["chunk"] / k, rows["past"] / k
    low = np.clip(np.searchsorted(tokens, chunk, side="right") - 1, 0, len(tokens) - 2)
    share = (chunk - tokens[low]) / (tokens[low + 1] - tokens[low])
    ends = [
        line(work.prefill, row, table.knots_past, past, table.between) for row in (low, low + 1)
    ]
    one = ends[0] + (ends[1] - ends[0]) * share
    out[at] += rows["n_steps"] * (np.interp(rows["chunk"], tokens, work.tokens) + k * one)
    return out
