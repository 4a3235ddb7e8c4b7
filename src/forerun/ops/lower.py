"""`lower`: a model and a pool to the operators one device of a replica runs in a step."""

from __future__ import annotations

from dataclasses import replace

from forerun.errors import ShapeError
from forerun.ops.attention import Attention
from forerun.ops.check import check_layout
from forerun.ops.collectives import Collective
from forerun.ops.elementwise import Elementwise, norm
from forerun.ops.embedding import Embedding
from forerun.ops.graph import EMBED, HEAD, Axis, Graph, Op, Shape
from forerun.ops.layers import feed_forward, mixer
from forerun.ops.matmul import Matmul
from forerun.ops.precision import Formats, formats
from forerun.ops.sampling import Sampling
from forerun.spec.deployment import Pool
from forerun.spec.dtype import WEIGHT_BYTES
from forerun.spec.model import Dense, Gqa, Layers, Linear, Mixer, Model, Moe

#: of an encoder, unless requests show images
NOT_PRICED = "the encoder of images or sound takes memory; its compute is not priced"


def lower(model: Model, pool: Pool) -> Graph:
    """The graph of one replica's step.

    Tensor parallel: column then row split, one all-reduce after the mixer and one after the
    feed-forward part (one for both in parallel blocks); KV heads are repeated when tp exceeds
    them; the latent of MLA is kept on every device.  Attention-data parallel: attention and dense
    weights repeated, tokens divided evenly.  Experts: over `ep` devices, the rest of tp x dp x cp
    cuts each expert; tokens reach them by all-to-all when attention-DP divides them, else every
    device has them and one all-reduce adds up.  Context parallel: a sequence's tokens and cache
    divided.  Pipeline: consecutive layers a stage, activations sent between.

    Raises ShapeError with every reason a layout is impossible.
    """
    problems = check_layout(model, pool)
    if problems:
        raise ShapeError(*problems)
    f = formats(model, pool)
    ops: list[Op] = [*_before(model, pool, f)]
    for index, group in enumerate(model.layers):
        ops += _layer(model, pool, f, index, group)
    ops += _after(model, pool, f)
    return Graph(
        model=model.name, ops=tuple(op for op in ops if op.count),
        hidden=model.hidden, vocab=model.vocab, tp=pool.tp, pp=pool.pp, dp=pool.dp, cp=pool.cp,
        ep=pool.ep, layers_of_group=tuple(g.n for g in model.layers),
        layers_per_stage=stage_sizes(model.n_layers, pool.pp), math=f.base, max_len=model.max_len,
        host_step_s=pool.engine.host_step_s, host_seq_s=pool.engine.host_seq_s / pool.dp,
        host_kernel_s=pool.engine.host_kernel_s,
        assumed=(*model.assumed, *f.assumed, *_assumed(model, pool)),
    )  # fmt: skip


def stage_sizes(n_layers: int, pp: int) -> tuple[int, ...]:
    """Layers of each stage: even, the remainder one each to the first stages."""
    base, extra = divmod(n_layers, pp)
    return tuple(base + (i < extra) for i in range(pp))


def _assumed(model: Model, pool: Pool) -> list[str]:
    out = []
    if pool.dp > 1:
        out.append("attention-data parallelism splits tokens and sequences evenly over its groups")
    if pool.cp > 1:
        out.append("context parallelism splits each sequence's tokens and KV evenly")
    if any(isinstance(g.ffn, Moe) for g in model.layers):
        out.append(
            "tokens choose experts independently; the loads of a device's are " + pool.expert_loads
        )
    if any(isinstance(g.mixer, Gqa) and g.mixer.chunked for g in model.layers):
        out.append("chunked attention is priced as a sliding window: an upper bound, at most twice")
    if model.vision is not None or model.audio is not None:
        out.append(NOT_PRICED)
    if model.vision is not None and model.vision.params is None:
        out.append("the image encoder's size is not known: estimated from its shape")
    if model.mtp_layers:
        out.append("multi-token-prediction layers are neither run nor kept in memory")
    return out


def _before(model: Model, pool: Pool, f: Formats) -> list[Op]:
    """Embedding, learned positions, and what only takes memory."""
    W, split = pool.tp * pool.dp * pool.cp, pool.dp * pool.cp
    width = model.embed_dim or model.hidden
    stored = WEIGHT_BYTES[f.of("embedding")]

    def op(name: str, shape: Shape, part: str = "embedding") -> Op:
        return Op(name, shape, "tokens", 1, split=split, devices=W, group=EMBED, part=part)

    rows = -(-model.vocab // pool.tp)
    ops = [op("embedding", Embedding(rows, width, stored))]
    if pool.tp > 1:
        ops.append(
            op("embedding.all_reduce", Collective("all_reduce", pool.tp, width * f.act_bytes))
        )
    if model.learned_positions:
        table = Embedding(model.learned_positions, model.hidden, stored)
        ops.append(op("positions", table))
    if model.embed_dim and model.embed_dim != model.hidden:
        ops.append(op("embedding.project", Matmul(model.hidden, width, f.base, f.act_bytes)))
    beside = float(model.extra_params)
    if beside:
        ops.append(op("other", Elementwise(0, 0, kernels=0, params=beside), "other"))
    if model.vision is not None:
        params = vision_params(model) / pool.tp
        ops.append(op("vision", Elementwise(0, 0, kernels=0, params=params), "vision"))
    if model.audio is not None:
        params = audio_params(model) / pool.tp
        ops.append(op("audio", Elementwise(0, 0, kernels=0, params=params), "audio"))
    if pool.pp > 1:
        handed = 2 * model.hidden * f.act_bytes  # hidden state and residual, as vLLM sends them
        ops.append(
            Op("stage.send_recv", Collective("send_recv", pool.pp, handed, stride=W), "tokens",
               pool.pp - 1, split=split, devices=W, group=EMBED)
        )  # fmt: skip
    return ops


def audio_params(model: Model) -> float:
    """Parameters of the audio encoder; 0 where there is none."""
    if model.audio is None:
        return 0.0
    a = model.audio
    shape = a.n_layers * (4 * a.hidden**2 + 2 * a.hidden * a.inter)
    return float(a.params if a.params is not None else shape)


def vision_params(model: Model) -> float:
    """Parameters of the image encoder: stated, else 4 D^2 + (3 or 2) D F a layer and the patches.

    Raises ShapeError when the model has none.
    """
    v = model.vision
    if v is None:
        raise ShapeError.one(f"model.{model.name}", "has no image encoder")
    if v.params is not None:
        return float(v.params)
    layer = 4 * v.hidden**2 + (3 if v.gated else 2) * v.hidden * v.inter
    return float(v.n_layers * layer + 3 * v.patch**2 * v.hidden)


def _after(model: Model, pool: Pool, f: Formats) -> list[Op]:
    """Final norm, LM head on sampled sequences, gathering logits, sampling."""
    W = pool.tp * pool.dp * pool.cp
    width = model.embed_dim or model.hidden
    rows = -(-model.vocab // pool.tp)

    def op(name: str, shape: Shape, axis: Axis = "seqs", part: str = "lm_head") -> Op:
        return Op(name, shape, axis, 1, split=pool.dp, devices=W, group=HEAD, part=part)

    ops = [
        Op("norm.final", replace(norm(model.hidden, act_bytes=f.act_bytes),
           params=float(model.final_norms * model.hidden)), "tokens", 1,
           split=pool.dp * pool.cp, devices=W, group=HEAD, part="norms"),
    ]  # fmt: skip
    if model.embed_dim and model.embed_dim != model.hidden:
        ops.append(op("lm_head.project", Matmul(width, model.hidden, f.base, f.act_bytes)))
    # a tied head reads the embedding's table; on another pipeline stage it keeps its own copy
    own = not model.tied_embeddings or pool.pp > 1
    dtype = f.of("lm_head")
    ops.append(op("lm_head", Matmul(rows, width, dtype, f.act_bytes, stored=own)))
    if pool.tp > 1:
        gathered = model.vocab * f.act_bytes
        ops.append(op("logits.all_gather", Collective("all_gather", pool.tp, gathered)))
    ops.append(op("sampling", Sampling(model.vocab)))
    return ops


def part_of(name: str, mixer: Mixer) -> str:
    """The part of the model, as in spec.params.PARTS, that a mixer's operator belongs to."""
    if name.startswith("index."):
        return "indexer"
    return "linear_attention" if isinstance(mixer, Linear) else "attention"


def _layer(model: Model, pool: Pool, f: Formats, index: int, group: Layers) -> list[Op]:
    W, split = pool.tp * pool.dp * pool.cp, pool.dp * pool.cp
    ops: list[Op] = []

    def add(name: str, shape: Shape, part: str, *, axis: Axis = "tokens", split_: int = split,
            times: float = 1) -> None:  # fmt: skip
        ops.append(Op(name, shape, axis, group.n * times, split_, W, index, part))

    def reduce(name: str) -> None:
        if pool.tp > 1:
            shape = Collective("all_reduce", pool.tp, model.hidden * f.act_bytes)
            add(name, shape, "other")

    n_norms = group.norms
    if isinstance(group.mixer, Gqa) and group.mixer.out_bias:
        n_norms = -(-group.norms // 2)  # LayerNorm: a weight and a bias vector each
    if n_norms:
        each = norm(model.hidden, act_bytes=f.act_bytes)
        scale = group.norms / n_norms
        add("norm", Elementwise(each.read, each.write, each.flop, params=scale * each.params),
            "norms", times=n_norms)  # fmt: skip
    if group.extra_params:
        params = float(group.extra_params)
        add("other", Elementwise(0, 0, kernels=0, params=params), "other")
    if group.mixer is not None:
        for name, shape in mixer(model.hidden, group.mixer, pool.tp, pool.cp, f):
            sequential = not hasattr(shape, "decode")
            add(name, shape, part_of(name, group.mixer), axis="tokens" if sequential else "decode",
                split_=split if sequential else pool.dp)  # fmt: skip
            if isinstance(shape, Attention) and pool.cp > 1:
                width = shape.n_kv_heads * (shape.qk_dim + shape.v_dim) * f.act_bytes
                gather = Collective("all_gather", pool.cp, width, stride=pool.tp)
                add("context.all_gather", gather, "other", split_=pool.dp)
                # decode: partial outputs in fp32 with their softmax statistics
                merge = shape.n_heads * (shape.latent_v or shape.v_dim) * 4.0
                scatter = Collective("reduce_scatter", pool.cp, merge, stride=pool.tp)
                add("context.reduce_scatter", scatter, "other", axis="seqs", split_=pool.dp)
        if not (group.parallel and group.ffn is not None):
            reduce("mixer.all_reduce")
    if group.ffn is not None:
        for name, shape, part, everyone in feed_forward(model.hidden, group.ffn, pool, f):
            add(name, shape, part, split_=1 if everyone else split)
        if isinstance(group.ffn, Dense) or split == 1:
            reduce("ffn.all_reduce")
    return ops
