"""Who proposes tokens for a pool, as the core needs it: lengths, chances, costs."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from forerun.cost.table import CostTable
from forerun.errors import SpecError
from forerun.sim.tables import PS, verify_rows
from forerun.spec.speculation import Acceptance, Speculation

QUANTILES = 4097  # a request draws between two of them


@dataclass(frozen=True, eq=False)
class Drafting:
    """Proposals for one pool; what they cost stands in its table.

    levels : tokens at each depth, from 1 at depth 0.  shape : float64 [most + 1], the chance at a
    depth relative to the request's own.  alpha : float64 [QUANTILES], the requests' own chances.
    """

    levels: tuple[int, ...]
    shape: np.ndarray
    alpha: np.ndarray
    trip_s: float = 0.0  # to a draft's own devices and back
    step_s: float = 0.0  # of the host, a pass of the draft
    seq_s: float = 0.0  # of the host, a step and request

    @property
    def most(self) -> int:
        """Most tokens in a row."""
        return len(self.levels) - 1


def drafting(said: Speculation, trip_s: float = 0.0) -> Drafting:
    """What a description says; trip_s : to the draft's own devices and back."""
    return Drafting(
        said.levels,
        shape(said.acceptance, said.most),
        quantiles(said.acceptance),
        trip_s=trip_s,
        step_s=said.host_step_s,
        seq_s=said.host_seq_s,
    )


def shape(said: Acceptance, most: int) -> np.ndarray:
    """The chance at each depth relative to the request's own, [most + 1]; depth 0 is certain."""
    depth = np.arange(most + 1)
    out = said.decay ** np.maximum(depth - 1, 0)
    if said.by_position is not None:
        given = np.array(said.by_position)
        out = out * given[np.clip(depth - 1, 0, len(given) - 1)]
    out[0] = 1.0
    return out


def quantiles(said: Acceptance) -> np.ndarray:
    """The requests' own chances as quantiles at equal steps of probability, [QUANTILES]."""
    at = np.linspace(0, 1, QUANTILES)
    if said.beta is not None:
        return _beta(*said.beta, at)
    measured = read(said.file) if said.file is not None else said.requests
    if measured is not None:
        return np.quantile(np.array(measured, dtype=float), at)
    return np.full(QUANTILES, 1.0 if said.alpha is None else said.alpha)


def read(path: str) -> list[float]:
    """The column `acceptance` of a CSV file.  Raises SpecError for what is no such file."""
    try:
        rows = list(csv.DictReader(Path(path).read_text(encoding="utf-8").splitlines()))
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError.one(path, f"cannot be read: {error}", "check the path") from None
    if not rows or "acceptance" not in rows[0]:
        what = "has no column `acceptance`" if rows else "has no rows"
        raise SpecError.one(path, what, "a CSV file: acceptance, then one chance a line")
    out = []
    for line, row in enumerate(rows, 2):
        try:
            value = float(row["acceptance"])
        except (TypeError, ValueError):
            value = float("nan")
        if not 0 <= value <= 1:
            what = f"{row['acceptance']!r} is not a chance"
            raise SpecError.one(f"{path}:{line}", what, "a number from 0 to 1")
        out.append(value)
    return out


def _beta(a: float, b: float, at: np.ndarray) -> np.ndarray:
    """Quantiles of the beta distribution, by sums over 200,000 slices of its density."""
    edges = np.linspace(0, 1, 200_001)
    x = (edges[1:] + edges[:-1]) / 2
    log_density = (a - 1) * np.log(x) + (b - 1) * np.log1p(-x)
    mass = np.exp(log_density - log_density.max())
    cdf = np.concatenate([[0.0], np.cumsum(mass)])
    return np.interp(at, cdf / cdf[-1], edges)


def draft_arrays(drafts: Sequence[Drafting | None]) -> dict[str, np.ndarray]:
    """The fields of a `State` on proposals, by name."""
    most = max((draft.most for draft in drafts if draft), default=0)
    P = len(drafts)
    level, nodes = (np.ones((P, most + 1), dtype=np.int64) for _ in range(2))
    shapes, alpha = np.ones((P, most + 1)), np.zeros((P, QUANTILES))
    for p, draft in enumerate(drafts):
        if draft is not None:
            k = draft.most
            level[p, : k + 1] = draft.levels
            shapes[p, : k + 1] = draft.shape
            alpha[p] = draft.alpha
    nodes[:, 0] = 0
    nodes[:, 1:] = np.cumsum(level[:, 1:], axis=1)
    return {
        "draft_level": level, "draft_nodes": nodes, "draft_shape": shapes, "draft_alpha": alpha,
        "draft_ps": np.zeros(most + 1, dtype=np.int64),
        "drafting": np.zeros(most + 2, dtype=np.int64),
    }  # fmt: skip


def fill_drafts(
    engines: Any, drafts: Sequence[Drafting | None], tables: Sequence[CostTable],
    priced: Sequence[bool],
) -> None:  # fmt: skip
    """What engines say of those who propose tokens; tables : of the pools, then of the drafts."""
    verify = verify_rows(tables)[0]
    engines.draft_row = engines.verify_row = engines.draft_verify_row = -1
    row = len(drafts)
    for p, draft in enumerate(drafts):
        if draft is None:
            continue
        engine = engines[p]
        engine.draft_most, engine.draft_priced = draft.most, int(priced[p])
        engine.draft_apart = int(tables[p].draft_apart)
        engine.draft_step_ps, engine.draft_seq_ps = (
            round(draft.step_s * PS),
            round(draft.seq_s * PS),
        )
        engine.draft_trip_ps = round(draft.trip_s * PS)
        engine.verify_row = verify[p]
        if tables[p].draft is not None:
            engine.draft_row, engine.draft_verify_row = row, verify[row]
            engine.draft_tokens = tables[row].max_tokens
            row += 1
