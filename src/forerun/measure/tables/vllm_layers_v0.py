"""Layer profiles of casys-kaist/LLMServingSim, `profiler/v0/perf_models`: <device>/<maker>/<model>/
tp<N>/{layers,attention}.csv; nanoseconds, and milliseconds for attention.

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
from forerun.spec.model import Dense, Gqa, Model, Moe

ORIGIN = "casys-kaist/LLMServingSim @5daddb2, profiler/v0/perf_models"
LICENCE = "MIT"
RUNTIME = "llmservingsim"  # kernels alone, by the profiler


def recognises(path: Path) -> bool:
    """A folder above <device>/<maker>/<model>/tp<N>/layers.csv."""
    return path.is_dir() and bool(next(path.glob("*/*/*/tp*/layers.csv*"), None))


def read(path: Path) -> Iterator[Table]:
    """Projections and attention of every model; models that the catalog lacks are passed over."""
    for file in sorted(path.glob("*/*/*/tp*/layers.csv*")):
        device, _, name, tp = file.parts[-5:-1]
        if name.lower() not in catalog.models():
            continue
        common = dict(device=device, runtime=RUNTIME, dtype="bf16")
        model, place = catalog.model(name), "/".join(("vllm_layer_profiles_v0", *file.parts[-5:-1]))
        made, time_s = _layers(frame_of(file), file, model, int(tp[2:]), common)
        yield checked(made, time_s, name=f"{place}/layers", origin=ORIGIN, licence=LICENCE)
        beside = next(file.parent.glob("attention.csv*"), None)
        if beside:
            made, time_s = _attention(frame_of(beside), beside, common)
            yield checked(made, time_s, name=f"{place}/attention", origin=ORIGIN, licence=LICENCE)


def _layers(
    frame: Any, file: Path, model: Model, tp: int, common: dict[str, Any]
) -> tuple[Rows, np.ndarray]:
    """Products and element-wise operators at every count of tokens.  Norms and rotary positions of
    this profile were unfused PyTorch and are passed over: no engine runs them so."""
    needed(frame, ("layer_name", "input", "latency(ns)"), file)
    mixer, ffn = model.layers[0].mixer, model.layers[0].ffn
    assert isinstance(mixer, Gqa)
    D, H = float(model.hidden), mixer.head_dim
    N, K = mixer.n_heads / tp, mixer.n_kv_heads / tp
    F = ffn.inter / tp if isinstance(ffn, Dense | Moe) else np.nan
    products = {
        "q_proj": (N * H, D), "k_proj": (K * H, D), "v_proj": (K * H, D), "o_proj": (D, N * H),
        "gate_proj": (F, D), "up_proj": (F, D), "down_proj": (D, F), "expert.w1": (F, D),
        "expert.w3": (F, D), "expert.w2": (D, F), "lm_head": (model.vocab / tp, D),
    }  # fmt: skip
    layer, T = texts(frame, "layer_name"), numbers(frame, "input")
    time = numbers(frame, "latency(ns)") * 1e-9
    made, times = [], []
    for name, (n, k) in products.items():
        at = layer == name
        if at.any():
            made.append(rows(int(at.sum()), op="gemm", m=T[at], n=n, k=k, **common))
            times.append(time[at])
    return joined(made), np.concatenate(times)


def _attention(frame: Any, file: Path, common: dict[str, Any]) -> tuple[Rows, np.ndarray]:
    """Prefill chunks of one request.  Its decode rows are passed over: 64 requests of 5,376 cached
    tokens in 0.118 ms would read 12 TB/s from memory that has 0.77."""
    prefill = "time_stats.attn_prefill.median"
    needed(frame, (prefill, "n_embd", "n_q_head", "n_kv_head", "batch_size"), file)
    tp = numbers(frame, "num_tensor_parallel_workers")
    chunk, time = numbers(frame, "prefill_chunk_size"), numbers(frame, prefill)
    at = (chunk > 0) & ~np.isnan(time)
    H = numbers(frame, "n_embd") / numbers(frame, "n_q_head")
    made = rows(
        int(at.sum()), op="attention_prefill", batch=numbers(frame, "batch_size")[at],
        n_heads=(numbers(frame, "n_q_head") / tp)[at], head_dim=H[at], isl=chunk[at],
        n_kv_heads=(numbers(frame, "n_kv_head") / tp)[at],
        past=numbers(frame, "kv_cache_size")[at], **common,
    )  # fmt: skip
    return made, time[at] * 1e-3
