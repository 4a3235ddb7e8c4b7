"""`Diffusion`: a model that makes images or video by denoising latents step by step.

Text encoders turn a prompt into tokens; the denoiser, a transformer over patches of latents, is run
once a step; the decoder of an autoencoder (VAE) turns the last latents into pixels.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from forerun.errors import SpecError
from forerun.spec.base import Spec


class TextEncoder(Spec):
    """A transformer that reads the prompt once; its tokens are padded to `length`."""

    name: str
    n_layers: int = Field(ge=1)
    hidden: int = Field(ge=1)
    n_heads: int = Field(ge=1)
    n_kv_heads: int = Field(ge=1)
    head_dim: int = Field(ge=1)
    inter: int = Field(ge=1)
    gated: bool = False
    vocab: int = Field(ge=1)
    length: int = Field(ge=1)


class Blocks(Spec):
    """A run of equal transformer blocks of the denoiser.

    streams : 2 where text and latents have weights of their own and attend together (MMDiT).
    over    : the tokens that these blocks see.
    cross   : text is read by attention of its own, and is not among the tokens.
    modulation : vectors of the width that each stream of a block gets from the step's time, through
        a layer of `modulation_rank` inputs (the width when absent); 0 where one for all blocks is
        shared, which is counted in `Diffusion.extra_params`.
    """

    n: int = Field(ge=1)
    inter: int = Field(ge=1)
    gated: bool = False
    streams: Literal[1, 2] = 1
    over: Literal["all", "latents", "text"] = "all"
    cross: bool = False
    parallel: bool = False  # attention and feed-forward read the same input
    modulation: int = 6
    modulation_rank: int | None = None


class Vae(Spec):
    """The decoder of a convolutional autoencoder: residual blocks level by level, from the latents
    up; each level but the last doubles both sides, where `frames` says so also the frames."""

    latent_channels: int = Field(ge=1)
    widths: tuple[int, ...] = Field(
        min_length=1
    )  # channels of each level, that at the latents first
    blocks: int = Field(ge=1)  # residual blocks of a level
    taps: int = 9  # of a convolution: 9, or 27 in three dimensions
    frames: tuple[bool, ...] = ()  # which levels double the frames
    halves: bool = False  # doubling the sides halves the channels
    attention: bool = True  # among all latents, at the first level

    @property
    def spatial(self) -> int:
        """Pixels a latent stands for, along each side."""
        return 2 ** (len(self.widths) - 1)

    @property
    def temporal(self) -> int:
        """Frames a latent stands for, but the first one, which is alone."""
        return 2 ** sum(self.frames)


class Diffusion(Spec):
    """The stages of a diffusion model, and what its maker runs it with."""

    text: tuple[TextEncoder, ...]
    blocks: tuple[Blocks, ...]
    n_heads: int = Field(ge=1)
    head_dim: int = Field(ge=1)
    patch: int = 2  # latents joined into a token, along each side
    text_dim: int = Field(ge=1)  # of a text token as it enters the denoiser
    joined: int = Field(default=0, ge=0)  # text tokens among the denoiser's
    crossed: int = Field(default=0, ge=0)  # text tokens that it reads by attention of their own
    vae: Vae
    extra_params: int = Field(default=0, ge=0)
    steps: int = Field(ge=1)  # as the maker's example has it
    guided: bool  # each step runs twice, with and without the prompt (CFG)
    frames: int = Field(default=1, ge=1)  # of an answer

    @property
    def side(self) -> int:
        """Pixels of a token along each side."""
        return self.vae.spatial * self.patch

    def latents(self, width: int, height: int, frames: int = 1) -> int:
        """Tokens of an image or video: (w / side) (h / side) (1 + (frames - 1) / temporal).

        Raises SpecError for a size that is not whole tokens.
        """
        for name, n in (("width", width), ("height", height)):
            if n < 1 or n % self.side:
                near = max(1, round(n / self.side)) * self.side
                what = f"a {name} of {n} is not a multiple of {self.side} pixels, a token's side"
                raise SpecError.one("traffic.render.size", what, f"{near}")
        if frames < 1 or (frames - 1) % self.vae.temporal:
            k = self.vae.temporal
            near = round((frames - 1) / k) * k + 1
            what = f"{frames} frames are not one and a multiple of {k}"
            fix = f"{max(1, near)}" if k > 1 else "1"
            raise SpecError.one("traffic.render.frames", what, fix)
        stages = 1 + (frames - 1) // self.vae.temporal
        return (width // self.side) * (height // self.side) * stages

    def chunk(self, width: int, height: int, frames: int) -> int:
        """Tokens of a chunk of a stream, which goes on from the one before: (w / side) (h / side)
        frames / temporal.

        Raises SpecError for a size, or a number of frames, that is not whole tokens.
        """
        k = self.vae.temporal
        if frames % k:
            what = f"chunks of {frames} frames are not a multiple of {k}, those of a latent"
            near = max(1, round(frames / k)) * k
            raise SpecError.one("traffic.render.stream.frames", what, f"{near}")
        return self.latents(width, height) * frames // k

    def tokens(self, latents: int, copies: int) -> int:
        """What the denoiser computes in a step of a request: copies (latents + text)."""
        return copies * (latents + self.joined)

    @property
    def read(self) -> int:
        """Tokens of the longest text encoder."""
        return max(one.length for one in self.text)

    @property
    def kept(self) -> int:
        """Text tokens that the denoiser gets."""
        return self.joined or self.crossed
