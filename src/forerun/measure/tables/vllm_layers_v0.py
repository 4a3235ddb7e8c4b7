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
from forerun.errors import SpecError
from forerun.measure.tables._checks import checked
from forerun.measure.tables._table import Frame, Table, needed, numbers, table_of, texts
from forerun.measure.tables.vllm_layers import degree
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
        device, _, name, _ = file.parts[-5:-1]
        if name.lower() not in catalog.models():
            continue
        common = dict(device=device, runtime=RUNTIME, dtype="bf16")
        model, place = catalog.model(name), "/".join(("vllm_layer_profiles_v0", *file.parts[-5:-1]))
        yield _layers(table_of(file), model, degree(file), common, f"{place}/layers")
        beside = next(file.parent.glob("attention.csv*"), None)
        if beside:
            yield _attention(table_of(beside), common, f"{place}/attention")


def _checked(made: Rows, time_s: np.ndarray, frame: Frame, at: np.ndarray, name: str) -> Table:
    """The rows at `at` of a file; the others are counted."""
    return checked(
        made, time_s, name=name, origin=ORIGIN, licence=LICENCE, file=frame.path,
        where=lambda i: frame.place(int(at[i])),
        passed_over={"of operators that no engine runs so": frame.height - len(at)},
    )  # fmt: skip


def _layers(frame: Frame, model: Model, tp: int, common: dict[str, Any], name: str) -> Table:
    """Products and element-wise operators at every count of tokens.  Norms and rotary positions of
    this profile were unfused PyTorch and are passed over: no engine runs them so."""
    needed(frame, ("layer_name", "input", "latency(ns)"), frame.path)
    mixer, ffn = model.layers[0].mixer, model.layers[0].ffn
    if not isinstance(mixer, Gqa):
        what = f"is of {model.name}, whose attention has no heads of keys"
        raise SpecError.one(str(frame.path), what, "a model with grouped-query attention")
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
    made, places = [], []
    for projection, (n, k) in products.items():
        at = np.flatnonzero(layer == projection)
        if len(at):
            made.append(rows(len(at), op="gemm", m=T[at], n=n, k=k, **common))
            places.append(at)
    if not made:
        known = ", ".join(products)
        raise SpecError.one(f"{frame.path} layer_name", "names no product", f"one of {known}")
    at = np.concatenate(places)
    return _checked(joined(made), time[at], frame, at, name)


def _attention(frame: Frame, common: dict[str, Any], name: str) -> Table:
    """Prefill chunks of one request.  Its decode rows are passed over: 64 requests of 5,376 cached
    tokens in 0.118 ms would read 12 TB/s from memory that has 0.77."""
    prefill = "time_stats.attn_prefill.median"
    needed(frame, (prefill, "n_embd", "n_q_head", "n_kv_head", "batch_size", "kv_cache_size",
                   "prefill_chunk_size", "num_tensor_parallel_workers"), frame.path)  # fmt: skip
    tp = numbers(frame, "num_tensor_parallel_workers")
    chunk, time = numbers(frame, "prefill_chunk_size"), numbers(frame, prefill)
    at = np.flatnonzero(chunk > 0)
    H = numbers(frame, "n_embd") / numbers(frame, "n_q_head")
    made = rows(
        len(at), op="attention_prefill", batch=numbers(frame, "batch_size")[at],
        n_heads=(numbers(frame, "n_q_head") / tp)[at], head_dim=H[at], isl=chunk[at],
        n_kv_heads=(numbers(frame, "n_kv_head") / tp)[at],
        past=numbers(frame, "kv_cache_size")[at], **common,
    )  # fmt: skip
    return _checked(made, time[at] * 1e-3, frame, at, name)
