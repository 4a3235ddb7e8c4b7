"""A diffusion model's stages as graphs: text encoders, a step of the denoiser, the VAE's decoder.

Units of the first are tokens of the longest text encoder, of the second all tokens of its requests
(latents and joined text, of each copy), of the third latents.
"""

from __future__ import annotations

from forerun.errors import ShapeError
from forerun.ops.attention import Attention
from forerun.ops.collectives import Collective
from forerun.ops.conv import Conv
from forerun.ops.elementwise import Elementwise, activation
from forerun.ops.graph import EMBED, HEAD, Axis, Graph, Op, Shape
from forerun.ops.matmul import Matmul
from forerun.spec.deployment import Pool
from forerun.spec.diffusion import Blocks, Diffusion, TextEncoder
from forerun.spec.model import Model

#: formats that weights of a denoiser can have; text encoders and VAE stay in 16 bits
FORMATS = ("bf16", "fp16", "fp8", "nvfp4", "int4_wo", "mxfp4")


def lower_denoiser(model: Model, pool: Pool, copies: int) -> Graph:
    """A step of the denoiser.

        block: norm, qkv, attention, out, norm, F, D     (time scales and shifts both norms)

    Tensor parallel as in a decoder: heads and F divided, a sum after each half of a block.
    Products of two streams are priced as one over all tokens, and the text's weights are read
    beside.  copies : how often a request stands in a batch (2 with guidance).
    Raises ShapeError for a layout in which denoisers are not described.
    """
    d = described(model)
    check_layout(model, pool, d.n_heads, "heads of the denoiser")
    dtype = pool.dtype or model.dtype
    if dtype not in FORMATS:
        what = f"a denoiser's weights in {dtype} are not described"
        raise ShapeError.one(f"deployment.{pool.name}.dtype", what, f"one of {', '.join(FORMATS)}")
    ops: list[Op] = []
    for group, run in enumerate(d.blocks):
        ops += _block(model, d, run, pool.tp, dtype, copies, group)
    D, channels = model.hidden, d.vae.latent_channels * d.patch**2

    def add(name: str, shape: Shape, axis: Axis = "tokens", group: int = EMBED) -> None:
        ops.append(Op(name, shape, axis, 1, 1, pool.tp, group, "other"))

    add("patches", Matmul(D, channels, "bf16"))
    add("text", Conv(D, d.text_dim, 1, float(copies * d.kept)), "seqs")
    add("time", Elementwise(0, 0, kernels=0, params=float(d.extra_params)), "seqs")
    add("last", Matmul(channels, D, "bf16"), "tokens", HEAD)
    return _graph(model, pool, ops, model.hidden, tuple(run.n for run in d.blocks))


def _block(
    model: Model, d: Diffusion, run: Blocks, tp: int, dtype: str, copies: int, group: int
) -> list[Op]:
    """The operators of a run of blocks."""
    D, F, W = model.hidden, run.inter // tp, d.n_heads * d.head_dim // tp
    a, ops = 2.0, []
    text = run.over == "text"
    every = float(copies * d.joined)

    def add(name: str, shape: Shape, count: float = 1, axis: Axis = "tokens") -> None:
        part = PART_OF.get(name.removeprefix("text."), "other")
        ops.append(Op(name, shape, axis, count * run.n, 1, tp, group, part))

    def product(name: str, n: int, k: int) -> None:
        if text:  # of all the text of a request, whatever its latents
            add(f"text.{name}", Conv(n, k, 1, every, dtype=dtype), axis="seqs")
            return
        add(name, Matmul(n, k, dtype))
        if run.streams == 2:
            add(f"text.{name}", Matmul(n, k, dtype), axis="seqs")

    halves = (1 if run.parallel else 2) + run.cross
    if not text:
        # normed, scaled and shifted; then times its gate, added
        add("norm", Elementwise(3 * D * a, 2 * D * a, 10.0 * D, kernels=2, params=D), halves)
        add("norm.qk", Elementwise(2 * W * a, 2 * W * a, 13.0 * W, kernels=2))
        shape = Attention(
            d.n_heads // tp, d.n_heads // tp, d.head_dim, d.head_dim, kv_bytes=a, math="bf16",
            kernels=1, causal=False, cached=False,
        )  # fmt: skip
        ops.append(Op("attention", shape, "decode", run.n, 1, tp, group, "attention"))
    product("qkv", 3 * W, D)
    product("out", D, W)
    if run.cross:
        add("cross.q", Matmul(W, D, dtype))
        add("cross.kv", Conv(2 * W, D, 1, float(copies * d.crossed), dtype=dtype), axis="seqs")
        shape = Attention(
            d.n_heads // tp, d.n_heads // tp, d.head_dim, d.head_dim, window=d.crossed, kv_bytes=a,
            math="bf16", kernels=1, causal=False, cached=False,
        )  # fmt: skip
        ops.append(Op("cross.attention", shape, "decode", run.n, 1, tp, group, "attention"))
        add("cross.out", Matmul(D, W, dtype))
    product("up", (2 if run.gated else 1) * F, D)
    if not text:
        add("act", activation(F, gated=run.gated, act_bytes=a))
    product("down", D, F)
    if tp > 1 and not text:
        add("all_reduce", Collective("all_reduce", tp, D * a), halves)
    if run.modulation:
        rank = run.modulation_rank or D
        add("modulation", Matmul(run.modulation * D, rank, "bf16"), run.streams, "seqs")
    return ops


def lower_text(model: Model, pool: Pool) -> Graph:
    """One step of all text encoders; each is as long as its own padding, rounded to a share of the
    longest.  Raises ShapeError for a layout in which they do not run."""
    d = described(model)
    ops: list[Op] = []
    for group, one in enumerate(d.text):
        check_layout(model, pool, one.n_heads, f"heads of {one.name}")
        ops += _encoder(one, pool.tp, max(1, round(d.read / one.length)), group)
    width = max(one.hidden for one in d.text)
    return _graph(model, pool, ops, width, tuple(one.n_layers for one in d.text))


def _encoder(one: TextEncoder, tp: int, split: int, group: int) -> list[Op]:
    """T5, CLIP or a decoder that is read as an encoder; every token is priced to see all."""
    D, F, H, a = one.hidden, one.inter // tp, one.head_dim, 2.0
    N, K = one.n_heads // tp, max(1, one.n_kv_heads // tp)
    ops: list[Op] = []

    def add(name: str, shape: Shape, count: float, axis: Axis = "tokens") -> None:
        ops.append(Op(f"{one.name}.{name}", shape, axis, count, split, tp, group, "other"))

    n = one.n_layers
    add("embedding", Elementwise(D * a, D * a, params=float(one.vocab * D // tp)), 1)
    add("norm", Elementwise(2 * D * a, 2 * D * a, 5.0 * D, params=D), 2 * n)
    add("qkv", Matmul((N + 2 * K) * H, D), n)
    shape = Attention(N, K, H, H, kernels=1, causal=False, cached=False)
    ops.append(Op(f"{one.name}.attention", shape, "decode", n, split, tp, group, "other"))
    add("out", Matmul(D, N * H), n)
    add("up", Matmul((2 if one.gated else 1) * F, D), n)
    add("act", activation(F, gated=one.gated), n)
    add("down", Matmul(D, F), n)
    if tp > 1:
        add("all_reduce", Collective("all_reduce", tp, D * a), 2 * n)
    return ops


def lower_vae(model: Model, pool: Pool) -> Graph:
    """The VAE's decoder on one device, whatever tp is; its units are latents.

        latents z -> widths[0];  block, attention, block;  level by level: residual blocks, then
        twice the sides (and frames);  last widths -> 3

    A residual block is twice (norm, SiLU, convolution), and a product where its width changes.
    """
    vae = described(model).vae
    ops: list[Op] = []
    a = 2.0

    def add(name: str, shape: Shape, count: float = 1) -> None:
        axis: Axis = "decode" if isinstance(shape, Attention) else "tokens"
        ops.append(Op(f"vae.{name}", shape, axis, count, 1, 1, 0, "other"))

    def residual(c_in: int, c_out: int, spread: float) -> None:
        for wide in (c_in, c_out):  # statistics, then normed and SiLU
            moved = spread * wide * a
            add("norm", Elementwise(2 * moved, moved, 10.0 * spread * wide, kernels=2))
        add("conv", Conv(c_out, c_in, vae.taps, spread))
        add("conv", Conv(c_out, c_out, vae.taps, spread))
        add("sum", Elementwise(2 * spread * c_out * a, spread * c_out * a, spread * c_out))
        if c_in != c_out:
            add("short", Conv(c_out, c_in, 1, spread))

    first = vae.widths[0]
    add("in", Conv(first, vae.latent_channels, vae.taps))
    residual(first, first, 1.0)
    if vae.attention:
        add("mid.qkv", Matmul(3 * first, first))
        add("mid.attention", Attention(1, 1, first, first, kernels=1, causal=False, cached=False))
        add("mid.out", Matmul(first, first))
    residual(first, first, 1.0)
    wide, spread = first, 1.0
    for level, c in enumerate(vae.widths):
        for _ in range(vae.blocks):
            residual(wide, c, spread)
            wide = c
        if level + 1 == len(vae.widths):
            break
        if vae.frames and vae.frames[level]:
            spread *= 2
            add("frames", Conv(2 * c, c, 3, spread / 2))
        spread *= 4
        wide = c // 2 if vae.halves else c
        add("up", Conv(wide, c, 9, spread, stride=4.0))
    add("norm", Elementwise(2 * spread * wide * a, spread * wide * a, kernels=2))
    add("pixels", Conv(3, wide, vae.taps, spread))
    alone = pool.model_copy(update={"tp": 1})
    return _graph(model, alone, ops, first, (1,))


def described(model: Model) -> Diffusion:
    """The model's stages.  Raises ShapeError for one that has none."""
    if model.diffusion is None:
        raise ShapeError.one(f"model.{model.name}", "is no diffusion model")
    return model.diffusion


def check_layout(model: Model, pool: Pool, n_heads: int, what: str) -> None:
    """Raises ShapeError for a layout other than tensor parallelism that divides the heads."""
    where = f"deployment.{pool.name}"
    if pool.pp * pool.dp * pool.cp * pool.ep > 1:
        said = "a diffusion model is divided by tensor parallelism only"
        raise ShapeError.one(where, said, "pp, dp, cp and ep 1")
    if n_heads % pool.tp:
        said = f"{n_heads} {what} cannot be divided by tp {pool.tp}"
        raise ShapeError.one(where, said, "a tp that divides them")


def weights_bytes(model: Model, pool: Pool, graph: Graph) -> float:
    """Bytes of a graph's weights on each device."""
    return sum(op.stored_bytes * op.count for op in graph.ops)


def _graph(model: Model, pool: Pool, ops: list[Op], hidden: int, layers: tuple[int, ...]) -> Graph:
    return Graph(
        model=model.name, ops=tuple(ops), hidden=hidden, vocab=0, tp=pool.tp, pp=1, dp=1, cp=1,
        ep=1, layers_of_group=layers, layers_per_stage=(sum(layers),), math="bf16", max_len=None,
        host_step_s=pool.engine.host_step_s, host_kernel_s=pool.engine.host_kernel_s,
        assumed=ASSUMED,
    )  # fmt: skip


#: products that adapters can change
PART_OF = {
    "qkv": "attention", "out": "attention", "cross.q": "attention", "cross.out": "attention",
    "up": "dense", "down": "dense",
}  # fmt: skip

#: what all graphs here take for granted
ASSUMED = (
    "attention among all tokens of an image is priced as a causal chunk of as many query-key "
    "pairs; convolutions by a roofline with estimated efficiencies; no measured diffusion model "
    "has been compared operator by operator",
)
