"""Costs fitted to an engine's published batch times, so that a claim can be checked on them too."""

from __future__ import annotations

from typing import Literal

from forerun import catalog
from forerun.claims.found import How, read_rows
from forerun.cost.price import price
from forerun.cost.scale import Measured, Scale, fit_scale
from forerun.cost.table import CostTable
from forerun.errors import SpecError
from forerun.ops.lower import lower
from forerun.spec.base import Spec
from forerun.spec.deployment import Pool
from forerun.spec.model import Model

Term = Literal["tokens", "decode", "prefill", "host_step", "host_seq"]


class Fit(Spec):
    """Measured steps, and which coefficients of `cost.scale` they fix.

    rows : a CSV with columns prefill_tokens, decode_tokens, context_tokens, batch_time_ms: a step
    of one chunk (of a prompt's first tokens) and as many decodes with that context.
    leave_out : values of prefill_tokens whose rows are not used, with the reason in `why`.
    """

    rows: str
    model: str
    pool: Pool
    free: tuple[Term, ...]
    leave_out: tuple[int, ...] = ()
    why: str = ""

    def table(self, *, max_len: int = 32_768) -> CostTable:
        """The table of the measured deployment before it is scaled."""
        device = catalog.device(self.pool.device)
        engine = self.pool.engine
        return price(
            lower(catalog.model(self.model), self.pool), device,
            max_tokens=engine.max_num_batched_tokens, max_seqs=engine.max_num_seqs,
            max_len=max_len,
        )  # fmt: skip

    def scale(self, how: How) -> Scale:
        """The coefficients.  Raises SpecError when the rows are not here."""
        path = how.path(self.rows)
        if path is None:
            raise SpecError.one(self.rows, "is not here", "--data FOLDER")
        steps = [step(row) for row in read_rows(path)]
        kept = [s for s in steps if not (s.chunks and s.chunks[0][0] in self.leave_out)]
        return fit_scale(self.table(), kept, free=self.free)

    def for_model(self, scale: Scale, model: Model) -> Scale:
        """The same engine with another model: host time of a step goes by the number of layers."""
        from dataclasses import replace

        layers = model.n_layers / catalog.model(self.model).n_layers
        return replace(scale, host_step_s=scale.host_step_s * layers)


def step(row: dict[str, str]) -> Measured:
    """A row of a table of batch times as a measured step."""
    prompt, decodes = int(row["prefill_tokens"]), int(row["decode_tokens"])
    return Measured(
        time_s=float(row["batch_time_ms"]) / 1e3,
        n_tokens=prompt + decodes,
        n_seqs=decodes + (prompt > 0),
        n_decode=decodes,
        decode_ctx=float(row.get("context_tokens") or 0),
        chunks=((prompt, 0.0),) if prompt else (),
    )
