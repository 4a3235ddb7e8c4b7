"""`lower_encoder`: the encoder of a model's images or sound to the operators that one device runs
in a step."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

from forerun.errors import ShapeError
from forerun.ops.attention import Attention
from forerun.ops.collectives import Collective
from forerun.ops.elementwise import Elementwise, activation, norm, rope_and_cache
from forerun.ops.graph import EMBED, HEAD, Axis, Graph, Op, Shape
from forerun.ops.lower import audio_params, vision_params
from forerun.ops.matmul import Matmul
from forerun.spec.deployment import Pool
from forerun.spec.dtype import WEIGHT_BYTES, Dtype
from forerun.spec.model import Model

PART = "vision"

Add = Callable[..., None]


def lower_encoder(model: Model, pool: Pool) -> Graph:
    """The graph of one step of the encoder; its tokens are patches (of sound: positions after the
    convolutions, 20 ms each), its chunks whole items.

        patches P of 3 p^2 frames values -> D;  layers: norm, qkv, attention, out, norm, F, D
        projector on P / merge^2: D merge^2 -> D merge^2 (or the decoder's width) -> width

    Attention sees the whole item both ways, in windows but for `full_layers` where the encoder has
    them.  Tensor parallel as in a decoder.  Weights are never quantised.
    Raises ShapeError when the model has no encoder, or the pool is laid out as encoders are not.
    """
    part = model.vision or model.audio
    where = f"deployment.{pool.name}"
    if part is None:
        raise ShapeError.one(f"model.{model.name}", "has no image encoder, nor one of sound")
    kind = "image" if model.vision is not None else "audio"
    if pool.pp * pool.dp * pool.cp > 1:
        what = f"an {kind} encoder is divided by tensor parallelism only"
        raise ShapeError.one(where, what, "pp, dp and cp 1, or a pool with role: encode")
    if part.n_heads % pool.tp:
        what = f"{part.n_heads} heads of the {kind} encoder cannot be divided by tp {pool.tp}"
        raise ShapeError.one(where, what, "a tp that divides them")
    dtype: Dtype = model.dtype if model.dtype in ("bf16", "fp16", "fp32") else "bf16"
    ops: list[Op] = []

    def add(name: str, shape: Shape, count: float, group: int = 0, split: int = 1) -> None:
        axis: Axis = "decode" if isinstance(shape, Attention) else "tokens"
        ops.append(Op(f"{kind}.{name}", shape, axis, count, split, pool.tp, group, PART))

    if model.vision is not None:
        layers = _sees(model, pool.tp, dtype, add)
    else:
        layers = _hears(model, pool.tp, dtype, add)
    items = "images are computed item by item" if kind == "image" else "sound is padded to windows"
    return Graph(
        model=model.name, ops=tuple(ops), hidden=part.hidden, vocab=0, tp=pool.tp, pp=1, dp=1,
        cp=1, ep=1, layers_of_group=(layers,), layers_per_stage=(layers,), math=dtype, max_len=None,
        host_step_s=pool.engine.host_step_s, host_kernel_s=pool.engine.host_kernel_s,
        assumed=(
            f"encoders are computed in 16 bits; {items}: attention of an item is priced as a "
            "causal chunk of as many query-key pairs",
        ),
    )  # fmt: skip


def _sees(model: Model, tp: int, dtype: Dtype, add: Add) -> int:
    """The operators of an image encoder; returns its layers."""
    v = model.vision
    assert v is not None
    a, D, layers = WEIGHT_BYTES[dtype], v.hidden, v.layers_run or v.n_layers
    add("patches", Matmul(D, 3 * v.patch**2 * v.frames, dtype, a), 1, EMBED)
    full = layers if v.window is None else min(v.full_layers, layers)
    _layers(
        add, tp, dtype, D, v.n_heads, v.inter, layers, gated=v.gated,
        windows=((full, None), (layers - full, v.window)),
    )  # fmt: skip
    joined = max(1, round(v.patches_a_token))
    wide = D * v.merge**2
    middle = v.projector or wide
    add("projector.up", Matmul(middle // tp, wide, dtype, a), 1, HEAD, joined)
    add("projector.act", activation(middle // tp, gated=False, act_bytes=a), 1, HEAD, joined)
    add("projector.down", Matmul(model.hidden, middle // tp, dtype, a), 1, HEAD, joined)
    return layers


def _hears(model: Model, tp: int, dtype: Dtype, add: Add) -> int:
    """The operators of Whisper's encoder and a projector; returns its layers.

    two columns of mels a position: 2 (3 mels -> D), then 3 D -> D;  layers;  last norm
    on P / merge: D (their mean) or D merge -> widths of the projector -> width
    """
    s = model.audio
    assert s is not None
    a, D = WEIGHT_BYTES[dtype], s.hidden
    add("conv1", Matmul(D, 3 * s.mels, dtype, a, bias=True), 2, EMBED)
    add("conv2", Matmul(D, 3 * D, dtype, a, bias=True), 1, EMBED)
    _layers(
        add, tp, dtype, D, s.n_heads, s.inter, s.n_layers, gated=False,
        windows=((s.n_layers, None),), rope=False,
    )  # fmt: skip
    add("last_norm", _norm(D, a), 1, HEAD)
    ends = (D if s.pooled else D * s.merge, *s.projector, model.hidden)
    for k, (wide, narrow) in enumerate(pairwise(ends)):
        if k:
            add(f"projector.act{k}", activation(wide, gated=False, act_bytes=a), 1, HEAD, s.merge)
        add(f"projector.{k}", Matmul(narrow, wide, dtype, a), 1, HEAD, s.merge)
    return s.n_layers


def _norm(D: int, a: float) -> Elementwise:
    each = norm(D, act_bytes=a)
    return Elementwise(each.read, each.write, each.flop, params=D)


def _layers(
    add: Add, tp: int, dtype: Dtype, D: int, n_heads: int, F: int, layers: int, *, gated: bool,
    windows: tuple[tuple[int, int | None], ...], rope: bool = True,
) -> None:  # fmt: skip
    """Layers that see their whole item, or so many of them a window of it."""
    a, H, N = WEIGHT_BYTES[dtype], D // n_heads, n_heads // tp
    add("norm", _norm(D, a), 2 * layers)
    add("qkv", Matmul(3 * N * H, D, dtype, a, bias=True), layers)
    if rope:
        add("rope", rope_and_cache(N * H, N * H, 0, kv_bytes=0.0, act_bytes=a), layers)
    for count, window in windows:
        if count:
            shape = Attention(
                N, N, H, H, window=window, kv_bytes=a, math=dtype, kernels=1, causal=False,
                cached=False,
            )  # fmt: skip
            add("attention" if window is None else "attention.window", shape, count)
    add("out", Matmul(D, N * H, dtype, a, bias=True), layers)
    add("up", Matmul((2 if gated else 1) * F // tp, D, dtype, a), layers)
    add("act", activation(F // tp, gated=gated, act_bytes=a), layers)
    add("down", Matmul(D, F // tp, dtype, a), layers)
    if tp > 1:
        add("all_reduce", Collective("all_reduce", tp, D * a), 2 * layers)


def encoder_bytes(model: Model, tp: int) -> float:
    """Bytes of the encoder's weights on each of tp devices."""
    return 2.0 * (vision_params(model) if model.vision else audio_params(model)) / tp


def embedding_bytes(model: Model) -> float:
    """Bytes of a token's embedding, as it leaves the encoder: 2 D_model."""
    return 2.0 * model.hidden
