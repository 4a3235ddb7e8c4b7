"""Layer profiles of vLLM 0.19 by casys-kaist/LLMServingSim, `profiler/perf`: <device>/<maker>/
<model>/<dtype>/tp<N>/{dense,per_sequence,attention}.csv; times in us of one layer's operators.

Widths come from the model's description in the catalog, divided by tensor parallelism.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from forerun import catalog
from forerun.cost.rows import Rows, joined, rows
from forerun.errors import SpecError
from forerun.measure.tables._checks import checked
from forerun.measure.tables._table import Frame, Table, needed, numbers, table_of, texts
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
        device, _, name, dtype, _ = file.parts[-6:-1]
        widths = _widths(catalog.model(name), degree(file), file)
        common = dict(device=device, runtime=RUNTIME, dtype=dtype)
        parts = [_dense(table_of(file), widths, common)]
        beside = next(file.parent.glob("per_sequence.csv*"), None)
        if beside:
            parts.append(_per_sequence(table_of(beside), widths, common))
        place = "/".join(("vllm_layer_profiles", *file.parts[-6:-1]))
        yield _checked(parts, f"{place}/dense")
        beside = next(file.parent.glob("attention.csv*"), None)
        if beside:
            yield _checked([_attention(table_of(beside), widths, common)], f"{place}/attention")


@dataclass(frozen=True, eq=False)
class Part:
    """Rows of one file, and the lines they stand on."""

    rows: Rows
    time_us: np.ndarray  # float64 [N]
    frame: Frame
    at: np.ndarray  # int [N], rows of the frame
    passed_over: int = 0  # rows of layers that nothing here knows


def _checked(parts: Sequence[Part], name: str) -> Table:
    """The table of several files, beneath each other."""
    places = [(part.frame, int(i)) for part in parts for i in part.at]

    def where(i: int) -> str:
        frame, row = places[i]
        return frame.place(row)

    return checked(
        joined([p.rows for p in parts]), np.concatenate([p.time_us for p in parts]) * 1e-6,
        name=name, origin=ORIGIN, licence=LICENCE, file=parts[0].frame.path, where=where,
        passed_over={"of layers that are not known here": sum(p.passed_over for p in parts)},
    )  # fmt: skip


def degree(file: Path) -> int:
    """Tensor parallelism by the folder of a file, "tp4".  Raises SpecError for another name."""
    digits = file.parent.name.removeprefix("tp")
    if not digits.isdigit() or digits == "0":
        raise SpecError.one(str(file.parent), "is no degree of tensor parallelism", "tp1, tp2 ...")
    return int(digits)


@dataclass(frozen=True)
class Widths:
    """Of one device in the first layer group of a model."""

    heads: float
    kv_heads: float
    head_dim: float
    inter: float  # NaN of experts
    hidden: float
    vocab: float
    tp: int


def _widths(model: Model, tp: int, file: Path) -> Widths:
    """What a model's description gives.  Raises SpecError for latent attention and state spaces."""
    mixer, ffn = model.layers[0].mixer, model.layers[0].ffn
    if not isinstance(mixer, Gqa):
        what = f"is of {model.name}, whose attention has no heads of keys"
        raise SpecError.one(str(file), what, "a model with grouped-query attention")
    inter = ffn.inter / tp if isinstance(ffn, Dense) else np.nan
    return Widths(
        mixer.n_heads / tp, max(1.0, mixer.n_kv_heads / tp), mixer.head_dim, inter,
        float(model.hidden), float(model.vocab), tp,
    )  # fmt: skip


def _dense(frame: Frame, w: Widths, common: dict[str, Any]) -> Part:
    needed(frame, ("layer", "tokens", "time_us"), frame.path)
    N, K, H, F, D = w.heads, w.kv_heads, w.head_dim, w.inter, w.hidden
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


def _per_sequence(frame: Frame, w: Widths, common: dict[str, Any]) -> Part:
    needed(frame, ("layer", "sequences", "time_us"), frame.path)
    V, D = w.vocab, w.hidden
    rowwise = {"sampler": ("sampling", V, 14 * V, 16 * V)}
    return _split(frame, "sequences", {"lm_head": (V / w.tp, D)}, rowwise, common)


def _split(
    frame: Frame, axis: str, products: dict[str, tuple[float, float]],
    rowwise: dict[str, tuple[str, float, float, float]], common: dict[str, Any],
) -> Part:  # fmt: skip
    """The rows of every layer that is known.  Raises SpecError where none is."""
    layer, n, time = texts(frame, "layer"), numbers(frame, axis), numbers(frame, "time_us")
    made, places = [], []
    for name in sorted(set(layer) & {*products, *rowwise}):
        at = np.flatnonzero(layer == name)
        if name in products:
            columns = dict(op="gemm", m=n[at], n=products[name][0], k=products[name][1])
        else:
            op, width, read, write = rowwise[name]
            columns = dict(
                op=op, n_tokens=n[at], width=width, read_bytes=read, write_bytes=write, impl=name
            )
        made.append(rows(len(at), **columns, **common))
        places.append(at)
    if not made:
        known = ", ".join((*products, *rowwise))
        raise SpecError.one(f"{frame.path} layer", "names no layer that is known", known)
    at = np.concatenate(places)
    return Part(joined(made), time[at], frame, at, frame.height - len(at))


def _attention(frame: Frame, w: Widths, common: dict[str, Any]) -> Part:
    """Kernels of one prefill chunk, of decoders, or of both at once (`n_decode`, `past_decode`)."""
    needed(frame, ("prefill_chunk", "kv_prefill", "n_decode", "kv_decode", "time_us"), frame.path)
    chunk, past, n, kv = (
        numbers(frame, c) for c in ("prefill_chunk", "kv_prefill", "n_decode", "kv_decode")
    )
    heads = dict(n_heads=w.heads, n_kv_heads=w.kv_heads, head_dim=w.head_dim, **common)
    mixed = np.flatnonzero(chunk > 0)
    # a decoder's new key and value count as cached
    prefill = rows(
        len(mixed), op="attention_prefill", batch=1.0, isl=chunk[mixed], past=past[mixed],
        n_decode=n[mixed], past_decode=np.where(n[mixed] > 0, kv[mixed] + 1, 0.0), **heads,
    )  # fmt: skip
    alone = np.flatnonzero(~(chunk > 0))  # without decoders it is a size that cannot be
    decode = rows(len(alone), op="attention_decode", batch=n[alone], past=kv[alone] + 1, **heads)
    at = np.concatenate([mixed, alone])
    return Part(joined([prefill, decode]), numbers(frame, "time_us")[at], frame, at)
