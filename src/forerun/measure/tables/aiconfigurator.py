"""Operator tables of ai-dynamo/aiconfigurator: `<system>/<engine>-<version>/*_perf.parquet`.

Latencies are in ms.  A table is one operator; what each column means was checked against the data
sheet: an H100 bf16 product of 16384 x 8192 x 8192 takes 3.11 ms (707 of 989 Tflop/s).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from forerun.cost.rows import Rows, rows
from forerun.measure.tables._checks import checked
from forerun.measure.tables._table import (
    Frame,
    Table,
    mapped,
    needed,
    numbers,
    only,
    table_of,
    texts,
)

ORIGIN = "ai-dynamo/aiconfigurator @095f58a, systems/data (arXiv 2601.06288)"
LICENCE = "Apache-2.0"

DTYPES = {
    "bfloat16": "bf16", "float16": "fp16", "half": "fp16", "fp8": "fp8", "fp8_block": "fp8_block",
    "int8_wo": "int8_wo", "int4_wo": "int4_wo", "nvfp4": "nvfp4", "w4a16_mxfp4": "mxfp4",
    "w4a8_mxfp4_mxfp8": "mxfp4", "w4afp8": "int4_wo", "int8": "int8", "float8": "fp8",
    "bf16": "bf16", "fp16": "fp16", "mxfp4": "mxfp4", "fp4": "nvfp4", "sq": "int8", "float": "fp32",
    "fp8_ootb": "fp8", "w4a8_mxfp4_mxfp8_trtllm": "mxfp4", "w4a16_mxfp4_cutlass": "mxfp4",
}  # fmt: skip
#: bytes an element of a message
ELEMENT = {"half": 2.0, "int8": 1.0, "bfloat16": 2.0, "float16": 2.0, "float": 4.0, "fp8": 1.0}
KINDS = {
    "all_gather": "all_gather", "all_reduce": "all_reduce", "alltoall": "all_to_all",
    "reduce_scatter": "reduce_scatter",
}  # fmt: skip


def recognises(path: Path) -> bool:
    """A folder with *_perf.parquet in it, or two levels below, or one such file."""
    if path.is_file():
        return path.name.endswith("_perf.parquet")
    return path.is_dir() and any(next(path.glob(p), None) for p in (
        "*_perf.parquet", "*/*_perf.parquet", "*/*/*_perf.parquet"
    ))  # fmt: skip


def read(path: Path) -> Iterator[Table]:
    """One table a file; files of operators that no family has yet are passed over."""
    path = path.absolute()  # the folders' names are the device and the runtime
    files = [path] if path.is_file() else sorted(path.rglob("*_perf.parquet"))
    for file in files:
        make = READERS.get(file.name.removesuffix("_perf.parquet"))
        if make is None:
            continue
        frame = table_of(file)
        needed(frame, ("latency",), file)
        system, runtime = file.parts[-3], file.parts[-2].replace("-", " ", 1)
        yield checked(
            make(frame, file, system, runtime), numbers(frame, "latency") * 1e-3,
            name="/".join(("aiconfigurator_ops", *file.parts[-3:-1], file.stem[: -len("_perf")])),
            origin=ORIGIN, licence=LICENCE, file=file, where=frame.place,
        )  # fmt: skip


def _dtype(frame: Frame, column: str, file: Path) -> np.ndarray:
    needed(frame, (column,), file)
    return mapped(texts(frame, column), DTYPES, f"{file} {column}")


def _element(frame: Frame, column: str, file: Path) -> np.ndarray:
    """Bytes an element, float64 [N]."""
    return mapped(texts(frame, column), ELEMENT, f"{file} {column}").astype(float)


def kernel(frame: Frame) -> np.ndarray:
    """The kernel's name, short and in lower case."""
    return np.array([
        t.lower().removeprefix("vllm_").removeprefix("moe_").removesuffix("kernel")
        for t in texts(frame, "kernel_source")
    ], dtype=object)  # fmt: skip


def _gemm(frame: Frame, file: Path, system: str, runtime: str) -> Rows:
    return rows(
        frame.height, op="gemm", device=system, runtime=runtime,
        dtype=_dtype(frame, "gemm_dtype", file), impl=kernel(frame),
        m=numbers(frame, "m"), n=numbers(frame, "n"), k=numbers(frame, "k"),
    )  # fmt: skip


def _attention(frame: Frame, file: Path, system: str, runtime: str) -> Rows:
    kind = only(frame, "op_name")
    heads = numbers(frame, "num_heads")
    common = dict(
        device=system, runtime=runtime, dtype=_dtype(frame, "attn_dtype", file),
        impl=kernel(frame), batch=numbers(frame, "batch_size"), n_heads=heads,
        head_dim=numbers(frame, "head_dim"),
    )  # fmt: skip
    if kind == "encoder_attention":
        return rows(
            frame.height, op="attention_prefill", isl=numbers(frame, "isl"), n_kv_heads=heads,
            past=0.0, causal=0.0, **common,
        )  # fmt: skip
    common |= dict(
        n_kv_heads=numbers(frame, "num_key_value_heads"), window=numbers(frame, "window_size"),
        kv_dtype=_dtype(frame, "kv_cache_dtype", file), past=numbers(frame, "step"),
    )  # fmt: skip
    if kind == "generation_attention":
        # `step` is the length of the cache before the new token, which counts as cached here
        common["past"] = numbers(frame, "step") + 1
        return rows(frame.height, op="attention_decode", **common)
    return rows(frame.height, op="attention_prefill", isl=numbers(frame, "isl"), **common)


#: widths of DeepSeek-V3's latent attention, which every table of it measures
MLA = dict(kv_lora_rank=512.0, rope_dim=64.0, head_dim=192.0, v_head_dim=128.0, q_lora_rank=1536.0)
MLA_HIDDEN = 7168.0


def _mla(frame: Frame, file: Path, system: str, runtime: str) -> Rows:
    """Kernels, or whole blocks with their products ("module"), which give `hidden`.

    A block's dtype is that of its weights; attention inside runs in 16 bits.  `step` of a block is
    the whole context, of a kernel the cache before the new token.
    """
    kind = only(frame, "op_name")
    decode, whole = "generation" in kind, "module" in kind
    return rows(
        frame.height, op="mla_decode" if decode else "mla_prefill", device=system, runtime=runtime,
        dtype=_dtype(frame, "gemm_type" if whole else "mla_dtype", file), impl=kernel(frame),
        kv_dtype=_dtype(frame, "kv_cache_dtype", file), batch=numbers(frame, "batch_size"),
        n_heads=numbers(frame, "num_heads"), isl=np.nan if decode else numbers(frame, "isl"),
        past=numbers(frame, "step") + (decode and not whole),
        hidden=MLA_HIDDEN if whole else np.nan, **MLA,
    )  # fmt: skip


def _moe(frame: Frame, file: Path, system: str, runtime: str) -> Rows:
    kernels = kernel(frame)
    return rows(
        frame.height, op="moe", device=system, runtime=runtime,
        dtype=_dtype(frame, "moe_dtype", file), impl=kernels,
        n_tokens=numbers(frame, "num_tokens"), hidden=numbers(frame, "hidden_size"),
        inter=numbers(frame, "inter_size"), topk=numbers(frame, "topk"),
        n_experts=numbers(frame, "num_experts"), moe_tp=numbers(frame, "moe_tp_size"),
        moe_ep=numbers(frame, "moe_ep_size"), distribution=texts(frame, "distribution"),
        gated=np.array([0.0 if "nongated" in k else 1.0 for k in kernels]),
    )  # fmt: skip


def _nccl(frame: Frame, file: Path, system: str, runtime: str) -> Rows:
    """message_size counts elements: the same count takes twice as long in half as in int8.

    Which buffer it is follows from the bandwidth.  NCCL on 8 H100 moves 512 MiB in 2.68 ms
    (all_reduce: 2*7/8*S/t = 351 GB/s), 1.40 ms (all_gather: 7/8*S/t = 336 GB/s) and 1.43 ms
    (reduce_scatter: 328 GB/s): the buffer of the contract each time.  oneCCL on 4 B60 takes 22 ms
    for reduce_scatter (18.3 GB/s) and 88 ms for all_gather, which is 18.3 GB/s only if the buffer
    is what one device contributes: there the whole is n times as large.
    """
    element = _element(frame, "nccl_dtype", file)
    op = mapped(texts(frame, "op_name"), KINDS, f"{file} op_name")
    library = np.array([k.lower() for k in texts(frame, "kernel_source")], dtype=object)
    n = numbers(frame, "num_gpus")
    contributed = (op == "all_gather") & (library == "oneccl")
    return rows(
        frame.height, op=op, device=system, runtime=runtime, impl=library, n_gpus=n,
        dtype=_dtype(frame, "nccl_dtype", file),
        bytes=numbers(frame, "message_size") * element * np.where(contributed, n, 1.0),
    )  # fmt: skip


def _custom(frame: Frame, file: Path, system: str, runtime: str) -> Rows:
    element = _element(frame, "allreduce_dtype", file)
    graphs = np.array([0.0 if "eager" in k else 1.0 for k in texts(frame, "kernel_source")])
    return rows(
        frame.height, op="all_reduce", device=system, runtime=runtime,
        dtype=_dtype(frame, "allreduce_dtype", file), impl="custom", graphs=graphs,
        n_gpus=numbers(frame, "num_gpus"), bytes=numbers(frame, "message_size") * element,
    )  # fmt: skip


def _quantise(frame: Frame, file: Path, system: str, runtime: str) -> Rows:
    k = numbers(frame, "k")
    kind = only(frame, "op_name")
    written = 0.0 * k if kind == "compute_scale" else k
    return rows(
        frame.height, op="quantise", device=system, runtime=runtime, dtype="bf16", impl=kind,
        n_tokens=numbers(frame, "m"), width=k, read_bytes=2 * k, write_bytes=written,
    )  # fmt: skip


def _bmm(frame: Frame, file: Path, system: str, runtime: str) -> Rows:
    """Absorbed projections of latent attention: [T, 128] x [128, 512] a head, and back."""
    before = np.array([name.endswith("pre") for name in texts(frame, "op_name")])
    return rows(
        frame.height, op="gemm", device=system, runtime=runtime, impl="bmm",
        dtype=_dtype(frame, "bmm_dtype", file), batch=numbers(frame, "num_heads"),
        m=numbers(frame, "num_tokens"), n=np.where(before, 512.0, 128.0),
        k=np.where(before, 128.0, 512.0),
    )  # fmt: skip


def _gdn(frame: Frame, file: Path, system: str, runtime: str) -> Rows:
    """Gated delta net, scan and short convolution apart.

    The convolution is over queries, keys and values, but in TensorRT-LLM's table over keys alone:
    its times there do not depend on the heads of values, 2.27 TB/s on keys at 32,768 tokens.
    States are of 32 bits in vLLM and SGLang, of 16 in TensorRT-LLM: 1,024 states of 16 heads take
    553 us there, 3.9 TB/s of an H100's 3.35 were they of 32.
    """
    trtllm = runtime.startswith("trtllm")
    keys, values = numbers(frame, "num_k_heads"), numbers(frame, "num_v_heads")
    key_dim, value_dim = numbers(frame, "head_k_dim"), numbers(frame, "head_v_dim")
    conv = _is_conv(frame)
    packed = keys * key_dim if trtllm else 2 * keys * key_dim + values * value_dim
    return rows(
        frame.height, op=np.where(conv, "conv1d", "gdn").astype(object), device=system,
        runtime=runtime, dtype="bf16", kv_dtype="bf16" if trtllm else "fp32",
        batch=numbers(frame, "batch_size"), head_dim=key_dim, v_head_dim=value_dim,
        n_heads=np.where(conv & trtllm, keys, values), n_kv_heads=keys,
        width=np.where(conv, packed, np.nan), k=numbers(frame, "d_conv"), **_phase(frame),
    )  # fmt: skip


def _mamba2(frame: Frame, file: Path, system: str, runtime: str) -> Rows:
    """Mamba-2, scan and short convolution over x, B and C apart."""
    heads, width = numbers(frame, "nheads"), numbers(frame, "head_dim")
    groups, state = numbers(frame, "n_groups"), numbers(frame, "d_state")
    conv = _is_conv(frame)
    return rows(
        frame.height, op=np.where(conv, "conv1d", "mamba2").astype(object), device=system,
        runtime=runtime, dtype="bf16", kv_dtype="", batch=numbers(frame, "batch_size"),
        n_heads=heads, n_kv_heads=groups, head_dim=state, v_head_dim=width,
        width=np.where(conv, heads * width + 2 * groups * state, np.nan),
        k=numbers(frame, "d_conv"), **_phase(frame),
    )  # fmt: skip


def _is_conv(frame: Frame) -> np.ndarray:
    return np.array(["conv1d" in k for k in kernel(frame)], dtype=bool)


def _phase(frame: Frame) -> dict[str, np.ndarray]:
    """Tokens a sequence, and which kernels: a chunk of one token is not a decode step."""
    decode = np.array([p == "generation" for p in texts(frame, "phase")])
    return {
        "isl": np.where(decode, 1.0, numbers(frame, "seq_len")),
        "impl": np.where(decode, "decode", "prefill").astype(object),
    }


READERS: dict[str, Callable[..., Rows]] = {
    "gemm": _gemm, "context_attention": _attention, "generation_attention": _attention,
    "encoder_attention": _attention, "context_mla": _mla, "generation_mla": _mla,
    "mla_context_module": _mla, "mla_generation_module": _mla, "moe": _moe, "nccl": _nccl,
    "oneccl": _nccl, "custom_allreduce": _custom, "computescale": _quantise,
    "scale_matrix": _quantise, "mla_bmm": _bmm, "gdn": _gdn, "mamba2": _mamba2,
}  # fmt: skip
