"""Batch times predicted from a fit to other rows of the same engine: the worst relative error."""

from __future__ import annotations

import math
from dataclasses import replace

from forerun.claims import schema
from forerun.claims.fits import Fit, step
from forerun.claims.found import Found, How, Point, read_rows
from forerun.cost.scale import scaled
from forerun.cost.step import step_time


class Claim(schema.Claim):
    """`rows` are predicted, those of `fit` were used; `decode_ctx` where the rows do not say."""

    fit: Fit
    rows: str
    decode_ctx: float = 0.0


def measure(claim: Claim, how: How) -> Found:
    """The largest |predicted / measured - 1| over the rows."""
    path = how.path(claim.rows)
    assert path is not None  # the runner looks for `needs_data` first
    scale = claim.fit.scale(how)
    table = scaled(claim.fit.table(), scale)
    errors, rows = [], []
    for raw in read_rows(path):
        one = step(raw)
        if not one.decode_ctx:
            one = replace(one, decode_ctx=claim.decode_ctx)
        found = step_time(
            table, n_tokens=one.n_tokens, n_seqs=one.n_seqs, n_decode=one.n_decode,
            decode_ctx=one.decode_ctx, chunks=one.chunks,
        ).value  # fmt: skip
        error = found / one.time_s - 1
        label = f"{raw['prefill_tokens']} prompt + {raw['decode_tokens']} decoding"
        errors.append(Point(label, error))
        times = (f"{1e3 * one.time_s:.1f}", f"{1e3 * found:.1f}", f"{100 * error:+.1f} %")
        rows.append((label, *times))
    # right up to one factor: log errors that lie within the tolerance of their own middle
    logs = [math.log1p(point.value or 0.0) for point in errors]
    spread = math.expm1((max(logs) - min(logs)) / 2)
    return Found(
        value=max(abs(point.value or 0.0) for point in errors),
        parts=tuple(errors),
        ratios_hold=len(errors) > 1 and spread <= claim.tolerance,
        notes=(fit_note(scale),),
        columns=("step", "measured ms", "predicted ms", "error"),
        rows=tuple(rows),
    )


def fit_note(scale) -> str:
    """The coefficients of a fit in words."""
    return (
        f"fitted to {scale.n_rows} other steps (rms error {100 * scale.residual:.1f} %): tokens x "
        f"{scale.tokens[0]:.2f}, decode attention x {scale.decode:.2f}, prompt attention x "
        f"{scale.prefill:.2f}, {1e3 * scale.host_step_s:.1f} ms a step and "
        f"{1e3 * scale.host_seq_s:.2f} ms a sequence on the host"
    )
