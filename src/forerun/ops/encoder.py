"""`lower_encoder`: the image encoder of a model to the operators that one device runs in a step."""

from __future__ import annotations

from forerun.errors import ShapeError
from forerun.ops.attention import Attention
from forerun.ops.collectives import Collective
from forerun.ops.elementwise import Elementwise, activation, norm, rope_and_cache
from forerun.ops.graph import EMBED, HEAD, Axis, Graph, Op, Shape
from forerun.ops.lower import vision_params
from forerun.ops.matmul import Matmul
from forerun.spec.deployment import Pool
from forerun.spec.dtype import WEIGHT_BYTES
from forerun.spec.model import Model

PART = "vision"


def lower_encoder(model: Model, pool: Pool) -> Graph:
    """The graph of one step of the encoder; its tokens are patches, its chunks whole items.

        patches P of 3 p^2 frames values -> D;  layers: norm, qkv, attention, out, norm, F, D
        projector on P / merge^2: D merge^2 -> D merge^2 (or the decoder's width) -> width

    Attention sees the whole item both ways, in windows but for `full_layers` where the encoder has
    them.  Tensor parallel as in a decoder.  Weights are never quantised.
    Raises ShapeError when the model has no encoder, or the pool is laid out as encoders are not.
    """
    v = model.vision
    where = f"deployment.{pool.name}"
    if v is None:
        raise ShapeError.one(f"model.{model.name}", "has no image encoder")
    if pool.pp * pool.dp * pool.cp > 1:
        what = "an image encoder is divided by tensor parallelism only"
        raise ShapeError.one(where, what, "pp, dp and cp 1, or a pool with role: encode")
    if v.n_heads % pool.tp:
        what = f"{v.n_heads} heads of the image encoder cannot be divided by tp {pool.tp}"
        raise ShapeError.one(where, what, "a tp that divides them")
    dtype = model.dtype if model.dtype in ("bf16", "fp16", "fp32") else "bf16"
    a, tp, D, layers = WEIGHT_BYTES[dtype], pool.tp, v.hidden, v.layers_run or v.n_layers
    H, F = D // v.n_heads, v.inter
    N = v.n_heads // tp
    ops: list[Op] = []

    def add(name: str, shape: Shape, count: float, group: int = 0, split: int = 1) -> None:
        axis: Axis = "decode" if isinstance(shape, Attention) else "tokens"
        ops.append(Op(f"vision.{name}", shape, axis, count, split, tp, group, PART))

    add("patches", Matmul(D, 3 * v.patch**2 * v.frames, dtype, a), 1, EMBED)
    full = layers if v.window is None else min(v.full_layers, layers)
    each = norm(D, act_bytes=a)
    add("norm", Elementwise(each.read, each.write, each.flop, params=D), 2 * layers)
    add("qkv", Matmul(3 * N * H, D, dtype, a, bias=True), layers)
    add("rope", rope_and_cache(N * H, N * H, 0, kv_bytes=0.0, act_bytes=a), layers)
    for count, window in ((full, None), (layers - full, v.window)):
        if count:
            shape = Attention(
                N, N, H, H, window=window, kv_bytes=a, math=dtype, kernels=1, causal=False,
                cached=False,
            )  # fmt: skip
            add("attention" if window is None else "attention.window", shape, count)
    add("out", Matmul(D, N * H, dtype, a, bias=True), layers)
    add("up", Matmul((2 if v.gated else 1) * F // tp, D, dtype, a), layers)
    add("act", activation(F // tp, gated=v.gated, act_bytes=a), layers)
    add("down", Matmul(D, F // tp, dtype, a), layers)
    if tp > 1:
        add("all_reduce", Collective("all_reduce", tp, D * a), 2 * layers)
    joined = max(1, round(v.patches_a_token))
    wide = D * v.merge**2
    middle = v.projector or wide
    add("projector.up", Matmul(middle // tp, wide, dtype, a), 1, HEAD, joined)
    add("projector.act", activation(middle // tp, gated=False, act_bytes=a), 1, HEAD, joined)
    add("projector.down", Matmul(model.hidden, middle // tp, dtype, a), 1, HEAD, joined)
    return Graph(
        model=model.name, ops=tuple(ops), hidden=D, vocab=0, tp=tp, pp=1, dp=1, cp=1, ep=1,
        layers_of_group=(layers,), layers_per_stage=(layers,), math=dtype, max_len=None,
        host_step_s=pool.engine.host_step_s, host_kernel_s=pool.engine.host_kernel_s,
        assumed=(
            "image encoders are computed in 16 bits, item by item: attention of an item is priced "
            "as a causal chunk of as many query-key pairs",
        ),
    )  # fmt: skip


def encoder_bytes(model: Model, tp: int) -> float:
    """Bytes of the encoder's weights on each of tp devices."""
    return 2.0 * vision_params(model) / tp


def embedding_bytes(model: Model) -> float:
    """Bytes of a token's embedding, as it leaves the encoder: 2 D_model."""
    return 2.0 * model.hidden
