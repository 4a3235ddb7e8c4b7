"""Scale a cost table to a few measured steps: one factor a part, fitted by least squares.

A step's time is a sum of parts (see `table`).  Measured steps give each part a factor, so that an
engine nobody has profiled operator by operator still gets its own costs from a dozen batch times:

    time = host_step + host_seq*S + f(T)*tokens(T) + f(S)*seqs(S)
           + d*decode(B, c) + e*sum prefill(q, p)

f is linear in log T between the counts `at_tokens` and constant outside them, so with one count it
is a single factor.  Coefficients are not negative, and each row weighs by its relative error.
What the rows do not tell apart stays at 1 (factors) or 0 (host terms): say which terms are free.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np

from forerun.cost.step import step_work
from forerun.cost.table import CostTable, Work, grid
from forerun.errors import SpecError

FREE = ("tokens", "decode", "prefill", "host_step", "host_seq")
LEAST = 0.05  # low end of an interval over its value


@dataclass(frozen=True)
class Measured:
    """One measured step: its batch, as in `cost.step`, and its time in seconds."""

    time_s: float
    n_tokens: int
    n_seqs: int
    n_decode: int = 0
    decode_ctx: float = 0.0
    chunks: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class Scale:
    """Coefficients of a scaled table; `residual` is the rms relative error on the rows used."""

    at_tokens: tuple[int, ...] = (1,)
    tokens: tuple[float, ...] = (1.0,)
    decode: float = 1.0
    prefill: float = 1.0
    host_step_s: float = 0.0
    host_seq_s: float = 0.0
    n_rows: int = 0
    residual: float = 0.0

    def tokens_factor(self, n: np.ndarray | float) -> np.ndarray:
        """The factor on `tokens` for n tokens a step."""
        at = np.log(np.maximum(np.asarray(n, dtype=float), 1.0))
        return np.interp(at, np.log(self.at_tokens), self.tokens)


def fit_scale(
    table: CostTable,
    rows: Sequence[Measured],
    *,
    free: Sequence[str] = FREE,
    at_tokens: Sequence[int] = (1,),
) -> Scale:
    """The coefficients that bring a table closest to measured steps.

    free      : which of `FREE` are fitted; the others keep 1 (factors) or 0 (host terms).
    at_tokens : counts of tokens at which the factor of `tokens` may differ, ascending.
    Raises SpecError with fewer rows than coefficients, a time that is not positive, or rows that
    do not tell the coefficients apart.
    """
    unknown = sorted(set(free) - set(FREE))
    if unknown:
        raise SpecError.one("free", f"{unknown[0]!r} is not one of {', '.join(FREE)}")
    hats = len(at_tokens) if "tokens" in free else 0
    others = [name for name in FREE[1:] if name in free]
    if any(not row.time_s > 0 for row in rows):
        raise SpecError.one("rows", "a measured step takes no time", "leave that row out")
    if len(rows) < hats + len(others):
        what = f"{len(rows)} measured steps cannot fix {hats + len(others)} coefficients"
        raise SpecError.one("rows", what, "fewer free terms, or more rows")
    parts = [_parts(table, row) for row in rows]
    columns: list[Any] = []
    if hats:
        tokens, seqs = (np.array([part[name] for part in parts]) for name in ("tokens", "seqs"))
        by_tokens = _hats(at_tokens, [row.n_tokens for row in rows])
        by_seqs = _hats(at_tokens, [row.n_seqs for row in rows])
        columns += list(by_tokens * tokens + by_seqs * seqs)
    columns += [[part[name] for part in parts] for name in others]
    fixed = [
        sum(part[name] for name in ("tokens", "decode", "prefill") if name not in free)
        + (part["seqs"] if not hats else 0.0)
        for part in parts
    ]
    time = np.array([row.time_s for row in rows])
    A, y = np.array(columns).T / time[:, None], (time - np.array(fixed)) / time
    if np.linalg.matrix_rank(A / np.maximum(np.linalg.norm(A, axis=0), 1e-300)) < A.shape[1]:
        what = f"these steps do not tell {', '.join(free)} apart"
        raise SpecError.one("rows", what, "fewer free terms, or rows that differ more")
    x = _nonnegative(A, y)
    values = dict(zip(others, (float(v) for v in x[hats:]), strict=True))
    return Scale(
        at_tokens=tuple(int(t) for t in at_tokens) if hats else (1,),
        tokens=tuple(float(v) for v in x[:hats]) if hats else (1.0,),
        decode=values.get("decode", 1.0),
        prefill=values.get("prefill", 1.0),
        host_step_s=values.get("host_step", 0.0),
        host_seq_s=values.get("host_seq", 0.0),
        n_rows=len(rows),
        residual=float(np.sqrt(np.mean((A @ x - y) ** 2))),
    )


def scaled(table: CostTable, scale: Scale, *, source: str = "fitted") -> CostTable:
    """The table with its times (not its work or energy) scaled; host terms add to its own.

    The 80 % interval becomes that of the fit: 1.28 rms errors, 5 % at least, to either side; no
    step takes less than LEAST of its time, however badly the rows fit.
    """
    time = table.time_s
    half = max(1.28 * scale.residual, 0.05)
    # `seqs` (LM head, sampling) goes with a step of as many tokens as sequences
    work = Work(
        tokens=time.tokens * scale.tokens_factor(grid(table.max_tokens)),
        seqs=time.seqs * scale.tokens_factor(grid(table.max_seqs)),
        decode=time.decode * scale.decode,
        prefill=time.prefill * scale.prefill,
    )
    mixed = table.mixed_decode
    return replace(
        table,
        time_s=work,
        mixed_decode=None if mixed is None else mixed * scale.decode,
        mixed_cross_s=table.mixed_cross_s * scale.decode,
        host_step_s=table.host_step_s + scale.host_step_s,
        host_seq_s=table.host_seq_s + scale.host_seq_s,
        low=max(LEAST, 1 - half),
        high=1 + half,
        sources={source: 1.0},
        assumed=(*table.assumed, f"times scaled to {scale.n_rows} measured steps ({source})"),
    )


def _parts(table: CostTable, row: Measured) -> dict[str, float]:
    """Seconds of each term of one step at coefficient 1; `seqs` goes with `tokens`."""
    time = table.time_s
    only_tokens = step_work(table, time, n_tokens=row.n_tokens, n_seqs=0)
    only_seqs = step_work(table, time, n_tokens=0, n_seqs=row.n_seqs)
    only_decode = step_work(
        table, time, n_tokens=0, n_seqs=0, n_decode=row.n_decode, decode_ctx=row.decode_ctx
    )
    only_chunks = step_work(table, time, n_tokens=0, n_seqs=0, chunks=row.chunks)
    return {
        "tokens": only_tokens, "seqs": only_seqs, "decode": only_decode, "prefill": only_chunks,
        "host_step": 1.0, "host_seq": float(row.n_seqs),
    }  # fmt: skip


def _hats(at: Sequence[int], counts: Sequence[int]) -> np.ndarray:
    """Weight of each knot at each count, linear in the logarithm: float64 [knots, counts]."""
    if list(at) != sorted(set(at)) or at[0] < 1:
        raise SpecError.one("at_tokens", f"{list(at)} does not ascend from 1 or more")
    x = np.log(np.maximum(np.asarray(counts, dtype=float), 1.0))
    return np.array([np.interp(x, np.log(at), row) for row in np.eye(len(at))])


def _nonnegative(A: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The least-squares solution with no negative entry: every subset of columns is tried, which
    is exact and, for the dozen of columns at most that this is for, quick."""
    n = A.shape[1]
    best, least = np.zeros(n), float(y @ y)
    for size in range(1, n + 1):
        for chosen in combinations(range(n), size):
            x, *_ = np.linalg.lstsq(A[:, chosen], y, rcond=None)
            error = float(np.sum((A[:, chosen] @ x - y) ** 2))
            if (x >= 0).all() and error < least * (1 - 1e-12):
                best, least = np.zeros(n), error
                best[list(chosen)] = x
    return best
