"""Prompts that begin with retrieved documents: which ones, and the names of their blocks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from forerun.errors import SpecError
from forerun.spec.requests import CONTENT, Requests
from forerun.spec.streams import stream
from forerun.spec.traces._columns import take
from forerun.spec.workload import Documents

PIECE = 1 << 22  # random numbers at a time


def with_documents(requests: Requests, documents: Documents, *, seed: int) -> Requests:
    """The requests with documents before their own prompts.

    Each has `a_request` different ones in the order in which they were drawn; document d of n is
    drawn with weight 1 / (d + 1) ** skew.  Raises SpecError where prompts name blocks already.
    """
    if requests.block_hashes is not None:
        what = "the prompts of this trace name their blocks already"
        raise SpecError.one("traffic.documents", what, "a trace without block hashes, or isl")
    if requests.workflow is not None:
        what = "the requests of a workflow say what their prompts begin with"
        raise SpecError.one("traffic.documents", what, "extends and system of its nodes")
    n, each = len(requests), documents.a_request
    drawn = _drawn(n, documents, stream(seed, "documents"))
    meta: Mapping[str, Any] = {**requests.meta, "blocks": CONTENT}
    return take(
        requests,
        np.arange(n),
        isl=requests.isl + each * documents.tokens,
        block_hashes=drawn.ravel(),
        block_starts=np.arange(n + 1, dtype=np.int64) * each,
        hash_tokens=documents.tokens,
        meta=meta,
    )


def _drawn(n: int, documents: Documents, rng: np.random.Generator) -> np.ndarray:
    """Documents of each request, int64 [n, a_request]: the largest of weights' Gumbel draws are a
    sample without replacement, in order (Efraimidis and Spirakis, 2006)."""
    weight = -documents.skew * np.log(np.arange(1, documents.n + 1))
    out = np.empty((n, documents.a_request), dtype=np.int64)
    rows = max(1, PIECE // documents.n)
    for at in range(0, n, rows):
        m = min(rows, n - at)
        score = weight - np.log(rng.standard_exponential((m, documents.n)))
        out[at : at + m] = np.argsort(-score, axis=1, kind="stable")[:, : documents.a_request]
    return out
