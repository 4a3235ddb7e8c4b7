"""ONNX graphs to be timed: one operator several times side by side, and a small transformer.

Side by side means: every copy has weights of its own, as the layers of a model have, and so it has
what a residual brings from the layers before.  All copies read the same activations: those of a
model were written just now.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

OPSET, IR = 20, 9
MICROSOFT = "com.microsoft"
_MICROSOFT = ("MultiHeadAttention", "SkipLayerNormalization")  # kinds that are not ONNX's own


@dataclass(frozen=True)
class Transformer:
    """An encoder of pre-norm layers on a fixed batch of sequences, fixed random weights."""

    batch: int
    seq: int
    hidden: int = 384
    n_heads: int = 6
    inter: int = 1536
    n_layers: int = 8
    seed: int = 0

    @property
    def weight_bytes(self) -> int:
        D, F = self.hidden, self.inter
        return 4 * self.n_layers * (4 * D * D + 2 * D * F + 9 * D + F)


@functools.cache
def noise(seed: int) -> np.ndarray:
    """A million random values, float32: weights and inputs repeat them."""
    return np.random.default_rng(seed).standard_normal(1 << 20, dtype=np.float32)


def values(shape: Sequence[int], seed: int = 0, first: int = 0) -> np.ndarray:
    """An array of noise from its `first` value on, a copy of its own."""
    some = noise(seed)[first : first + int(np.prod(shape))]
    return np.resize(some, shape)


class _Graph:
    """Nodes, weights and inputs as they are added."""

    def __init__(self, seed: int) -> None:
        self.nodes: list[Any] = []
        self.weights: list[Any] = []
        self._seed = seed
        self._n = 0

    def weight(self, name: str, *shape: int, scale: float = 1.0) -> str:
        """A weight of random values; values repeat after a million, memory does not."""
        from onnx import numpy_helper

        first = (self._n * 7919) % (len(noise(self._seed)) // 2)
        self._n += 1
        made = np.float32(scale) * values(shape, self._seed, first)
        self.weights.append(numpy_helper.from_array(made, name))
        return name

    def sizes(self, name: str, shape: list[int]) -> str:
        """A shape as a constant."""
        from onnx import numpy_helper

        self.weights.append(numpy_helper.from_array(np.array(shape, dtype=np.int64), name))
        return name

    def node(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        from onnx import helper

        domain = MICROSOFT if kind in _MICROSOFT else ""
        made = helper.make_node(
            kind, inputs, [output], name=output.removesuffix(".y"), domain=domain, **attributes
        )
        self.nodes.append(made)
        return output

    def model(self, inputs: Mapping[str, list[int]], outputs: Mapping[str, list[int]]) -> bytes:
        from onnx import TensorProto, helper

        def ports(shapes: Mapping[str, list[int]]) -> list[Any]:
            return [
                helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
                for name, shape in shapes.items()
            ]

        graph = helper.make_graph(self.nodes, "g", ports(inputs), ports(outputs), self.weights)
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(MICROSOFT, 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=IR).SerializeToString()


@dataclass(frozen=True, eq=False)
class Sided:
    """A graph of copies: its bytes, and the shapes of what goes in and out."""

    model: bytes
    inputs: Mapping[str, list[int]]
    outputs: Mapping[str, list[int]]
    copies: int


def side_by_side(row: Mapping[str, Any], copies: int) -> Sided:
    """`copies` nodes of one operator, fp32.

    row : the columns of `forerun predict ops`.  Raises KeyError for an op without a graph.
    """
    g = _Graph(0)
    inputs: dict[str, list[int]] = {}
    outputs: dict[str, list[int]] = {}
    for i in range(copies):
        names, shape = _copy(g, row, i)
        inputs |= names
        outputs[f"c{i}.y"] = shape
    return Sided(g.model(inputs, outputs), inputs, outputs, copies)


def _copy(g: _Graph, row: Mapping[str, Any], i: int) -> tuple[dict[str, list[int]], list[int]]:
    """One node; (its inputs, its output's shape)."""
    op, out = row["op"], f"c{i}.y"
    if op == "gemm":
        m, n, k = (int(row[name]) for name in ("m", "n", "k"))
        w = g.weight(f"w{i}", k, n, scale=k**-0.5)
        g.node("Gemm", ["x", w, g.weight(f"b{i}", n)], out)
        return {"x": [m, k]}, [m, n]
    if op == "attention_prefill":
        B, S, N, H = (int(row[name]) for name in ("batch", "isl", "n_heads", "head_dim"))
        causal = int(row.get("causal", 0))
        g.node("MultiHeadAttention", ["q", "k", "v"], out, num_heads=N, unidirectional=causal)
        return {name: [B, S, N * H] for name in "qkv"}, [B, S, N * H]
    rows, width = int(row["n_tokens"]), int(row["width"])
    shape = [rows, width]
    if op == "norm" and row.get("impl") == "skip":
        scale, shift = g.weight(f"g{i}", width), g.weight(f"b{i}", width)
        g.node("SkipLayerNormalization", ["x", f"z{i}", scale, shift], out, epsilon=1e-5)
        return {"x": shape, f"z{i}": shape}, shape
    if op == "norm":
        scale, shift = g.weight(f"g{i}", width), g.weight(f"b{i}", width)
        g.node("LayerNormalization", ["x", scale, shift], out, axis=-1)
    elif op == "add":
        g.node("Add", ["x", f"z{i}"], out)
        return {"x": shape, f"z{i}": shape}, shape
    else:
        g.node({"activation": "Gelu", "softmax": "Softmax"}[op], ["x"], out)
    return {"x": shape}, shape


def views(copies: int, with_views: bool) -> Sided:
    """A chain of small operators, with a view after each or without: what views cost."""
    g = _Graph(0)
    x, shape = "x0", [8, 16]
    for i in range(copies):
        x = g.node("Gelu", [x], f"c{i}.y")
        if with_views:
            shape = shape[::-1]
            x = g.node("Reshape", [x, g.sizes(f"s{i}", shape)], f"v{i}.y")
    return Sided(g.model({"x0": [8, 16]}, {x: shape}), {"x0": [8, 16]}, {x: shape}, copies)


def transformer(t: Transformer) -> bytes:
    """The encoder as an ONNX file: [batch, seq, hidden] in and out.

    x + O(attention(QKV(norm(x)))), then x + W2 gelu(W1 norm(x)), n_layers times, then a norm.
    """
    g = _Graph(t.seed)
    D = t.hidden

    def linear(x: str, name: str, k: int, n: int) -> str:
        y = g.node("MatMul", [x, g.weight(f"{name}.w", k, n, scale=k**-0.5)], f"{name}.y")
        return g.node("Add", [y, g.weight(f"{name}.b", n, scale=0.1)], f"{name}.bias.y")

    def norm(x: str, name: str) -> str:
        weights = [g.weight(f"{name}.g", D), g.weight(f"{name}.b", D)]
        return g.node("LayerNormalization", [x, *weights], f"{name}.y", axis=-1)

    x = "x"
    for i in range(t.n_layers):
        y = norm(x, f"{i}.norm1")
        heads = [linear(y, f"{i}.{part}", D, D) for part in ("query", "key", "value")]
        y = g.node("MultiHeadAttention", heads, f"{i}.attention.y", num_heads=t.n_heads)
        x = g.node("Add", [x, linear(y, f"{i}.out", D, D)], f"{i}.add1.y")
        y = linear(norm(x, f"{i}.norm2"), f"{i}.up", D, t.inter)
        y = g.node("Gelu", [y], f"{i}.gelu.y")
        x = g.node("Add", [x, linear(y, f"{i}.down", t.inter, D)], f"{i}.add2.y")
    last = norm(x, "norm")
    shape = [t.batch, t.seq, D]
    return g.model({"x": shape}, {last: shape})
