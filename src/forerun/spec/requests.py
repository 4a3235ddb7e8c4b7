"""`Requests`: a workload as columns, one entry a request, sorted by arrival."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np


@dataclass(frozen=True, eq=False)
class Requests:
    """What arrives, when, how long.  All arrays have the length of `arrival_s`.

    arrival_s : float64 [N], seconds from the start of the trace, non-decreasing.
    isl, osl  : int64 [N], input tokens and output tokens, both >= 1.
    priority  : int64 [N], lower is served first; absent when all are equal.
    session   : int64 [N], requests of one conversation share a number; -1 when none.
    tenant    : int64 [N], who pays; absent when one.
    deadline_s: float64 [N], when the whole answer must be there, from arrival; inf when none.
    block_hashes, block_starts : int64 [sum], int64 [N+1]: the prompt's prefix blocks as hashes,
        request i owns block_hashes[block_starts[i]:block_starts[i+1]]; `hash_tokens` a block.
    acceptance: float64 [N], chance that a token proposed for it is right, before those of the
        engine's `speculation`; -1 where it is not known.
    """

    arrival_s: np.ndarray
    isl: np.ndarray
    osl: np.ndarray
    priority: np.ndarray | None = None
    session: np.ndarray | None = None
    tenant: np.ndarray | None = None
    deadline_s: np.ndarray | None = None
    block_hashes: np.ndarray | None = None
    block_starts: np.ndarray | None = None
    hash_tokens: int = 0
    acceptance: np.ndarray | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)  # source, format, rows skipped and why

    def __len__(self) -> int:
        return len(self.arrival_s)

    def __getitem__(self, part: slice) -> Requests:
        """Consecutive requests (a slice of step 1) with everything that belongs to them."""
        columns = ("arrival_s", "isl", "osl", "priority", "session", "tenant", "deadline_s",
                   "acceptance")  # fmt: skip
        present = {c: getattr(self, c) for c in columns if getattr(self, c) is not None}
        taken: dict[str, Any] = {c: values[part] for c, values in present.items()}
        if self.block_hashes is not None and self.block_starts is not None:
            start, stop, _ = part.indices(len(self))
            starts = self.block_starts[start : max(start, stop) + 1]
            taken["block_hashes"] = self.block_hashes[starts[0] : starts[-1]]
            taken["block_starts"] = starts - starts[0]
        return replace(self, **taken)

    @property
    def duration_s(self) -> float:
        return float(self.arrival_s[-1] - self.arrival_s[0]) if len(self) else 0.0
