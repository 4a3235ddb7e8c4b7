"""PyTorch, eager: on the first NVIDIA GPU in bf16, else on the processor in fp32.

On a GPU LAUNCHES operators are queued between two events, so that the time is that of the slower of
kernel and launch, as an eager program sees it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from forerun import catalog
from forerun.measure.backends import not_installed
from forerun.measure.points import KINDS

LAUNCHES = 10
SETS = 4  # of weights and inputs that take turns


def missing() -> str:
    return not_installed("torch", fix="pip install torch")


def has_gpu() -> bool:
    """Whether torch is here and sees a GPU."""
    if missing():
        return False
    import torch

    return bool(torch.cuda.is_available())


class TorchBench:
    """torch.nn.functional on tensors that are there."""

    def __init__(self, threads: int) -> None:
        import torch

        self.torch = torch
        self.on_gpu = has_gpu()
        self.device, self.where = "", "cpu"
        self.runtime = f"torch {torch.__version__.partition('+')[0]}"
        self.versions = f"torch {torch.__version__}"
        if self.on_gpu:
            self.where = "cuda"
            self.device = catalog.device(torch.cuda.get_device_name(0)).name
            self.versions += f", CUDA {torch.version.cuda}"
        else:
            torch.set_num_threads(threads)
        self.dtype = "bf16" if self.on_gpu else "fp32"
        self.format = torch.bfloat16 if self.on_gpu else torch.float32
        causal = int(self.on_gpu)  # language models run there, encoders here
        self.kinds = tuple(replace(kind, causal=causal) for kind in KINDS if not kind.impl)

    def prepare(self, row: Mapping[str, Any]) -> Callable[[], float]:
        runs = [self._operator(row) for _ in range(SETS)]
        return self._on_gpu(runs) if self.on_gpu else self._on_cpu(runs)

    def _values(self, *shape: int) -> Any:
        return self.torch.randn(*shape, device=self.where, dtype=self.format)

    def _operator(self, row: Mapping[str, Any]) -> Callable[[], Any]:
        F, op = self.torch.nn.functional, row["op"]
        if op == "gemm":
            m, n, k = (int(row[name]) for name in ("m", "n", "k"))
            x, w = self._values(m, k), self._values(n, k)
            return lambda: F.linear(x, w)
        if op == "attention_prefill":
            B, S, N, H = (int(row[name]) for name in ("batch", "isl", "n_heads", "head_dim"))
            q, k_, v = (self._values(B, N, S, H) for _ in range(3))
            causal = bool(row.get("causal", 1))
            return lambda: F.scaled_dot_product_attention(q, k_, v, is_causal=causal)
        rows, width = int(row["n_tokens"]), int(row["width"])
        x, y = self._values(rows, width), self._values(rows, width)
        scale = self._values(width)
        made: dict[str, Callable[[], Any]] = {
            "norm": lambda: F.layer_norm(x, (width,), scale, scale),
            "activation": lambda: F.gelu(x),
            "softmax": lambda: F.softmax(x, dim=-1),
            "add": lambda: x + y,
        }
        return made[str(op)]

    def _on_gpu(self, runs: list[Callable[[], Any]]) -> Callable[[], float]:
        cuda = self.torch.cuda

        def repeat() -> float:
            start, end = (cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            for i in range(LAUNCHES):
                runs[i % SETS]()
            end.record()
            cuda.synchronize()
            return 1e-3 * start.elapsed_time(end) / LAUNCHES

        return repeat

    def _on_cpu(self, runs: list[Callable[[], Any]]) -> Callable[[], float]:
        inference = self.torch.inference_mode

        def repeat() -> float:
            with inference():
                start = time.perf_counter()
                for run in runs:
                    run()
                return (time.perf_counter() - start) / len(runs)

        return repeat


def bench(threads: int) -> TorchBench:
    return TorchBench(threads)
