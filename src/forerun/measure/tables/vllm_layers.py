"""Layer profiles of vLLM 0.19 by casys-kaist/LLMServingSim, `profiler/perf`: <device>/<maker>/
<model>/<dtype>/tp<N>/{dense,per_sequence,attention}.csv; times in us of one layer's operators.

Widths come from the model's description in the catalog, divided by tensor parallelism.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from forerun import catalog
from forerun.cost.rows import Rows, joined, rows
from forerun.measure.tables._checks import checked
from forerun.measure.tables._table import Table, frame_of, needed, numbers, texts
from forerun.spec.model import Dense, Gqa, Model

ORIGIN = "casys-kaist/LLMServingSim @5daddb2, profiler/perf"
LICENCE = "MIT"
RUNTIME = "vllm 0.19"


def recognises(path: Path) -> bool:
    """A folder above <device>/<maker>/<model>/<dtype>/tp<N>/dense.csv."""
    return path.is_dir() and bool(next(path.glob("*/*/*/*/tp*/dense.csv*"), None))


def read(path: Path) -> Iterator[Table]:
    """Dense operators and attention of every model and degree of tensor parallelism."""
    for file in sorted(path.glob("*/*/*/*/tp*/dense.csv*")):
        device, _, name, dtype, tp = file.parts[-6:-1]
        model = catalog.model(name)
        common = dict(device=device, runtime=RUNTIME, dtype=dtype)
        parts = [_dense(frame_of(file), file, model, int(tp[2:]), common)]
        beside = next(file.parent.glob("per_sequence.csv*"), None)
        if beside:
            parts.append(_per_sequence(frame_of(beside), beside, model, int(tp[2:]), common))
        place = "/".join(("vllm_layer_profiles", *file.parts[-6:-1]))
        yield checked(
            joined([part[0] for part in parts]), np.concatenate([part[1] for part in parts]) * 1e-6,
            name=f"{place}/dense", origin=ORIGIN, licence=LICENCE,
        )  # fmt: skip
        beside = next(file.parent.glob("attention.csv*"), None)
        if beside:
            made, time_us = _attention(frame_of(beside), beside, model, int(tp[2:]), common)
            yield checked(
                made, time_us * 1e-6, name=f"{place}/attention", origin=ORIGIN, licence=LICENCE
            )


def _widths(model: Model, tp: int) -> tuple[float, float, float, float]:
    """(heads, kv heads, head width, feed-forward width) of one device in the first layer group."""
    mixer, ffn = model.layers[0].mixer, model.layers[0].ffn
    assert isinstance(mixer, Gqa)
    inter = ffn.inter / tp if isinstance(ffn, Dense) else np.nan
    return mixer.n_heads / tp, max(1.0, mixer.n_kv_heads / tp), mixer.head_dim, inter


def _dense(
    frame: Any, file: Path, model: Model, tp: int, common: dict[str, Any]
) -> tuple[Rows, np.ndarray]:
    needed(frame, ("layer", "tokens", "time_us"), file)
    N, K, H, F = _widths(model, tp)
    D = float(model.hidden)
    products = {
        "qkv_proj": ((N + 2 * K) * H, D), "o_proj": (D, N * H), "gate_up_proj": (2 * F, D),
        "down_proj": (D, F),
    }  # fmt: skip
    turned = (N + K) * H
    rowwise = {
        "layernorm": ("norm", D, 4 * D, 4 * D), "final_layernorm": ("norm", D, 4 * D, 4 * D),
        "act_fn": ("activation", F, 4 * F, 2 * F), "embedding": ("embedding", D, 2 * D, 2 * D),
        "rotary_emb": ("rope", turned, 2 * turned, 2 * turned),
    }  # fmt: skip
    return _split(frame, "tokens", products, rowwise, common)


def _per_sequence(
    frame: Any, file: Path, model: Model, tp: int, common: dict[str, Any]
) -> tuple[Rows, np.ndarray]:
    needed(frame, ("layer", "sequences", "time_us"), file)
    V, D = float(model.vocab), float(model.hidden)
    rowwise = {"sampler": ("sampling", V, 14 * V, 16 * V)}
    return _split(frame, "sequences", {"lm_head": (V / tp, D)}, rowwise, common)


def _split(
    frame: Any, axis: str, products: dict[str, tuple[float, float]],
    rowwise: dict[str, tuple[str, float, float, float]], common: dict[str, Any],
) -> tuple[Rows, np.ndarray]:  # fmt: skip
    layer, n, time = texts(frame, "layer"), numbers(frame, axis), numbers(frame, "time_us")
    made, times = [], []
    for name in sorted(set(layer)):
        at = layer == name
        if name in products:
            columns = dict(op="gemm", m=n[at], n=products[name][0], k=products[name][1])
        elif name in rowwise:
            op, width, read, write = rowwise[name]
            columns = dict(
                op=op, n_tokens=n[at], width=width, read_bytes=read, write_bytes=write, impl=name
            )
        else:
            continue
        made.append(rows(int(at.sum()), **columns, **common))
        times.append(time[at])
    return joined(made), np.concatenate(times)


def _attention(
    frame: Any, file: Path, model: Model, tp: int, common: dict[str, Any]
) -> tuple[Rows, np.ndarray]:
    """Kernels of one prefill chunk, of decoders, or of both at once (`n_decode`, `past_decode`)."""
    needed(frame, ("prefill_chunk", "kv_prefill", "n_decode", "kv_decode", "time_us"), file)
    N, K, H, _ = _widths(model, tp)
    chunk, past, n, kv = (
        numbers(frame, c) for c in ("prefill_chunk", "kv_prefill", "n_decode", "kv_decode")
    )
    heads = dict(n_heads=N, n_kv_heads=K, head_dim=H, **common)
    mixed = chunk > 0
    # a decoder's new key and value count as cached
    prefill = rows(
        int(mixed.sum()), op="attention_prefill", batch=1.0, isl=chunk[mixed], past=past[mixed],
        n_decode=n[mixed], past_decode=np.where(n[mixed] > 0, kv[mixed] + 1, 0.0), **heads,
    )  # fmt: skip
    alone = ~mixed & (n > 0)
    decode = rows(
        int(alone.sum()), op="attention_decode", batch=n[alone], past=kv[alone] + 1, **heads
    )
    time = numbers(frame, "time_us")
    return joined([prefill, decode]), np.concatenate([time[mixed], time[alone]])
