"""`Model`: an architecture as groups of equal layers, each a mixer and a feed-forward part.

Everything that computes can be derived from it: parameters, flop, bytes and KV size.  Readers for
files live beside it (`hf.py`, later `onnx.py`); the catalog holds ready ones.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from forerun.spec.base import Spec
from forerun.spec.diffusion import Diffusion
from forerun.spec.dtype import Dtype


class Gqa(Spec):
    """Multi-head, grouped-query or multi-query attention; full, windowed or chunked."""

    kind: Literal["gqa"] = "gqa"
    n_heads: int = Field(ge=1)
    n_kv_heads: int = Field(ge=1)
    head_dim: int = Field(ge=1)
    v_head_dim: int | None = None  # when keys and values differ in width
    window: int | None = None  # tokens a query can see; None sees all
    chunked: bool = False  # the window restarts every `window` tokens (Llama 4)
    bias: bool = False  # on q, k, v
    out_bias: bool = False
    qk_norm: bool = False
    qk_norm_params: int | None = None  # learned elements of those norms; None: 2 * head_dim
    gate: bool = False  # an output gate as wide as q (Qwen3-Next family)
    head_gate: bool = False  # an output gate with one number a head (Step)
    sinks: bool = False  # one learned logit a head (gpt-oss)
    rope: bool = True
    kv_shared: bool = False  # reuses an earlier layer's keys and values: no k, v, no KV cache
    k_is_v: bool = False  # one projection serves as both (Gemma 4 global layers)
    one_cache: bool = False  # a single cached vector is both key and value (DeepSeek V4)
    q_lora_rank: int | None = None  # queries through a narrow layer (DeepSeek V4)
    o_lora_rank: int | None = None  # output through a narrow layer, block-diagonal in `o_groups`
    o_groups: int = 1
    compress: int | None = None  # beside the window, one cached entry for this many tokens
    compress_overlap: bool = False  # each entry pools twice as many tokens (ratio 4 of DeepSeek V4)
    sparse_topk: int | None = None  # cached tokens (or compressed entries) a query reads at most
    sparse_block: int = 1  # neighbours selected together (MiniMax M3: 128)
    index_heads: int = 0  # indexer that selects them
    index_dim: int = 0  # width of the one index key cached a token (or compressed entry)


class Mla(Spec):
    """Multi-head latent attention (DeepSeek): one compressed vector a token is cached."""

    kind: Literal["mla"] = "mla"
    n_heads: int = Field(ge=1)
    q_lora_rank: int | None
    kv_lora_rank: int = Field(ge=1)
    nope_dim: int
    rope_dim: int
    v_head_dim: int
    sparse_topk: int | None = None  # DeepSeek sparse attention: cached tokens a query reads at most
    index_heads: int = 0
    index_dim: int = 0
    index_shared: bool = False  # reuses an earlier layer's selection: no indexer of its own
    gate: bool = False  # an output gate as wide as the heads (Kimi K3)
    rope: bool = True  # False: `rope_dim` elements are there and cached, but not rotated


class Linear(Spec):
    """A mixer with a state of fixed size: Mamba-2, gated delta net, lightning or Kimi attention."""

    kind: Literal["mamba2", "gdn", "lightning", "kda"]
    n_heads: int  # value heads
    n_k_heads: int  # key heads, or groups in Mamba-2
    k_dim: int  # key width of a head, or the state size in Mamba-2
    v_dim: int  # value width of a head
    conv: int = 0  # kernel of the short convolution, 0 for none
    conv_bias: bool = False
    gate_rank: int | None = None  # KDA: output gate through this width; None: full rank
    state_dtype_bytes: int = 4
    extra_params: int = 0  # a layer's further parameters (decay, gates, norms), when known exactly


class Dense(Spec):
    """A feed-forward layer."""

    kind: Literal["dense"] = "dense"
    inter: int = Field(ge=1)
    gated: bool = True
    bias: bool = False


class Moe(Spec):
    """A mixture of experts; widths are of one expert."""

    kind: Literal["moe"] = "moe"
    inter: int = Field(ge=1)
    n_experts: int = Field(ge=1)
    topk: int = Field(ge=1)
    gated: bool = True
    n_shared: int = 0
    shared_inter: int = 0  # width of all shared experts together
    shared_gate: bool = False  # a learned scalar gate on the shared expert
    router_bias: bool = False
    latent: int | None = None  # experts work in a narrower space (latent MoE)
    latent_norm: bool = False  # a norm in that space (Kimi K3)
    bias: bool = False
    dense_inter: int = 0  # a dense layer that runs beside the experts (Gemma 4)


Mixer = Annotated[Gqa | Mla | Linear, Field(discriminator="kind")]
FeedForward = Annotated[Dense | Moe, Field(discriminator="kind")]


class Layers(Spec):
    """A run of equal layers."""

    n: int = Field(ge=1)
    mixer: Mixer | None = None
    ffn: FeedForward | None = None
    norms: int = 2  # vectors of `hidden` a layer's norms hold
    parallel: bool = False  # mixer and feed-forward read the same input (Falcon, GPT-NeoX, Phi-2)
    extra_params: int = 0  # a layer's further parameters, when known exactly


class Vision(Spec):
    """The image encoder of a vision-language model."""

    n_layers: int
    hidden: int
    n_heads: int
    inter: int
    gated: bool = False
    patch: int
    merge: int = 1  # patches joined along each side before the decoder sees them
    params: int | None = None  # stated or counted; None when not known
    tokens_per_image: int | None = None
    image_size: int | None = None  # all images are resized to a square of this many pixels a side
    class_tokens: int = 0  # computed beside the patches, and dropped
    min_pixels: int | None = None  # native resolution, between these
    max_pixels: int | None = None
    frames: int = 1  # of a video that are joined into one (the temporal patch)
    window: int | None = None  # patches that a patch sees, but for `full_layers`; None: all
    full_layers: int = 0
    layers_run: int | None = None  # when the last layers' output is not used (LLaVA)
    projector: int | None = None  # width between its two layers; None: that of a joined square

    @property
    def patches_a_token(self) -> float:
        """Patches, class tokens included, that become one token of the decoder's prompt."""
        if self.image_size is None:
            return float(self.merge**2)
        patches = (self.image_size // self.patch) ** 2
        return (patches + self.class_tokens) / (self.tokens_per_image or patches // self.merge**2)


class Audio(Spec):
    """The audio encoder of a model: two convolutions over a spectrogram, then layers (Whisper)."""

    n_layers: int
    hidden: int
    n_heads: int
    inter: int
    mels: int = 128  # rows of the spectrogram, 100 columns a second
    window_s: float = 30.0  # computed at a time; shorter sound is padded to it
    rate: float = 50.0  # positions a second after the convolutions, the second of stride 2
    merge: int  # positions that become one token of the decoder's prompt ...
    pooled: bool = False  # ... as their mean; else side by side
    chunked: bool = False  # longer sound is several windows
    projector: tuple[int, ...] = ()  # widths between its layers; none: a single product
    params: int | None = None  # with the projector; None when not known

    @property
    def patches_a_token(self) -> float:
        return float(self.merge)


class Quantization(Spec):
    """What a checkpoint stores: formats by part."""

    weights: Dtype
    activations: Dtype
    kv: Dtype | None = None
    kept: tuple[str, ...] = ()  # parts left in the model's own dtype: "lm_head", "attention", ...
    by_part: tuple[tuple[str, Dtype], ...] = ()  # parts stored otherwise: (("experts", "mxfp4"),)
    method: str = ""


class Model(Spec):
    """An autoregressive decoder (with an encoder for images or sound, where it has one); or a
    diffusion model, whose `layers` are empty."""

    name: str
    hf_id: str | None = None
    family: str = ""  # model_type of the config
    hidden: int = Field(ge=1)
    vocab: int = Field(ge=1)
    layers: tuple[Layers, ...]
    tied_embeddings: bool = False
    learned_positions: int = 0  # rows of a learned position table (OPT, GPT-2)
    embed_dim: int | None = None  # width of the embedding when it differs (OPT-350M)
    max_len: int | None = None
    dtype: Dtype = "bf16"
    quantization: Quantization | None = None
    vision: Vision | None = None
    audio: Audio | None = None
    diffusion: Diffusion | None = None
    final_norms: int = 1  # vectors of `hidden` in the last norm (2 with a bias)
    mtp_layers: int = 0  # multi-token-prediction layers shipped beside the decoder, not counted
    extra_params: int = 0  # parameters outside the parts above, when known exactly
    published_params: float | None = None  # total, as the maker states
    published_active_params: float | None = None
    source: str
    assumed: tuple[str, ...] = ()  # sentences: what the reader did not know and took instead

    @property
    def n_layers(self) -> int:
        return sum(group.n for group in self.layers)

    @property
    def grouped(self) -> tuple[Layers, ...]:
        """The same layers with equal ones put together, whatever their order: for sums."""
        groups: list[Layers] = []
        counts: list[int] = []
        for run in self.layers:
            one = run.model_copy(update={"n": 1})
            if one in groups:
                counts[groups.index(one)] += run.n
            else:
                groups.append(one)
                counts.append(run.n)
        return tuple(g.model_copy(update={"n": n}) for g, n in zip(groups, counts, strict=True))
