"""What it takes to pick the cached tokens that a decode step reads, out of all that are kept.

Quest (Tang et al., ICML 2024) keeps the least and the largest of each key channel for every page.
A step reads these of all pages, scores them, and takes the best: work that grows with what is kept,
beside the attention that no longer does.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from forerun.ops.attention import Attention
from forerun.ops.graph import Op

SCORE_BYTES = 2 * 4.0  # an fp32 score a page and head, written and read
KERNELS = 2  # scores, and the best of them


@dataclass(frozen=True)
class Pick:
    """Work of picking, relative to attention that reads all that is kept."""

    bytes_share: float  # of the bytes of a cached token, for each that is kept
    flop_share: float
    step_s: float  # of the kernels, once a step
    memory_share: float = 0.0  # of the bytes of a cached token, for each that is kept


def picking(ops: Iterable[Op], page_tokens: int, launch_s: float) -> Pick | None:
    """The work with pages of so many tokens; None where no layer reads all that is kept.

    K heads of cached vectors of width H (with values: W), N query heads, pages of m tokens:

        bytes of a page = K * 2 H * kv_bytes + N * 8      # least and largest key; scores
        bytes_share     = bytes of a page / (m K W kv_bytes)   # older tokens' bytes
        flop of a page  = 2 N * 2 H   # both products; the larger counts

    Layers with windows or indexers of their own pick nothing.
    """
    summary = scores = kept = flop = whole = kernels = 0.0
    for op in ops:
        shape = op.shape
        if not isinstance(shape, Attention) or shape.reach is not None or shape.compress:
            continue
        heads, width = (1, shape.latent_dim) if shape.latent_dim else (
            shape.n_kv_heads, shape.qk_dim
        )  # fmt: skip
        summary += op.count * 2.0 * heads * width * shape.kv_bytes
        scores += op.count * SCORE_BYTES * shape.n_heads
        kept += op.count * shape.kv_width * shape.kv_bytes * shape.old_share
        flop += op.count * shape.n_heads * 2.0 * width
        whole += op.count * shape.n_heads * (width + (shape.latent_v or shape.v_dim))
        kernels += op.count * KERNELS
    if not kept:
        return None
    kept, whole = kept * page_tokens, whole * page_tokens
    return Pick((summary + scores) / kept, flop / whole, kernels * launch_s, summary / kept)
