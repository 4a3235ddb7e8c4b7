"""A model's operators written as `Rows`, in the columns that families of costs read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from forerun.cost.collectives import DIRECT_BYTES
from forerun.cost.rows import Rows, rows
from forerun.ops.attention import Attention
from forerun.ops.collectives import Collective
from forerun.ops.elementwise import Elementwise
from forerun.ops.embedding import Embedding
from forerun.ops.graph import Shape
from forerun.ops.matmul import Matmul
from forerun.ops.moe import Experts
from forerun.ops.sampling import Sampling
from forerun.ops.ssm import Scan

#: formats of a cache by the bytes of an element
_KV = {4.0: "fp32", 2.0: "bf16", 1.0: "fp8", 0.5625: "nvfp4", 0.53125: "mxfp4"}


def rows_by_tokens(shape: Shape, n: np.ndarray) -> Rows:
    """An operator at n tokens or sequences, n float64 [N] and positive."""
    N = len(n)
    if isinstance(shape, Matmul):
        return rows(
            N, op="gemm", m=n, n=shape.n, k=shape.k, batch=shape.batch, dtype=shape.dtype,
            impl="bmm" if shape.batch > 1 else "",
        )  # fmt: skip
    if isinstance(shape, Experts):
        return rows(
            N, op="moe", n_tokens=n, hidden=shape.hidden, inter=shape.inter, topk=shape.topk,
            n_experts=shape.n_experts, moe_tp=1, moe_ep=shape.n_experts / shape.n_local,
            dtype=shape.dtype, gated=float(shape.gated), distribution=shape.distribution,
        )  # fmt: skip
    if isinstance(shape, Elementwise):
        return rows(
            N, op="elementwise", n_tokens=n, width=max(1.0, (shape.read + shape.write) / 4),
            read_bytes=shape.read, write_bytes=shape.write + shape.kv_bytes, dtype="bf16",
        )  # fmt: skip
    if isinstance(shape, Embedding):
        moved = shape.width * shape.weight_bytes
        return rows(
            N, op="embedding", n_tokens=n, width=shape.width, read_bytes=moved,
            write_bytes=moved, dtype="bf16",
        )  # fmt: skip
    if isinstance(shape, Sampling):
        half = shape.counts(np.float64(1)).hbm_bytes / 2
        return rows(
            N, op="sampling", n_tokens=n, width=shape.vocab, read_bytes=half, write_bytes=half,
            dtype="bf16",
        )  # fmt: skip
    raise TypeError(f"{type(shape).__name__} is priced by sequences or by messages")


def rows_of_message(shape: Collective, n: np.ndarray, impl: np.ndarray) -> Rows:
    """A collective at n tokens or sequences, n float64 [N] and positive, inside one node, by the
    library or kernel named for each, str [N]."""
    return rows(
        len(n), op=shape.kind, n_gpus=shape.n, bytes=shape.message(n), graphs=1.0, impl=impl,
        dtype="bf16",
    )  # fmt: skip


def is_direct(shape: Collective, n: np.ndarray) -> np.ndarray:
    """Whether the message is one for kernels that share memory, bool [N]."""
    return (shape.message(n) <= DIRECT_BYTES) & (shape.kind == "all_reduce") & (shape.n <= 8)


@dataclass(frozen=True)
class ScanKernel:
    """One of a scan's kernels: the short convolution before it, or the scan itself."""

    scan: Scan
    conv: bool


def kernels_of(shape: Any) -> tuple[Any, ...]:
    """The kernels of an operator on sequences that have rows of their own; mostly it is one."""
    if not isinstance(shape, Scan):
        return (shape,)
    return tuple(ScanKernel(shape, conv) for conv in ((True, False) if shape.conv else (False,)))


def rows_of_decode(shape: Any, n_seqs: np.ndarray, ctx: np.ndarray) -> Rows | None:
    """Attention of one decode step of n_seqs requests with ctx cached tokens each, [N] and [N];
    or a step of a scan, whatever the context."""
    if isinstance(shape, ScanKernel):
        return _scan(shape, len(n_seqs), batch=n_seqs, isl=1.0, impl="decode")
    if not isinstance(shape, Attention) or not _plain(shape):
        return None
    common = _common(shape)
    if shape.latent_dim:
        return rows(
            len(n_seqs), op="mla_decode", batch=n_seqs, past=ctx, **common, **_latent(shape)
        )
    return rows(
        len(n_seqs), op="attention_decode", batch=n_seqs, past=ctx,
        n_kv_heads=shape.n_kv_heads, head_dim=shape.qk_dim, v_head_dim=shape.v_dim, **common,
    )  # fmt: skip


def rows_of_prefill(shape: Any, n_new: np.ndarray, n_past: np.ndarray) -> Rows | None:
    """Attention, or a scan, of one chunk of n_new tokens after n_past, [N] and [N]."""
    if isinstance(shape, ScanKernel):
        return _scan(shape, len(n_new), batch=1.0, isl=n_new, impl="prefill")
    if not isinstance(shape, Attention) or not _plain(shape):
        return None
    common = _common(shape)
    if not shape.causal:  # as many pairs: n * n/2 before the chunk and n^2/2 within it
        n_past = np.minimum(n_new / 2, shape.window or np.inf)
    if shape.latent_dim:
        return rows(
            len(n_new), op="mla_prefill", batch=1, isl=n_new, past=n_past, **common,
            **_latent(shape),
        )  # fmt: skip
    return rows(
        len(n_new), op="attention_prefill", batch=1, isl=n_new, past=n_past,
        n_kv_heads=shape.n_kv_heads, head_dim=shape.qk_dim, v_head_dim=shape.v_dim, **common,
    )  # fmt: skip


def _scan(kernel: ScanKernel, count: int, **columns: Any) -> Rows:
    """Heads of keys follow from the convolution's channels, N H_v + 2 K H_k; else as many as N."""
    a = kernel.scan
    inner, keys = a.n_heads * a.v_dim, float(a.n_heads)
    if a.conv:
        keys = max(1.0, (a.conv_channels - inner) / (2 * a.k_dim))
        columns |= {"k": a.conv, "width": a.conv_channels}
    return rows(
        count, op="conv1d" if kernel.conv else a.kind, n_heads=a.n_heads, n_kv_heads=keys,
        head_dim=a.k_dim, v_head_dim=a.v_dim, dtype=a.math,
        kv_dtype=_KV.get(a.state_bytes, "fp32"), **columns,
    )  # fmt: skip


def _plain(shape: Attention) -> bool:
    """Without compressed entries, indexers or a cache that is key and value at once, for which no
    family has columns."""
    return not (shape.compress or shape.index_heads or shape.sparse_topk or shape.one_cache)


def _common(shape: Attention) -> dict[str, Any]:
    return {
        "n_heads": shape.n_heads,
        "window": float(shape.window or 0),
        "dtype": shape.math,
        "kv_dtype": _KV.get(shape.kv_bytes, "bf16"),
        "impl": "",
    }


def _latent(shape: Attention) -> dict[str, Any]:
    """Widths of latent attention: head_dim is of expanded queries and keys, rope included."""
    return {
        "kv_lora_rank": shape.latent_v,
        "rope_dim": shape.latent_dim - shape.latent_v,
        "head_dim": shape.qk_dim,
        "v_head_dim": shape.v_dim,
    }
