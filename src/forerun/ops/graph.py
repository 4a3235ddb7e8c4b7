"""`Op` and `Graph`: one replica's step as operators with the shapes one device sees."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from forerun.ops.attention import Attention
from forerun.ops.collectives import Collective
from forerun.ops.conv import Conv
from forerun.ops.elementwise import Elementwise
from forerun.ops.embedding import Embedding
from forerun.ops.matmul import Matmul
from forerun.ops.moe import Experts
from forerun.ops.sampling import Sampling
from forerun.ops.ssm import Scan

Shape = Embedding | Matmul | Attention | Experts | Elementwise | Scan | Sampling | Collective | Conv

#: what a step counts: tokens computed, sequences sampled, decoding requests, or prefill chunks
Axis = Literal["tokens", "seqs", "decode", "prefill"]

EMBED = -1  # `group` of what stands before the first layer
HEAD = -2  # and after the last


@dataclass(frozen=True)
class Op:
    """One operator, `count` times a step.

    The shape is what one device computes; `axis` says what drives it and `split` by how many the
    replica's units on that axis are divided first (attention-DP, context parallelism).  An
    `Attention` or `Scan` stands for two costs, its decode and its prefill; its axis is "decode",
    and `prefill` of the same shape prices the chunks.
    """

    name: str  # "qkv", "attention", "ffn.all_reduce"
    shape: Shape
    axis: Axis
    count: float  # over all layers of the replica, all pipeline stages
    split: int = 1
    devices: int = 1  # devices of a stage that run it at once
    group: int = 0  # index into the model's layer groups, or EMBED, HEAD
    part: str = "other"  # of the model, as in spec.params.PARTS
    load: float = 1.0  # units of the busiest device over the mean: for time, which waits for it

    @property
    def family(self) -> str:
        """The family's name: "matmul", "attention", "experts", "collective", ..."""
        return type(self.shape).__name__.lower()

    @property
    def dtype(self) -> str:
        """Format of its weights, or of its arithmetic where it has none."""
        shape = self.shape
        if isinstance(shape, Matmul | Experts | Conv):
            return shape.dtype
        return shape.math if isinstance(shape, Attention | Scan) else "bf16"

    @property
    def kernels(self) -> int:
        """Launches of one instance."""
        return getattr(self.shape, "kernels", 1)

    @property
    def stored_bytes(self) -> float:
        """Weights of one instance on one device."""
        return self.shape.stored_bytes


@dataclass(frozen=True)
class Graph:
    """The operators of one replica's step, for one device of it, and how the replica is laid out.

    Numbering of devices: tensor innermost, then context, attention-data, pipeline outermost.
    """

    model: str
    ops: tuple[Op, ...]
    hidden: int
    vocab: int
    tp: int
    pp: int
    dp: int
    cp: int
    ep: int
    layers_of_group: tuple[int, ...]
    layers_per_stage: tuple[int, ...]
    math: str  # format of the model's own arithmetic (what is not quantised)
    max_len: int | None
    host_step_s: float = 0.0
    host_kernel_s: float = 0.0
    host_seq_s: float = 0.0
    assumed: tuple[str, ...] = ()

    @property
    def n_devices(self) -> int:
        return self.tp * self.pp * self.dp * self.cp

    @property
    def stage_devices(self) -> int:
        return self.tp * self.dp * self.cp

    @property
    def kinks(self) -> tuple[int, ...]:
        """Contexts at which an attention layer stops reading more, ascending."""
        found = {k for op in self.ops if isinstance(op.shape, Attention) for k in op.shape.kinks}
        return tuple(sorted(found))

    def stages(self) -> list[list[tuple[int, int]]]:
        """For each pipeline stage, (layer group, layers of it), EMBED and HEAD included."""
        left = [[g, n] for g, n in enumerate(self.layers_of_group)]
        out: list[list[tuple[int, int]]] = []
        for stage, n in enumerate(self.layers_per_stage):
            here: list[tuple[int, int]] = [(EMBED, 1)] if stage == 0 else []
            while n and left:
                take = min(n, left[0][1])
                here.append((left[0][0], take))
                n -= take
                left[0][1] -= take
                if not left[0][1]:
                    left.pop(0)
            if stage == len(self.layers_per_stage) - 1:
                here.append((HEAD, 1))
            out.append(here)
        return out

    def params(self) -> float:
        """Parameters of one device of every stage together; the model's when tp = dp = cp = 1."""
        return sum(op.shape.params * op.count for op in self.ops if _owns(op))


def _owns(op: Op) -> bool:
    return getattr(op.shape, "stored", True)
