"""PyTorch, eager: on the first GPU it sees in bf16 (fp16 where that has none), else on the
processor in fp32."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from forerun import catalog
from forerun.measure.backends import not_installed
from forerun.measure.backends._gpu import SETS, between_events, format_of, n_weights, told
from forerun.measure.points import KINDS

#: what torch calls the formats, and bytes of an element
TORCH_NAMES = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}
BYTES = {"bf16": 2, "fp16": 2, "fp32": 4}


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
        self.device, self.where, self.dtype, self.sheet = "", "cpu", "fp32", None
        self.runtime = f"torch {torch.__version__.partition('+')[0]}"
        self.versions = f"torch {torch.__version__}"
        if self.on_gpu:
            self.where = "cuda"
            self.sheet = catalog.device(torch.cuda.get_device_name(0))
            self.device, self.dtype = self.sheet.name, format_of(self.sheet)
            hip = getattr(torch.version, "hip", None)
            self.versions += f", HIP {hip}" if hip else f", CUDA {torch.version.cuda}"
        else:
            torch.set_num_threads(threads)
        self.format = getattr(torch, TORCH_NAMES[self.dtype])
        causal = int(self.on_gpu)  # language models run there, encoders here
        self.kinds = tuple(replace(kind, causal=causal) for kind in KINDS if not kind.impl)

    def prepare(self, row: Mapping[str, Any]) -> Callable[[], float]:
        if not self.on_gpu:
            return self._on_cpu(self._operators(row))
        with told(f"{self.runtime}: {row['op']}", RuntimeError):
            return self._on_gpu(str(row["op"]), self._operators(row))

    def _values(self, *shape: int) -> Any:
        return self.torch.randn(*shape, device=self.where, dtype=self.format)

    def _operators(self, row: Mapping[str, Any]) -> list[Callable[[], Any]]:
        """The operator on several sets of operands: of a product, of weights beside one input,
        which in a model was written a moment ago."""
        if row["op"] == "gemm":
            F = self.torch.nn.functional
            m, n, k = (int(row[name]) for name in ("m", "n", "k"))
            sets = n_weights(n * k * BYTES[self.dtype], self.sheet) if self.sheet else SETS
            x = self._values(m, k)
            weights = [self._values(n, k) for _ in range(sets)]
            return [functools.partial(F.linear, x, w) for w in weights]
        return [self._operator(row) for _ in range(SETS)]

    def _operator(self, row: Mapping[str, Any]) -> Callable[[], Any]:
        F, op = self.torch.nn.functional, row["op"]
        if op == "attention_prefill":
            B, S, N, H = (int(row[name]) for name in ("batch", "isl", "n_heads", "head_dim"))
            q, k, v = (self._values(B, N, S, H) for _ in range(3))
            causal = bool(row.get("causal", 1))
            return lambda: F.scaled_dot_product_attention(q, k, v, is_causal=causal)
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

    def _on_gpu(self, op: str, runs: list[Callable[[], Any]]) -> Callable[[], float]:
        cuda, inference = self.torch.cuda, self.torch.inference_mode

        def repeat() -> float:
            with told(f"{self.runtime}: {op}", RuntimeError), inference():
                return between_events(
                    runs, lambda: cuda.Event(enable_timing=True),
                    lambda start, end: start.elapsed_time(end), lambda end: end.synchronize(),
                )  # fmt: skip

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
