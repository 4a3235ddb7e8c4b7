"""How much longer a prompt takes in chunks, relative to whole: the worst error, as a share."""

from __future__ import annotations

from forerun.claims import schema
from forerun.claims.fits import Fit
from forerun.claims.found import Found, How, Point, read_rows
from forerun.claims.measures.step_times import fit_note
from forerun.cost.scale import scaled
from forerun.cost.step import step_time
from forerun.cost.table import CostTable


class Claim(schema.Claim):
    """`rows` has columns prompt_tokens, chunk_tokens, relative_to_unchunked.

    A chunk not shorter than every prompt is a prompt whole; such rows are 1 by definition and are
    not counted.
    """

    fit: Fit
    rows: str


def measure(claim: Claim, how: How) -> Found:
    """The largest |predicted - measured| ratio over the rows that are chunked."""
    path = how.path(claim.rows)
    assert path is not None  # the runner looks for `needs_data` first
    scale = claim.fit.scale(how)
    table = scaled(claim.fit.table(), scale)
    errors, rows = [], []
    for raw in read_rows(path):
        prompt, chunk = int(raw["prompt_tokens"]), int(raw["chunk_tokens"])
        if chunk >= prompt:
            continue
        measured = float(raw["relative_to_unchunked"])
        found = prefill_s(table, prompt, chunk) / prefill_s(table, prompt, prompt)
        label = f"{prompt} in chunks of {chunk}"
        errors.append(Point(label, found - measured))
        rows.append((label, f"{measured:.3f}", f"{found:.3f}", f"{100 * (found - measured):+.1f}"))
    return Found(
        value=max(abs(point.value or 0.0) for point in errors),
        parts=tuple(errors),
        notes=(fit_note(scale),),
        columns=("prompt", "measured x", "predicted x", "points"),
        rows=tuple(rows),
    )


def prefill_s(table: CostTable, prompt: int, chunk: int) -> float:
    """Seconds of a prompt alone on the engine, computed in chunks."""
    total = 0.0
    for past in range(0, prompt, chunk):
        q = min(chunk, prompt - past)
        last = int(past + q == prompt)
        total += step_time(table, n_tokens=q, n_seqs=last, chunks=[(q, past)]).value
    return total
