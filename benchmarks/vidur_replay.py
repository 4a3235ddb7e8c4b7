"""What was in each of Vidur's batches, from the counts in its `batches-*.csv`.

The file says how many requests and tokens each iteration had, not which.  Under first come, first
served that is enough: prompts go on in order of arrival, and everyone whose prompt is through
decodes.  So an iteration can be priced given the same batch, apart from the scheduler.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from forerun.cost.table import CostTable, grid
from forerun.errors import TraceError
from forerun.spec.requests import Requests

COLUMNS = ("start_s", "num_requests", "prefill_tokens", "decode_tokens", "end_s")


@dataclass(frozen=True)
class Batch:
    """One iteration."""

    time_s: float  # what Vidur charged
    n_decode: int
    ctx: int  # cached tokens of all decoding requests
    chunks: tuple[tuple[int, int], ...]  # (tokens, tokens before them)


def dict_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file with a header.  Raises TraceError if it cannot be read."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise TraceError.one(str(path), f"cannot be read: {error}") from error


def read(path: Path) -> np.ndarray:
    """The rows of a batches file in order: float64 [N, 5], columns as in COLUMNS."""
    rows = dict_rows(path)
    try:
        return np.array([[float(row[c]) for c in COLUMNS] for row in rows])
    except (KeyError, TypeError, ValueError) as error:
        raise TraceError.one(str(path), f"is not a table of batches: {error}") from error


def replay(requests: Requests, rows: np.ndarray) -> list[Batch]:
    """The batches up to the first that first come, first served cannot explain (a preemption)."""
    isl, osl = requests.isl.tolist(), requests.osl.tolist()
    computed, batches = [0] * len(isl), []
    prompts: list[int] = []  # started, prompt not through
    decoders: list[int] = []
    n_out, following = [0] * len(isl), 0
    for start, n_requests, n_prefill, n_decode, end in rows.tolist():
        if n_decode not in (0, len(decoders)):
            break
        n_new = int(n_requests - n_decode) - (len(prompts) if n_prefill else 0)
        n_new = max(n_new, 0)
        if following + n_new > len(isl):
            break
        prompts += range(following, following + n_new)
        following += n_new
        left, chunks, parts = int(n_prefill), [], []
        for r in prompts:
            q = min(left, isl[r] - computed[r])
            if q > 0:
                chunks.append((q, computed[r]))
                parts.append((r, q))
            left -= q
        if left != 0 or len(chunks) + n_decode != n_requests:
            break
        deciders = decoders if n_decode else []
        ctx = sum(computed[r] for r in deciders)
        batches.append(Batch(end - start, len(deciders), ctx, tuple(chunks)))
        through = [r for r, q in parts if computed[r] + q == isl[r]]
        for r in deciders:
            computed[r] += 1
            n_out[r] += 1
        for r, q in parts:
            computed[r] += q
        for r in through:
            n_out[r] = 1
        prompts = [r for r in prompts if computed[r] < isl[r]]
        decoders = [r for r in decoders + through if n_out[r] < osl[r]]
    return batches


def price_s(table: CostTable, batch: Batch) -> float:
    """Time of a batch by a table whose values hold from knot to knot, as the core reads it."""
    time, n = table.time_s, batch.n_decode
    n_tokens = n + sum(q for q, _ in batch.chunks)
    total = _at(time.tokens, table.max_tokens, n_tokens)
    if n:
        k = np.searchsorted(n * table.knots_ctx, batch.ctx, side="right") - 1
        total += float(time.decode[n, k])
    if batch.chunks:
        q = round(sum(q * q for q, _ in batch.chunks) ** 0.5)
        k = np.searchsorted(table.knots_past, sum(p for _, p in batch.chunks), side="right") - 1
        several = table.mixed_factor if len(batch.chunks) > 1 else 1.0
        total += several * _at(time.prefill[:, k], table.max_tokens, q)
    return total


def _at(column: np.ndarray, n_max: int, n: int) -> float:
    """A column given on the grid, at the count n."""
    return float(np.interp(n, grid(n_max), column))
