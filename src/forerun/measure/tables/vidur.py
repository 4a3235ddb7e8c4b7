"""Profiles of microsoft/vidur, `data/profiling`: compute/<device>/<model>/mlp.csv and
network/<cluster>/*.csv; medians in ms of PyTorch operators, launch included."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from forerun.cost.rows import joined, rows
from forerun.errors import SpecError
from forerun.measure.tables._checks import checked
from forerun.measure.tables._table import Frame, Table, needed, numbers, only, table_of, texts

ORIGIN = "microsoft/vidur @7d47513, data/profiling (MLSys 2024)"
LICENCE = "MIT"
RUNTIME = "vidur"
#: what the folders' short names stand for
DEVICES = {"a100": "a100-sxm-80gb", "h100": "h100-sxm", "a40": "a40"}
#: and of clusters of cards that are bridged in pairs: only those for PCIe are (which H100, Vidur
#: does not say; NVL is the usual one)
CLUSTERS = {"a100_pairwise_nvlink": "a100-pcie-80gb", "h100_pairwise_nvlink": "h100-nvl"}
DTYPE = "fp16"  # Vidur profiles in fp16


def recognises(path: Path) -> bool:
    """The folder with compute/ or network/ of Vidur in it."""
    return path.is_dir() and bool(
        next(path.glob("compute/*/*/*/mlp.csv*"), None) or next(path.glob("network/*/*.csv*"), None)
    )


def read(path: Path) -> Iterator[Table]:
    """One table a file."""
    for file in sorted(path.glob("compute/*/*/*/mlp.csv*")):
        yield _linear(table_of(file), file)
    for file in sorted(path.glob("network/*/*.csv*")):
        yield _network(table_of(file), file)


def _device(folder: str) -> str:
    return DEVICES.get(folder.split("_")[0], folder.split("_")[0])


def _linear(frame: Frame, file: Path) -> Table:
    """Projections as products, the rest as row-wise operators, each at every count of tokens.

    head width = n_embd / n_head; heads and feed-forward width are divided by tensor parallelism.
    """
    needed(frame, ("n_head", "n_kv_head", "n_embd", "n_expanded_embd", "num_tokens",
                   "num_tensor_parallel_workers", "use_gated_mlp"), file)  # fmt: skip
    n_head, n_kv, D, F, T, tp = (
        numbers(frame, c) for c in ("n_head", "n_kv_head", "n_embd", "n_expanded_embd",
                                    "num_tokens", "num_tensor_parallel_workers")
    )  # fmt: skip
    H = D / n_head
    gated = np.array([1.0 if v.lower() == "true" else 0.0 for v in texts(frame, "use_gated_mlp")])
    products = {
        "attn_pre_proj": ((n_head + 2 * np.maximum(n_kv, tp)) * H / tp, D),
        "attn_post_proj": (D, n_head * H / tp),
        "mlp_up_proj": (F * (1 + gated) / tp, D),
        "mlp_down_proj": (D, F / tp),
    }
    q_k = (n_head + np.maximum(n_kv, tp)) * H / tp
    rowwise = {
        "input_layernorm": ("norm", D, 2 * D, 2 * D),
        "post_attention_layernorm": ("norm", D, 2 * D, 2 * D),
        "attn_rope": ("rope", q_k, 2 * q_k, 2 * q_k),
        "mlp_act": ("activation", F / tp, 2 * F * (1 + gated) / tp, 2 * F / tp),
        "add": ("add", D, 4 * D, 2 * D),
        "emb": ("embedding", D, 2 * D, 2 * D),
    }
    common = dict(device=_device(file.parts[-4]), runtime=RUNTIME, dtype=DTYPE)
    made, times = [], []
    for name, (n, k) in products.items():
        time = f"time_stats.{name}.median"
        if time in frame.columns:
            made.append(rows(frame.height, op="gemm", m=T, n=n, k=k, **common))
            times.append(numbers(frame, time))
    for name, (op, width, read_bytes, write_bytes) in rowwise.items():
        time = f"time_stats.{name}.median"
        if time in frame.columns:
            made.append(
                rows(frame.height, op=op, n_tokens=T, width=width, read_bytes=read_bytes,
                     write_bytes=write_bytes, impl=name, **common)
            )  # fmt: skip
            times.append(numbers(frame, time))
    if not made:
        raise SpecError.one(str(file), "lacks the medians (time_stats.<operator>.median)",
                            f"one of {', '.join((*products, *rowwise))}")  # fmt: skip
    return checked(
        joined(made), np.concatenate(times) * 1e-3, origin=ORIGIN, licence=LICENCE, file=file,
        name="vidur_profiles/" + "/".join(file.parts[-4:-1]),
        where=lambda i: frame.place(i % frame.height),  # an operator below the other
    )  # fmt: skip


def _network(frame: Frame, file: Path) -> Table:
    """Collectives of `size` bytes, on as many nodes as their devices need."""
    needed(frame, ("num_workers", "size", "devices_per_node", "collective"), file)
    op, cluster = only(frame, "collective"), file.parts[-2]
    workers, per_node = numbers(frame, "num_workers"), numbers(frame, "devices_per_node")
    made = rows(
        frame.height, op=op, device=CLUSTERS.get(cluster, _device(cluster)), runtime="nccl",
        dtype=DTYPE, impl="nccl", n_gpus=workers, n_nodes=np.ceil(workers / per_node),
        bytes=numbers(frame, "size"), graphs=0.0,
    )  # fmt: skip
    return checked(
        made, numbers(frame, f"time_stats.{op}.median") * 1e-3, origin=ORIGIN, licence=LICENCE,
        file=file, where=frame.place,
        name="vidur_profiles/" + "/".join(file.parts[-3:-1]) + "/" + file.name.split(".")[0],
    )  # fmt: skip
