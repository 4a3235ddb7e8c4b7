"""Cost tables as the core reads them: integer picoseconds on padded arrays.

Shapes: P pools and drafts, G grid points, M+1 decoders, K knots; decode tables have rows after
these (see `mixed_rows`, `verify_rows`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from forerun.cost.kept import kept
from forerun.cost.table import CostTable, Work
from forerun.spec.tuning import Tuning

PS = 1e12


def picoseconds(time_s: np.ndarray | float) -> np.ndarray:
    """Seconds as int64 picoseconds, rounded to nearest."""
    return np.rint(np.asarray(time_s, dtype=np.float64) * PS).astype(np.int64)


def _pad(rows: Sequence[np.ndarray]) -> np.ndarray:
    """Stack arrays of one rank and different sizes, repeating the last entry of each axis."""
    if len({row.shape for row in rows}) == 1:
        return np.ascontiguousarray(np.stack(rows))
    shape = np.max([row.shape for row in rows], axis=0)
    padded = [
        np.pad(
            row,
            [(0, int(full - size)) for full, size in zip(shape, row.shape, strict=True)],
            "edge",
        )
        for row in rows
    ]
    return np.ascontiguousarray(np.stack(padded))


def _pieces(
    values_s: np.ndarray, knots: np.ndarray, per: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(value at the knot, slope after it) in ps; `per` turns a knot into the table's argument.

    Beyond the last knot the last slope goes on.  Each piece starts at its exact knot, so rounding
    a slope never adds up over pieces.
    """
    value = picoseconds(values_s)
    width = np.diff(knots)[None, :] * per[:, None]
    slope = np.zeros_like(value)
    if len(knots) > 1:
        rise = np.diff(values_s * PS, axis=1) / np.maximum(width, 1)
        slope[:, :-1] = np.maximum(0, np.rint(rise)).astype(np.int64)
        slope[:, -1] = slope[:, -2]
    return value, slope


def _counts(table: CostTable, name: str) -> np.ndarray:
    """Times by a count in ps; never falling, unless the table keeps measured values as they are."""
    time_ps = picoseconds(getattr(table.time_s, name))
    return time_ps if table.between == "constant" else np.maximum.accumulate(time_ps)


def mixed_rows(tables: Sequence[CostTable]) -> list[int]:
    """The row of the decode tables that each pool reads in a step with chunks."""
    after = iter(range(len(tables), 2 * len(tables)))
    return [p if t.mixed_decode is None else next(after) for p, t in enumerate(tables)]


def verify_rows(tables: Sequence[CostTable]) -> tuple[list[int], int]:
    """The row of the decode tables at which each table's queries begin (-1: none), and how many."""
    at = len(tables) + sum(t.mixed_decode is not None for t in tables)
    n = max((len(t.verify.queries) for t in tables if t.verify), default=0)
    rows = []
    for table in tables:
        rows.append(at if table.verify else -1)
        at += n if table.verify else 0
    return rows, n


def _verified(table: CostTable, n: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Decode pieces of 1, 2, 4, .. queries a request, n of them; the last growth goes on."""
    assert table.verify is not None
    ratio = table.verify.decode["time_s"]
    n_decoders = np.arange(len(table.time_s.decode))
    out = []
    for j in range(n):
        beyond = max(0, j + 1 - len(ratio))  # doublings beyond the table
        last = ratio[min(j, len(ratio) - 1)]
        grown = last + (2.0**beyond - 1) * 2 * (ratio[-1] - ratio[-2]) if beyond else last
        pieces = _pieces(table.time_s.decode * grown, table.knots_ctx, n_decoders)
        if table.between == "constant":
            pieces[1][:] = 0
        out.append(pieces)
    return out


def _picked(table: CostTable) -> np.ndarray:
    """Picoseconds for each token out of which decoders pick, by their number."""
    out = np.zeros(len(table.time_s.decode), dtype=np.int64)
    if table.pick is not None:
        out[1:] = np.rint(PS * slope(table, table.time_s.decode)[1:] * table.pick.bytes_share)
    return out


def slope(table: CostTable, values: np.ndarray) -> np.ndarray:
    """How much a quantity of `decode` grows with each cached token, where there are many, by the
    number of decoders: float64 [M+1]."""
    n, at = np.maximum(np.arange(len(values)), 1), table.knots_ctx
    if len(at) < 2:
        return np.zeros(len(values))
    return np.maximum(values[:, -1] - values[:, -2], 0) / (at[-1] - at[-2]) / n


def _sampled(table: CostTable) -> np.ndarray:
    """`seqs` in ps, as far as proposals are sampled at."""
    time_ps = _counts(table, "seqs")
    if table.verify is None:
        return time_ps
    return np.maximum.accumulate(picoseconds(table.verify.seqs_of("time_s", time_ps / PS)))


def tuning(tables: Sequence[CostTable], said: Sequence[Tuning | None]) -> np.ndarray:
    """Picoseconds of tuning tokens, beside their forward products, by their number: [P, G].

    (1 + backward) * attention of q tokens after half a sequence + backward * products of q
    """
    rows = []
    for n, table in enumerate(tables):
        how = said[n] if n < len(said) else None
        times = np.zeros(len(table.time_s.tokens))
        if how is not None:
            past = how.sequence / 2
            at = [np.interp(past, table.knots_past, row) for row in table.time_s.prefill]
            times = (1 + how.backward) * np.array(at) + how.backward * table.time_s.tokens
        rows.append(np.maximum.accumulate(picoseconds(times)))
    return _pad(rows)


@kept
def _alone(
    time_s: Work, knots_ctx: np.ndarray, knots_past: np.ndarray, between: str
) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Pieces of decoding and of prompts; whoever asks copies them."""
    n_decoders = np.arange(len(time_s.decode))
    decode = _pieces(time_s.decode, knots_ctx, n_decoders)
    prefill = _pieces(time_s.prefill, knots_past, np.ones(len(time_s.prefill)))
    if between == "constant":
        decode[1][:] = 0
        prefill[1][:] = 0
    return decode, prefill


def arrays(tables: Sequence[CostTable]) -> dict[str, np.ndarray]:
    """The table fields of a `State`, by name; tables : of the pools, then of their drafts."""
    alone = [_alone(t.time_s, t.knots_ctx, t.knots_past, t.between) for t in tables]
    decode, prefill = [d for d, _ in alone], [p for _, p in alone]
    for table in tables:
        if table.mixed_decode is not None:
            n_decoders = np.arange(len(table.mixed_decode))
            decode.append(_pieces(table.mixed_decode, table.knots_ctx, n_decoders))
    n_verify = verify_rows(tables)[1]
    for table in tables:
        if table.verify is not None:
            decode += _verified(table, n_verify)
    return {
        "pick_ps": _pad([_picked(t) for t in tables]),
        "tokens_ps": _pad([_counts(t, "tokens") for t in tables]),
        "seqs_ps": _pad([_sampled(t) for t in tables]),
        "decode_ps": _pad([value for value, _ in decode]),
        "decode_slope": _pad([slope for _, slope in decode]),
        "prefill_ps": _pad([value for value, _ in prefill]),
        "prefill_slope": _pad([slope for _, slope in prefill]),
        "knots_ctx": _pad([t.knots_ctx.astype(np.int64) for t in tables]),
        "knots_past": _pad([t.knots_past.astype(np.int64) for t in tables]),
    }


def speeds(tables: Sequence[CostTable], encodes: np.ndarray) -> np.ndarray:
    """Decode speed of each pool at 16 sequences, in thousandths of the fastest; of those that
    encode, speed at 1024 units.

    tables : of the pools; encodes : bool [pools].  Returns int64 [pools].
    """
    times = []
    for table, units in zip(tables, encodes, strict=True):
        work = table.time_s
        if units:
            times.append(work.tokens[min(1024, len(work.tokens) - 1)])
        else:
            n = min(16, table.max_seqs)
            times.append(work.tokens[n] + work.seqs[n] + work.decode[n, len(work.decode[n]) // 2])
    step = np.maximum(np.array(times), 1e-12)
    fastest = np.array([step[encodes == kind].min() for kind in encodes])
    return np.rint(1000 * fastest / step).astype(np.int64)
