"""Kernels measured for alibaba/InferSim, `bench_data`: gemm, mha, mla, grouped_gemm, gdn; in us.

The name of an attention file is heads-kv heads-width; of latent attention heads-rank-rope.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from forerun.cost.rows import Rows, joined, rows
from forerun.errors import SpecError
from forerun.measure.tables._checks import checked
from forerun.measure.tables._table import Frame, Table, needed, numbers, table_of, texts

ORIGIN = "alibaba/InferSim @f2293da, bench_data"
LICENCE = "Apache-2.0"
RUNTIME = "infersim"


def recognises(path: Path) -> bool:
    """The folder that holds gemm/<device>/data.csv and its kin."""
    return path.is_dir() and any(path.glob("gemm/*/data.csv*"))


def read(path: Path) -> Iterator[Table]:
    """One table a file."""
    for kind, make in READERS.items():
        for file in sorted(path.glob(f"{kind}/*/*.csv*")):
            frame = table_of(file)
            device = file.parent.name
            made, time_us = make(frame, file, device)
            place = _place(frame, made.n)
            yield checked(
                made, time_us * 1e-6, origin=ORIGIN, licence=LICENCE, file=file, where=place,
                name=f"infersim_kernels/{kind}/{device}/{file.name.split('.')[0]}",
            )  # fmt: skip


def _place(frame: Frame, n: int) -> Callable[[int], str]:
    """Where row i of n stands: of two operators a line, or of a file without a header."""
    begin = 2 if {"dtype", "m", "seq_len", "batchsize"} & set(frame.columns) else 1
    placed = Frame(frame.path, frame.data, begin)
    return lambda i: placed.place(i % frame.height if n % frame.height == 0 else i)


def _gemm(frame: Frame, file: Path, device: str) -> tuple[Rows, np.ndarray]:
    needed(frame, ("m", "n", "k", "latency_us"), file)
    made = rows(
        frame.height, op="gemm", device=device, runtime=RUNTIME, dtype="fp8_block",
        m=numbers(frame, "m"), n=numbers(frame, "n"), k=numbers(frame, "k"),
    )  # fmt: skip
    return made, numbers(frame, "latency_us")


def _header(frame: Frame) -> Frame:
    """Some files came without their header line; polars then took the first row for it."""
    if "dtype" in frame.columns:
        return frame
    import polars

    names = ("dtype", "kv_dtype", "batch_size", "kv_len", "latency_us", "mfu")
    if len(frame.columns) != len(names):
        needed(frame, names, frame.path)
    first = [name.split("_duplicated")[0] for name in frame.columns]
    first[1] = "bf16" if first[1].startswith("bf16") else first[1]
    top = polars.DataFrame({n: [v] for n, v in zip(names, first, strict=True)})
    rest = frame.data.rename(dict(zip(frame.columns, names, strict=True)))
    return Frame(frame.path, polars.concat([top, rest.cast(polars.String)]), begin=1)


def _decode(frame: Frame, file: Path, device: str) -> tuple[Rows, np.ndarray]:
    frame = _header(frame)
    heads, kv_heads, width = _name(file)
    made = rows(
        frame.height, op="attention_decode", device=device, runtime=RUNTIME,
        dtype=texts(frame, "dtype"), kv_dtype=texts(frame, "kv_dtype"), n_heads=heads,
        n_kv_heads=kv_heads, head_dim=width, batch=numbers(frame, "batch_size"),
        past=numbers(frame, "kv_len"),
    )  # fmt: skip
    return made, numbers(frame, "latency_us")


def _prefill(frame: Frame, file: Path, device: str) -> tuple[Rows, np.ndarray]:
    needed(frame, ("dtype", "seq_len", "latency_us"), file)
    heads, kv_heads, width = _name(file)
    made = rows(
        frame.height, op="attention_prefill", device=device, runtime=RUNTIME,
        dtype=texts(frame, "dtype"), n_heads=heads, n_kv_heads=kv_heads, head_dim=width,
        batch=1.0, isl=numbers(frame, "seq_len"), past=0.0,
    )  # fmt: skip
    return made, numbers(frame, "latency_us")


def _mla(frame: Frame, file: Path, device: str) -> tuple[Rows, np.ndarray]:
    heads, rank, rope = _name(file)
    made = rows(
        frame.height, op="mla_decode", device=device, runtime=RUNTIME,
        dtype=texts(frame, "dtype"), kv_dtype=texts(frame, "kv_dtype"), n_heads=heads,
        kv_lora_rank=rank, rope_dim=rope, head_dim=128.0 + rope, v_head_dim=128.0,
        batch=numbers(frame, "batch_size"), past=numbers(frame, "kv_len"),
    )  # fmt: skip
    return made, numbers(frame, "latency_us")


def _name(file: Path) -> tuple[float, float, float]:
    a, b, c = _sizes(file, 3, "heads-kv heads-width, or heads-rank-rope")
    return a, b, c


def _sizes(file: Path, count: int, what: str) -> tuple[float, ...]:
    """The numbers of a file's name.  Raises SpecError where it holds others."""
    parts = file.name.split(".")[0].split("-")
    if len(parts) != count or not all(part.isdigit() for part in parts):
        raise SpecError.one(str(file), "has a name that does not say its sizes", what)
    return tuple(float(part) for part in parts)


def _grouped(frame: Frame, file: Path, device: str) -> tuple[Rows, np.ndarray]:
    """Both grouped products of the experts of one device; every local expert gets the same rows.

    tokens a device * devices = tokens of the layer, of which each goes to topk experts.
    """
    per = "batch_size_per_gpu" if "batch_size_per_gpu" in frame.columns else "seq_len_per_gpu"
    needed(frame, (per, "num_gpus", "up_proj_us", "down_proj_us"), file)
    n_gpus = numbers(frame, "num_gpus")
    made = rows(
        frame.height, op="moe", device=device, runtime=RUNTIME, dtype="fp8_block", impl="grouped",
        n_tokens=numbers(frame, per) * n_gpus, hidden=numbers(frame, "hidden_size"),
        inter=numbers(frame, "intermediate_size"), topk=numbers(frame, "topk"),
        n_experts=numbers(frame, "num_experts"), moe_ep=n_gpus, moe_tp=1.0,
        distribution="balanced",
    )  # fmt: skip
    return made, numbers(frame, "up_proj_us") + numbers(frame, "down_proj_us")


def _gdn_decode(frame: Frame, file: Path, device: str) -> tuple[Rows, np.ndarray]:
    _, k_heads, k_dim, v_heads, v_dim = _gdn_name(file)
    common = dict(
        device=device, runtime=RUNTIME, dtype="bf16", impl="decode", n_heads=v_heads,
        n_kv_heads=k_heads, head_dim=k_dim, v_head_dim=v_dim, isl=1.0,
    )  # fmt: skip
    batch = numbers(frame, "batchsize")
    made = [rows(len(batch), op=op, batch=batch, **common) for op in ("conv1d", "gdn")]
    return joined(made), np.concatenate([numbers(frame, "conv"), numbers(frame, "gdn_update")])


def _gdn_prefill(frame: Frame, file: Path, device: str) -> tuple[Rows, np.ndarray]:
    _, k_heads, k_dim, v_heads, v_dim = _gdn_name(file)
    common = dict(
        device=device, runtime=RUNTIME, dtype="bf16", impl="prefill", n_heads=v_heads,
        n_kv_heads=k_heads, head_dim=k_dim, v_head_dim=v_dim, batch=1.0,
    )  # fmt: skip
    isl = numbers(frame, "seq_len")
    made = [rows(len(isl), op=op, isl=isl, **common) for op in ("conv1d", "gdn")]
    parts = [numbers(frame, name) for name in ("kkt", "tril", "wu", "chunk_gdn", "chunk_o")]
    return joined(made), np.concatenate([numbers(frame, "conv"), np.sum(parts, axis=0)])


def _gdn_name(file: Path) -> tuple[float, ...]:
    """conv width - key heads - key width - value heads - value width."""
    return _sizes(file, 5, "conv width-key heads-key width-value heads-value width")


READERS: dict[str, Callable[..., tuple[Rows, np.ndarray]]] = {
    "gemm": _gemm, "mha/decode": _decode, "mha/prefill": _prefill, "mla/decode": _mla,
    "grouped_gemm/decode": _grouped, "grouped_gemm/prefill": _grouped, "gdn/decode": _gdn_decode,
    "gdn/prefill": _gdn_prefill,
}  # fmt: skip
