"""The nodes of an ONNX graph, as onnxruntime runs it, as operators of `forerun predict ops`.

Graphs are read after onnxruntime's own optimisation, so that a node here is a kernel there.
Shapes are followed through the few kinds of nodes that encoders are made of.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from forerun.errors import SpecError
from forerun.measure.points import Row

Shape = tuple[int, ...]
#: nodes that rename memory and do nothing
VIEWS = ("Reshape", "Identity")
#: columns that tell one shape from another
SIZES = ("m", "n", "k", "batch", "isl", "n_heads", "head_dim", "n_tokens", "width")
_ROW_WISE = {
    "LayerNormalization": ("norm", ""), "SkipLayerNormalization": ("norm", "skip"),
    "Gelu": ("activation", ""), "Add": ("add", ""), "Softmax": ("softmax", ""),
}  # fmt: skip


@dataclass(frozen=True)
class Node:
    """One kernel; `row` is None for a view."""

    name: str
    kind: str
    row: Row | None


def shape_of(row: Row) -> tuple[str | int, ...]:
    """Operator, implementation and sizes: nodes that agree in them are repeats of one another."""
    sizes = (int(row[n]) if row.get(n) is not None else 0 for n in SIZES)
    return (str(row["op"]), str(row.get("impl", "")), *sizes)


def optimised(model: bytes, threads: int) -> bytes:
    """The graph that onnxruntime makes of a model, as it would run it on `threads` cores."""
    from forerun.measure.backends.onnxruntime_cpu import session

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "optimised.onnx"
        session(model, threads, optimized_model_filepath=str(path))
        return path.read_bytes()


def nodes_of(model: bytes) -> list[Node]:
    """Every node in the order it runs, fp32, shapes of inputs fixed.

    Raises SpecError that names all nodes whose kind is not known.
    """
    import onnx
    from onnx import numpy_helper

    graph = onnx.load_from_string(model).graph
    shapes: dict[str, Shape] = {
        port.name: tuple(d.dim_value for d in port.type.tensor_type.shape.dim)
        for port in graph.input
    }
    values: dict[str, np.ndarray] = {}
    for weight in graph.initializer:
        shapes[weight.name] = tuple(weight.dims)
        if weight.data_type == onnx.TensorProto.INT64:
            values[weight.name] = numpy_helper.to_array(weight)
    found, strange = [], set()
    for node in graph.node:
        given = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        try:
            shape, row = _read(node.op_type, [shapes[n] for n in node.input if n], given, [
                values.get(n) for n in node.input
            ])  # fmt: skip
        except KeyError:
            strange.add(node.op_type)
            continue
        for name in node.output:
            shapes[name] = shape
        found.append(Node(node.name, node.op_type, row))
    if strange:
        what = f"has nodes that are not read: {', '.join(sorted(strange))}"
        known = ("Gemm", "MatMul", "MultiHeadAttention", *_ROW_WISE, *VIEWS)
        raise SpecError.one("the model", what, "a graph of " + ", ".join(known))
    return found


def _read(
    kind: str, shapes: list[Shape], given: Mapping[str, Any], values: list[np.ndarray | None]
) -> tuple[Shape, Row | None]:
    """(shape of the result, operator).  Raises KeyError for a kind that is not known."""
    first = shapes[0]
    if kind in VIEWS:
        return _viewed(kind, first, values), None
    if kind in ("Gemm", "MatMul"):
        weight = shapes[1]
        if len(weight) != 2 or given.get("transA"):
            raise KeyError(kind)
        n, k = (weight[0], weight[1]) if given.get("transB") else (weight[1], weight[0])
        m = int(np.prod(first[:-1]))
        return (*first[:-1], n), {"op": "gemm", "dtype": "fp32", "m": m, "n": n, "k": k}
    if kind == "MultiHeadAttention":
        B, S, D = first
        heads = int(given["num_heads"])
        return first, {
            "op": "attention_prefill", "dtype": "fp32", "kv_dtype": "fp32", "batch": B, "isl": S,
            "n_heads": heads, "n_kv_heads": heads, "head_dim": D // heads,
            "causal": int(given.get("unidirectional", 0)),
        }  # fmt: skip
    op, impl = _ROW_WISE[kind]
    row: Row = {"op": op, "dtype": "fp32", "n_tokens": int(np.prod(first[:-1])), "width": first[-1]}
    return first, {**row, "impl": impl} if impl else row


def _viewed(kind: str, first: Shape, values: list[np.ndarray | None]) -> Shape:
    if kind == "Identity":
        return first
    wanted = values[1]
    if wanted is None:
        raise KeyError(kind)
    shape = [first[i] if d == 0 else int(d) for i, d in enumerate(wanted)]
    if -1 in shape:
        known = -int(np.prod(shape))
        shape[shape.index(-1)] = int(np.prod(first)) // known
    return tuple(shape)
